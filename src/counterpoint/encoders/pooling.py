"""Modules of ours inside a sentence-transformers folder: latent attention over token states, or the state at a mask.

The folder names the class, so whoever loads it needs this package: `SentenceTransformer(folder, trust_remote_code=True)`.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from counterpoint.papers import paper

try:
    from sentence_transformers.base.modules.module import Module
except ImportError:  # before version 6
    from sentence_transformers.models import Module  # type: ignore[no-redef]

MODULES = ("LatentAttention", "AtMask")  # what `encoders.text.load` takes without trust in foreign code
WIDER = 4  # the hidden layer over the model, as in the authors' code


def pooled_places(features: Mapping[str, Any], *, include_prompt: bool) -> Tensor:
    """Which tokens of a pass are pooled, [n, t]: all but padding, and without the prompt where it is to be left out.

    Args:
        features: with `token_embeddings`, and `attention_mask` and `prompt_length` where there are some.
        include_prompt: whether tokens of the prompt count.
    """
    states = features["token_embeddings"]
    mask = features.get("attention_mask", torch.ones(states.shape[:2], device=states.device)).bool()
    length = features.get("prompt_length")
    if include_prompt or length is None:
        return mask
    length = int(length[0]) if isinstance(length, Tensor) else int(length)
    return mask & (mask.cumsum(1) > length)  # padding may stand on either side


@paper(row=266)
class LatentAttention(Module):
    """Latent attention: every token state asks a trained dictionary, and the mean of what it answers stands for the text.

        O = softmax(Q K^T / sqrt(d / heads)) V,  Q: states [t d],  K = V: the dictionary [r d],  in heads
        z = mean over tokens of  W_2 gelu(W_1 O + b_1) + b_2

    Args:
        width: d, of a state, a multiple of `heads`.
        latents: r, rows of the dictionary, at least 1.
        heads: parts of the width that attend by themselves.
        include_prompt: whether tokens of the prompt are in the mean; the authors leave instructions out.

    Raises:
        ValueError: for sizes that do not fit.

    Differs:
        As in the paper, not as in the released weights: those project queries, keys and values, normalise before each
        of the two parts, add residuals, and gate the hidden layer.

    Relations:
        With r = 1 all texts have one vector. The order of the states does not matter.

    References:
        Lee et al. 2024, arXiv:2405.17428, section 3.1.

    >>> pool = LatentAttention(4, latents=2, heads=1)
    >>> pool({"token_embeddings": torch.randn(3, 5, 4)})["sentence_embedding"].shape
    torch.Size([3, 4])
    """

    config_keys = ["width", "latents", "heads", "include_prompt"]  # noqa: RUF012 - as the class above has it

    def __init__(self, width: int, latents: int = 512, heads: int = 8, include_prompt: bool = True) -> None:
        super().__init__()
        if latents < 1 or heads < 1 or width % heads:
            raise ValueError(f"wanted latents and heads that divide a width of {width}, got {latents} and {heads}")
        self.width, self.latents, self.heads, self.include_prompt = width, latents, heads, include_prompt
        self.dictionary = nn.Parameter(torch.randn(latents, width))
        self.inner, self.outer = nn.Linear(width, WIDER * width), nn.Linear(WIDER * width, width)

    def answers(self, states: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """What each state gets from the dictionary, after the two layers."""
        n, t, d = states.shape
        queries = states.reshape(n, t, self.heads, -1).transpose(1, 2)
        keys = self.dictionary.to(states.dtype).reshape(1, self.latents, self.heads, -1).transpose(1, 2)
        keys = keys.expand(n, -1, -1, -1)
        found = scaled_dot_product_attention(queries, keys, keys).transpose(1, 2).reshape(n, t, d)
        return self.outer(gelu(self.inner(found)))

    def forward(self, features: MutableMapping[str, Any], **_: Any) -> MutableMapping[str, Any]:  # type: ignore[override]
        """The features with `sentence_embedding` [n, d], from `token_embeddings` [n, t, d]."""
        places = pooled_places(features, include_prompt=self.include_prompt).to(features["token_embeddings"].dtype)
        answers = self.answers(features["token_embeddings"]) * places[..., None]
        features["sentence_embedding"] = answers.sum(1) / places.sum(1, keepdim=True).clamp(min=1)
        return features

    def get_embedding_dimension(self) -> int:
        """d."""
        return self.width

    get_sentence_embedding_dimension = get_embedding_dimension  # its name before sentence-transformers 6

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the sizes as JSON and the weights as safetensors."""
        from safetensors.torch import save_file

        self.save_config(output_path)
        weights = {name: tensor.contiguous().cpu() for name, tensor in self.state_dict().items()}
        save_file(weights, Path(output_path) / "model.safetensors")

    @classmethod
    def load(cls, model_name_or_path: str, **where: Any) -> LatentAttention:  # type: ignore[override]
        """The module that `save` wrote; `where` says how files are found, as sentence-transformers passes it."""
        known = ("subfolder", "token", "cache_folder", "revision", "local_files_only")
        where = {name: value for name, value in where.items() if name in known}
        module = cls(**cls.load_config(model_name_or_path, **where))
        module.load_state_dict(cls.load_torch_weights(model_name_or_path, **where))
        return module


@paper(reference="Jiang et al.: PromptBERT: Improving BERT Sentence Embeddings with Prompts, arXiv:2201.04337, 2022")
class AtMask(Module):
    """The state at a mask token stands for the text: what a model of masked words would put there.

        z = h at the mask; at the first of several, or the last

    Args:
        width: d, of a state.
        token: id of the mask token.
        last: whether the mask stands after the text, so that a mask token in the text itself is passed over.

    References:
        Jiang et al. 2022, arXiv:2201.04337, section 4.1.

    >>> features = {"token_embeddings": torch.eye(3)[None], "input_ids": torch.tensor([[5, 9, 5]])}
    >>> AtMask(3, token=9)(features)["sentence_embedding"].tolist()
    [[0.0, 1.0, 0.0]]
    """

    config_keys = ["width", "token", "last"]  # noqa: RUF012 - as the class above has it
    include_prompt = True

    def __init__(self, width: int, token: int, last: bool = True) -> None:
        super().__init__()
        self.width, self.token, self.last = width, token, last

    def forward(self, features: MutableMapping[str, Any], **_: Any) -> MutableMapping[str, Any]:  # type: ignore[override]
        """The features with `sentence_embedding` [n, d], from `token_embeddings` [n, t, d] and `input_ids` [n, t]."""
        states, masks = features["token_embeddings"], (features["input_ids"] == self.token).int()
        at = masks.shape[1] - 1 - masks.flip(1).argmax(1) if self.last else masks.argmax(1)
        features["sentence_embedding"] = states[torch.arange(len(states), device=states.device), at]
        return features

    def get_embedding_dimension(self) -> int:
        """d."""
        return self.width

    get_sentence_embedding_dimension = get_embedding_dimension  # its name before sentence-transformers 6

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the numbers as JSON."""
        self.save_config(output_path)
