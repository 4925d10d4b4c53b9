"""How a phrase is spelled, as a vector: words that differ by a typo share most of their pieces of letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast
from zlib import crc32

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoint.encoders.beside import beside, has_beside
from counterpoint.encoders.text import TextEncoder

CHARACTERS = "characters"  # the part beside an encoder, and its file
PIECES = (2, 3)  # letters of a piece
ROWS = 2**14  # of the table; pieces that fall on one row share it
INNER = 128  # width of the table


def pieces(text: str) -> list[int]:
    """The rows of a text's pieces: two and three letters beside each other, within words, ends included.

    >>> len(pieces("cat")), pieces("cat") == pieces("Cat "), set(pieces("cats")) > set(pieces("dog"))
    (7, True, False)
    """
    found = []
    for word in text.lower().split():
        whole = f"<{word}>"
        found += [whole[i : i + size] for size in PIECES for i in range(len(whole) - size + 1)]
    return [crc32(piece.encode("utf-8", "surrogatepass")) % ROWS for piece in found]


class Characters(nn.Module):
    """A vector of how a text is spelled: the mean over its pieces of letters, and a layer.

    Args:
        width: of the vector.

    References:
        Bojanowski et al. 2017, arXiv:1607.04606 (hashed pieces of letters).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(ROWS, INNER, mode="mean")
        self.fusion = nn.Linear(INNER, width)

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """The vectors of texts; one without a letter is that of nothing."""
        rows = [pieces(text) for text in texts]
        starts = torch.tensor([0, *(len(row) for row in rows[:-1])], dtype=torch.int64).cumsum(0)[: len(rows)]
        flat = torch.tensor([i for row in rows for i in row], dtype=torch.int64)
        device = self.fusion.weight.device
        return self.fusion(self.table(flat.to(device), starts.to(device)))


def characters_of(encoder: TextEncoder, width: int | None = None) -> Characters:
    """The spelling part of an encoder: the one that it was saved with, else a new one.

    Args:
        encoder: what it stands beside; `folder.save` writes it too.
        width: of a new one; None: a quarter of the encoder's.
    """

    def make(stored: Mapping[str, Tensor]) -> nn.Module:
        return Characters(len(stored["fusion.weight"]) if stored else (width or max(1, encoder.width // 4)))

    return cast(Characters, beside(encoder, CHARACTERS, make))


def embed_phrases(encoder: TextEncoder, texts: Sequence[str], role: str = "anchor") -> Float[Tensor, "n d"]:
    """The embeddings of phrases: what the encoder makes of their words, and beside it how they are spelled.

    Args:
        encoder: a model; where `pearl` trained none beside it, there is no spelling.
        texts: n phrases.
        role: which prompt and length.

    References:
        Chen et al. 2024, arXiv:2401.10407.
    """
    words = encoder(texts, role)
    if not has_beside(encoder, CHARACTERS):
        return words
    return torch.cat([words, characters_of(encoder)(texts).float()], -1)
