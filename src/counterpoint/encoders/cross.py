"""Cross-encoders: a transformers backbone that reads two texts together and gives one score."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoint.encoders.passes import SPARE, by_passes, tokens_of
from counterpoint.encoders.text import find, inference, quiet_libraries
from counterpoint.errors import Refusal

HEAD = "ForSequenceClassification"  # how transformers names a backbone with a head of scores


class CrossEncoder(nn.Module):
    """A pair of texts in, one score out; higher means that the two belong together.

    Args:
        model: a transformers model with one output.
        tokenizer: its tokenizer.
        longest: tokens of a pair, both texts together; the longer text is cut first.
    """

    def __init__(self, model: Any, tokenizer: Any, longest: int) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.longest = longest
        self.prompts: dict[str, str] = {}  # both texts are read as they are
        self.stored = next(p.dtype for p in model.parameters())  # what the folder holds; saved as that
        model.float()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def set_dropout(self, rate: float) -> None:
        """Give every dropout of the model this rate."""
        for module, name in self._dropouts():
            setattr(module, name, rate)

    def _dropouts(self) -> Iterator[tuple[nn.Module, str]]:
        for module in self.model.modules():
            names = ("p",) if isinstance(module, nn.Dropout) else ("dropout", "attention_dropout")
            yield from ((module, name) for name in names if type(getattr(module, name, None)) in (int, float))

    def forward(self, left: Sequence[str], right: Sequence[str]) -> Float[Tensor, " n"]:
        """The score of each pair before any sigmoid, [n] in fp32; pairs of like length share a pass."""
        features = self.tokenizer(
            list(left) or [SPARE],
            list(right) or [SPARE],
            padding=True,
            truncation="longest_first",
            max_length=self.longest,
            return_tensors="pt",
        )
        return by_passes(self._pass, features, len(left), tokens=tokens_of(self))["score"]

    def _pass(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"score": self.model(**{k: v.to(self.device) for k, v in features.items()}).logits[:, 0].float()}

    def count_tokens(self, left: Sequence[str], right: Sequence[str]) -> list[int]:
        """How many tokens each pair has before any cut."""
        return [
            len(ids) for ids in self.tokenizer(list(left), list(right), truncation=False, verbose=False)["input_ids"]
        ]


def judge_pairs(
    encoder: CrossEncoder,
    left: Sequence[str],
    right: Sequence[str],
    *,
    batch: int = 64,
    precision: str = "fp32",
    tick: Callable[[int], None] = lambda _: None,
) -> Float[Tensor, " n"]:
    """The scores of many pairs, on the CPU and without gradients; equal lengths share a batch.

    Args:
        encoder: the model.
        left, right: n texts each.
        batch: pairs at a time.
        precision: "fp32" or "bf16" matrix products.
        tick: called with the number of pairs done, after each batch.
    """
    order = sorted(range(len(left)), key=lambda i: (len(left[i]) + len(right[i]), i))
    out = torch.empty(len(left))
    with inference(encoder, precision):
        for start in range(0, len(order), batch):
            at = order[start : start + batch]
            out[torch.tensor(at)] = encoder([left[i] for i in at], [right[i] for i in at]).cpu()
            tick(len(at))
    return out


def _backbone(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Where the transformers model of a folder lies, and its config."""
    modules, place = folder / "modules.json", folder
    if modules.exists():
        entries = json.loads(modules.read_text(encoding="utf-8"))
        place = folder / next((e["path"] for e in entries if e["type"].endswith("Transformer")), "")
    config = place / "config.json"
    if not config.exists():
        raise Refusal("a folder with a transformers model", "no config.json", where=str(place))
    return place, json.loads(config.read_text(encoding="utf-8"))


def is_cross_encoder(name: str | Path) -> bool:
    """Whether a folder or name holds a model that scores pairs, not one that embeds texts."""
    folder = find(str(name))
    modules = folder / "modules.json"
    kinds = [entry["type"] for entry in json.loads(modules.read_text(encoding="utf-8"))] if modules.exists() else []
    if kinds and not any(kind.endswith("Transformer") for kind in kinds):
        return False  # such as a static table
    architectures = _backbone(folder)[1].get("architectures") or [""]
    return architectures[0].endswith(HEAD)


def load_cross(
    name: str | Path, *, device: str = "cpu", longest: int | None = None, trust_remote_code: bool = False
) -> CrossEncoder:
    """A cross-encoder from a folder or a name, in fp32.

    Args:
        name: a cross-encoder; or a backbone or bi-encoder, whose pretrained layers get a new head, drawn from torch's
            generator.
        device: "cpu", "cuda", "mps".
        longest: tokens of a pair; None: as many as the model reads, at most.
        trust_remote_code: run code that the model's folder carries.

    Raises:
        Refusal: no such model, or one with several outputs.
    """
    place, config = _backbone(find(str(name)))
    quiet_libraries()
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    own = (config.get("architectures") or [""])[0].endswith(HEAD)
    outputs = (
        len(config["id2label"]) if "id2label" in config else 2
    )  # of a config that does not say, transformers' default
    if own and outputs != 1:
        hint = "classifiers, such as NLI models, do not score pairs"
        raise Refusal("a cross-encoder with one output", outputs, where=str(name), remedy=hint)
    settings = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        model = AutoModelForSequenceClassification.from_pretrained(place, num_labels=1, **settings)
        tokenizer = AutoTokenizer.from_pretrained(place, **settings)
    except Exception as error:  # any failure of another library on a user's folder is the user's to mend
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = "add --trust-remote-code if you trust its authors" if "trust_remote_code" in str(error) else None
        raise Refusal("a model that transformers loads", text, where=str(name), remedy=remedy) from error
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise Refusal("weights that are numbers", "NaN or infinite weights", where=str(name))
    reads = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or 512)
    return CrossEncoder(model.to(device), tokenizer, min(longest or reads, reads))


def save_cross(encoder: CrossEncoder, target: Path) -> None:
    """Write a folder that transformers and the CrossEncoder of sentence-transformers load, with the same scores.

    Args:
        encoder: the model.
        target: a folder that does not exist yet.
    """
    quiet_libraries()
    target.mkdir(parents=True)
    state = {name: tensor.detach().to(encoder.stored).cpu() for name, tensor in encoder.model.state_dict().items()}
    encoder.model.save_pretrained(target, state_dict=state)
    encoder.tokenizer.model_max_length = encoder.longest  # where their CrossEncoder cuts
    encoder.tokenizer.save_pretrained(target)
