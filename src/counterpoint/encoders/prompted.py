"""A transformer of sentence-transformers with prompts of ours: words around every text, and trained vectors in its attention.

The folder names the class, so whoever loads it needs this package: `SentenceTransformer(folder, trust_remote_code=True)`,
from sentence-transformers 6 on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from counterpoint.errors import Refusal
from counterpoint.papers import paper

try:
    from sentence_transformers.base.modules.transformer import Transformer
except ImportError:  # before version 6
    from sentence_transformers.models import Transformer  # type: ignore[no-redef]

MODULES = ("PromptedTransformer",)  # what `encoders.text.load` takes without trust in foreign code
PROMPTS, PREFIX = "prompts_of_ours.json", "prefix.safetensors"
SPREAD = 0.02  # of a new prefix: the one with which BERT starts, and so the authors' code
TEXT = "{}"  # where the text stands in a template
SEEKING, PREFIXED = (
    "counterpoint_seeking",
    "counterpoint_prefixed",
)  # names under which transformers finds our attention


@paper(row=119)
class Prefix(nn.Module):
    """Trained keys and values that stand before those of the text in every layer: P-tuning v2.

        attention of layer l = softmax(q [P_l ; K]^T / sqrt(d)) [V_l ; V]

    Args:
        layers: number of attention layers.
        heads: of keys and values.
        tokens: m, how many stand before a text; at least 1.
        width: of a head.
        dropout: rate by which numbers of a prefix are dropped, for each text by itself, as in the authors' code.

    References:
        Liu et al. 2021 (P-Tuning v2), arXiv:2110.07602; Jiang, Zhang, Wang 2022, arXiv:2203.06875.
    """

    def __init__(self, layers: int, heads: int, tokens: int, width: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.keys = nn.Parameter(SPREAD * torch.randn(layers, heads, tokens, width))
        self.values = nn.Parameter(SPREAD * torch.randn(layers, heads, tokens, width))
        self.dropout = nn.Dropout(dropout)

    def before(
        self, layer: int, keys: Float[Tensor, "n h t w"], values: Float[Tensor, "n h t w"]
    ) -> tuple[Tensor, Tensor]:
        """The keys and values of a layer with those of the prefix before them, [n, h, m + t, w]."""
        own = (self.dropout(p[layer].expand(len(keys), -1, -1, -1)) for p in (self.keys, self.values))
        k, v = (torch.cat([p.to(x.dtype), x], 2) for p, x in zip(own, (keys, values), strict=True))
        return k, v


class Attention(NamedTuple):
    """A layer that attends, and its heads."""

    module: nn.Module
    heads: int
    width: int


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **how: Any
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it, of a layer that may have a prefix; every token sees all of the prefix.

    Args:
        module: the layer.
        query, key, value: [n, heads, t, width].
        attention_mask: [n, 1, t, t], true where a token is seen, or what is added to its score; None: all see all.
        how: scale, dropout and such.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if (found := module.__dict__.get("prefix")) is not None:
        prefix, layer = found
        key, value = prefix.before(layer, key, value)
        more = key.shape[2] - query.shape[2]
        if attention_mask is not None:
            free = attention_mask.new_full((*attention_mask.shape[:3], more), attention_mask.dtype == torch.bool)
            attention_mask = torch.cat([free, attention_mask], 3)
        if (bias := how.get("position_bias")) is not None:
            how["position_bias"] = nn.functional.pad(bias, (more, 0))
    if attention_mask is None:
        how["is_causal"] = False  # `_whole_mask` makes one wherever something is not to be seen
    return sdpa_attention_forward(module, query, key, value, attention_mask, **how)


def _whole_mask(*args: Any, **how: Any) -> Tensor | None:
    """The mask of transformers, written out where it would have been a flag."""
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(*args, **{**how, "allow_is_causal_skip": False})


@torch.no_grad()
def attentions(backbone: Any) -> list[Attention]:
    """The layers of a backbone that attend, in the order in which a text passes them; from now on by `attend`.

    Raises:
        Refusal: for a backbone whose attention has no door, or whose layers differ in their heads.
    """
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    found: list[Attention] = []

    def seek(module: nn.Module, query: Tensor, key: Tensor, *rest: Any, **how: Any) -> tuple[Tensor, None]:
        found.append(Attention(module, key.shape[1], key.shape[3]))
        return attend(module, query, key, *rest, **how)

    for name, function in ((SEEKING, seek), (PREFIXED, attend)):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, _whole_mask)
    training, device = backbone.training, next(backbone.parameters()).device
    try:
        backbone.set_attn_implementation(SEEKING)
        backbone.eval()(input_ids=torch.zeros(1, 2, dtype=torch.int64, device=device))
        backbone.set_attn_implementation(PREFIXED)
    except (ValueError, TypeError, KeyError) as error:
        raise Refusal("a backbone whose attention takes a prefix", f"{type(backbone).__name__}: {error}") from error
    finally:
        backbone.train(training)
    if not found or len({(a.heads, a.width) for a in found}) > 1:
        raise Refusal("a backbone whose attention takes a prefix", type(backbone).__name__)
    return found


@paper(row=119)
class PromptedTransformer(Transformer):
    """A transformer whose texts stand in a template, or whose attention has a prefix, or both; without them the plain one.

    The text is cut so that the template around it is whole. A prompt of a role stands before the text, in the template.

    Differs:
        Tokens keep the positions that they have without a prefix, where the authors' code counts it.

    References:
        Jiang et al. 2022 (PromptBERT), arXiv:2201.04337; Jiang, Zhang, Wang 2022 (PromCSE), arXiv:2203.06875.
    """

    template: str | None = None  # words with {} for the text

    @property
    def soft(self) -> Prefix | None:
        """The prefix, if there is one."""
        return self._modules.get("prefix")  # type: ignore[return-value]

    def give_prefix(self, tokens: int, *, stored: dict[str, Tensor] | None = None) -> Prefix:
        """Put a prefix before every layer's keys and values: a new one from torch's generator, or one that was saved."""
        layers = attentions(self.auto_model)
        prefix = Prefix(len(layers), layers[0].heads, tokens, layers[0].width)
        if stored is not None:  # a model that was cut has fewer layers than its prefix
            prefix.load_state_dict({name: rows[: len(layers)] for name, rows in stored.items()})
        self.prefix = prefix.to(next(self.auto_model.parameters()).device)
        for number, layer in enumerate(layers):
            layer.module.__dict__["prefix"] = (self.prefix, number)  # not a part of it: its weights are saved here
        rate = getattr(self.auto_model.config, "hidden_dropout_prob", 0.0)
        self.prefix.dropout.p = float(rate or 0.0)
        return self.prefix

    def around(self) -> tuple[list[int], list[int]]:
        """The tokens of the template before and after the text."""
        before, _, after = (self.template or TEXT).partition(TEXT)
        tokenizer: Any = self.tokenizer
        first, second = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after))
        return first, second

    def edges(self) -> tuple[int, int]:
        """How many special tokens stand before and after a text."""
        tokenizer: Any = self.tokenizer
        own, ids = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        lead = next(at for at in range(len(ids)) if ids[at : at + len(own)] == own)
        return lead, len(ids) - len(own) - lead

    def preprocess(  # type: ignore[override]  # texts alone
        self, inputs: Sequence[Any], prompt: str | None = None, **how: Any
    ) -> Any:
        """The tokens of texts in the template, cut to `max_length` or what the model takes."""
        if self.template is None or not inputs:
            return super().preprocess(inputs, prompt, **how)
        (before, after), (lead, trail) = self.around(), self.edges()
        longest = how.pop("max_length", None) or self.max_seq_length or 512
        room = longest - len(before) - len(after)
        if room <= lead + trail:
            raise Refusal(f"room for a text in the template '{self.template}'", f"a length of {longest} tokens")
        tokenizer: Any = self.tokenizer
        features = super().preprocess(inputs, prompt, max_length=room, **how)
        both = zip(features["input_ids"], features["attention_mask"], strict=True)
        rows = [ids[seen.bool()].tolist() for ids, seen in both]
        rows = [r[:lead] + before + r[lead : len(r) - trail] + after + r[len(r) - trail :] for r in rows]
        padded = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        features.update({"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]})
        if "token_type_ids" in features:
            features["token_type_ids"] = torch.zeros_like(padded["input_ids"])
        return features

    def save_own(self, folder: Path) -> None:
        """Write the template as JSON and the prefix as safetensors."""
        (folder / PROMPTS).write_text(json.dumps({"template": self.template}, indent=2) + "\n", encoding="utf-8")
        if self.soft is not None:
            state = {name: tensor.detach().contiguous().cpu() for name, tensor in self.soft.state_dict().items()}
            save_file(state, folder / PREFIX)

    def save(self, output_path: str, *args: Any, **how: Any) -> None:
        """Write the transformer, and what it has of ours."""
        super().save(output_path, *args, **how)
        self.save_own(Path(output_path))

    @classmethod
    def load(  # type: ignore[override]  # where files are found stays as it came
        cls, model_name_or_path: str, subfolder: str = "", **where: Any
    ) -> PromptedTransformer:
        """The module that `save` wrote; `where` says how files are found, as sentence-transformers passes it."""
        module = super().load(model_name_or_path, subfolder=subfolder, **where)
        known = ("token", "cache_folder", "revision", "local_files_only")
        where = {"subfolder": subfolder, **{name: value for name, value in where.items() if name in known}}
        described = cls.load_file_path(model_name_or_path, filename=PROMPTS, **where)
        if described is not None:
            module.template = json.loads(Path(described).read_text(encoding="utf-8"))["template"]
        if (file := cls.load_file_path(model_name_or_path, filename=PREFIX, **where)) is not None:
            stored = load_file(file)
            module.give_prefix(stored["keys"].shape[2], stored=stored)
        return module
