"""Sparse codes: a few large coordinates out of many stand for an embedding, and a tied decoder writes it back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from counterpoint._ops.processes import all_max
from counterpoint.errors import Refusal
from counterpoint.papers import paper

if TYPE_CHECKING:
    from counterpoint.encoders.text import TextEncoder

FILE = "codes.safetensors"  # of a head that was trained here, beside the model
LEAST = 1e-5  # above it a unit counts as used, as in the authors' code


@paper(row=132)
class SparseCode(nn.Module):
    """The k largest of many units, where they are above 0; decoded by the transposed weights.

        code(x) = relu( top_k( W (x - b) + c ) ),          decode(code) = W^T code + b

    Units that have not been used for long are dead; `facts` has what they alone could add, and `observe` counts.

    Args:
        width: d, of the embeddings.
        units: u, of the code; 4 d in the paper.
        k: units of a code that may be above 0, from 1 to u.
        dead: steps after which an unused unit is dead.
        dead_k: dead units that a row's rest is written with, from 1 to u.

    Raises:
        ValueError: for numbers of units out of range.

    Differs:
        The authors count passes and not steps, three a step, before the pass reads the counts, and each device for
        itself; here `observe` counts once a step over all processes, after the step.

    Relations:
        With k = u, orthonormal W, no biases and codes above 0 it decodes exactly. Any prefix of the largest units of a
        code is the code of a smaller k.

    References:
        Wen et al. 2025, arXiv:2503.01776; github.com/neilwen987/CSR_Adaptive_Rep, Vision/model_zoo.py; the dead units:
        Gao et al. 2024, arXiv:2406.04093.

    >>> head = SparseCode(4, 16, k=2)
    >>> (head(torch.randn(5, 4)) > 0).sum(1).max().item() <= 2
    True
    """

    idle: Tensor

    def __init__(self, width: int, units: int, *, k: int, dead: int = 30, dead_k: int = 1) -> None:
        super().__init__()
        if not (1 <= k <= units and 1 <= dead_k <= units):
            raise ValueError(f"wanted from 1 to {units} units of a code, got k={k} and dead_k={dead_k}")
        self.weight = nn.Parameter(nn.Linear(width, units, bias=False).weight.detach().clone())
        self.bias = nn.Parameter(torch.zeros(units))
        self.centre = nn.Parameter(torch.zeros(width))
        self.k, self.dead, self.dead_k = k, dead, dead_k
        self.register_buffer("idle", torch.zeros(units, dtype=torch.int64))

    def _largest(self, before: Float[Tensor, "n u"], k: int) -> Float[Tensor, "n u"]:
        found = before.topk(k, dim=-1)
        return torch.zeros_like(before).scatter(-1, found.indices, found.values).relu()

    def _before(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n u"]:
        return (x - self.centre) @ self.weight.T + self.bias

    def forward(self, x: Float[Tensor, "n d"], k: int | None = None) -> Float[Tensor, "n u"]:
        """The codes of rows, with at most k numbers above 0 and the rest 0."""
        return self._largest(self._before(x), min(k or self.k, len(self.bias)))

    def decode(self, code: Float[Tensor, "n u"]) -> Float[Tensor, "n d"]:
        """What the codes stand for."""
        return code @ self.weight + self.centre

    def facts(self, x: Float[Tensor, "n d"]) -> dict[str, Tensor]:
        """What `objectives.sparse.csr` reads of each row: itself, and what codes of k, 4 k and dead units make of it."""
        before = self._before(x)
        alone = self._largest(before * (self.idle > self.dead), self.dead_k)
        return {
            "input": x,
            "decoded": self.decode(self._largest(before, self.k)),
            "wide": self.decode(self._largest(before, min(4 * self.k, len(self.bias)))),
            "dead": self.decode(alone) - self.centre.detach(),
        }

    @torch.no_grad()
    def observe(self, codes: Float[Tensor, "n u"]) -> None:
        """After a step: units that a row of any process used are at 0, the others one step further."""
        used = all_max((codes > LEAST).any(0).to(self.idle))
        self.idle.copy_((self.idle + 1) * (1 - used))


def scaled(z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """The rows at length sqrt(d), so that a coordinate is about 1 in size whatever the encoder: what a code is made of."""
    return normalize(z, dim=-1) * z.shape[-1] ** 0.5


def keep_codes(encoder: TextEncoder, head: SparseCode) -> None:
    """Keep a head beside an encoder, not in it: `folder.save` writes it, and `codes_of` finds it again.

    Args:
        encoder: whose embeddings the head reads.
        head: of its codes.
    """
    encoder.__dict__["codes"] = head


def tensors_of(head: SparseCode) -> dict[str, Tensor]:
    """All that a head is made of, its number of units with it."""
    return {**head.state_dict(), "sizes": torch.tensor([head.k, head.dead, head.dead_k])}


def codes_of(encoder: TextEncoder) -> SparseCode:
    """The head that an encoder was trained or saved with.

    Raises:
        Refusal: where it has none.
    """
    path = encoder.folder / FILE
    if "codes" not in encoder.__dict__:
        if not path.exists():
            raise Refusal(
                "a model with a head for sparse codes", "none", where=str(path), remedy="--recipe csr trains one"
            )
        found = load_file(path)
        k, dead, dead_k = found.pop("sizes").tolist()
        units, width = found["weight"].shape
        head = SparseCode(width, units, k=k, dead=dead, dead_k=dead_k)
        head.load_state_dict(found)
        encoder.__dict__["codes"] = head.to(encoder.device)
    return encoder.__dict__["codes"]


def embed_sparse(
    encoder: TextEncoder, texts: Sequence[str], role: str = "anchor", *, k: int | None = None
) -> Float[Tensor, "n u"]:
    """The codes of texts at length 1, as a sparse matrix on the CPU; their products are cosines of codes.

    Args:
        encoder: one with a head, as `--recipe csr` writes it.
        texts: n texts.
        role: which prompt and length.
        k: units that may be above 0, from 1 on; None: as many as the head was trained with. Fewer cost less space, and are
            the largest ones.
    """
    from counterpoint.encoders.text import embed

    with torch.no_grad():
        code = codes_of(encoder)(scaled(embed(encoder, texts, role)).to(encoder.device), k)
        return normalize(code, dim=-1).cpu().to_sparse()
