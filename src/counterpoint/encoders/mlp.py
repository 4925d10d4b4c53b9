"""A small encoder of arrays: standardised numbers through a few linear layers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoint.encoders.sizes import checked
from counterpoint.errors import Refusal

NAME = "mlp"
SCHEMA = 1
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Sizes:
    """How large an MLP is.

    Args:
        hidden: units of each hidden layer, at least 1.
        depth: linear layers, at least 1.
        width: dimensions of an embedding, at least 1.
        dropout: rate after each hidden layer while training, in [0, 1).

    Relations:
        Depth and widths are those of SCARF (arXiv:2106.15147). SimCSE's views differ by dropout alone and need some.
    """

    hidden: int = 256
    depth: int = 4
    width: int = 256
    dropout: float = 0.0


class MLP(nn.Module):
    """Arrays of one shape, flattened, standardised and passed through ReLU layers; row by row.

    Weights start as in He et al., arXiv:1502.01852, so that rows are told apart before anything is learned.

    Args:
        shape: of one array.
        sizes: of the layers.

    >>> encoder = MLP((2, 3), Sizes(width=8)).fitted(torch.rand(10, 2, 3))
    >>> encoder(torch.rand(4, 2, 3)).shape
    torch.Size([4, 8])
    """

    def __init__(self, shape: Sequence[int], sizes: Sizes = Sizes()) -> None:
        super().__init__()
        self.shape, self.sizes = tuple(shape), sizes
        features = prod(self.shape)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        widths = [features, *[sizes.hidden] * (sizes.depth - 1), sizes.width]
        self.layers = nn.Sequential(*relu_layers(widths, dropout=sizes.dropout))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        self.lengths: dict[str, int] = {}
        self.prompts: dict[str, str] = {}
        self.stored = torch.float32

    def fitted(self, items: Float[Tensor, "n ..."]) -> MLP:
        """The same encoder, with the mean and the deviation of these arrays to standardise by; a constant becomes 0."""
        flat = self._flat(items).double()
        deviation = flat.std(dim=0, correction=0)
        self.mean.copy_(flat.mean(dim=0))  # type: ignore[operator]
        self.scale.copy_(torch.where(deviation == 0, 1.0, deviation))  # type: ignore[operator]
        return self

    def standardised(self, items: Any) -> Float[Tensor, "n features"]:
        """The arrays flattened, with mean 0 and deviation 1 on what the encoder was fitted to."""
        return (self._flat(items) - self.mean) / self.scale  # type: ignore[operator]

    def forward(self, items: Any, role: str = "anchor") -> Float[Tensor, "n d"]:
        """The embeddings of arrays, [n, d], one row an array, in fp32; all roles are read alike."""
        del role
        return self.layers(self.standardised(items)).float()

    def _flat(self, items: Any) -> Tensor:
        rows = torch.as_tensor(items, dtype=torch.float32).to(self.device)
        if tuple(rows.shape[1:]) != self.shape:
            raise Refusal(
                f"arrays of the shape {_said(self.shape)} that the model was made for",
                _said(tuple(rows.shape[1:])),
                remedy="the first axis is the rows",
            )
        return rows.flatten(1)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def width(self) -> int:
        """d, the number of dimensions of an embedding."""
        return self.sizes.width

    @property
    def longest(self) -> int:
        """Arrays have no tokens: each counts as one."""
        return 1

    def count_tokens(self, items: Any, role: str = "anchor") -> list[int]:
        """1 for each array."""
        del role
        return [1] * len(items)

    @property
    def bytes_per_row(self) -> int:
        """Memory that a row leaves for the backward pass: its input, and three arrays of every layer."""
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        return FLOAT * (3 * len(self.mean) + 3 * sum(layer.out_features for layer in linear))  # type: ignore[arg-type]

    @property
    def dropout(self) -> float:
        """The dropout rate; 0 means that two passes give equal vectors."""
        return max((m.p for m in self.layers if isinstance(m, nn.Dropout)), default=0.0)

    def set_dropout(self, rate: float) -> None:
        """Give every dropout this rate."""
        for module in self.layers:
            if isinstance(module, nn.Dropout):
                module.p = rate


def relu_layers(widths: Sequence[int], *, dropout: float | None = None) -> list[nn.Module]:
    """Linear layers from each width to the next, with ReLU and dropout between them.

    >>> [type(layer).__name__ for layer in relu_layers([3, 4, 5], dropout=0.1)]
    ['Linear', 'ReLU', 'Dropout', 'Linear']
    """
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.ReLU()] if layers else []
        layers += [nn.Dropout(dropout)] if layers and dropout is not None else []
        layers.append(nn.Linear(before, after))
    return layers


def _said(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "of a single number"


def is_saved(folder: Path) -> bool:
    """Whether a folder holds an encoder of arrays."""
    config = folder / "config.json"
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("counterpoint") == NAME
    except (OSError, ValueError, AttributeError):
        return False


def save(encoder: MLP, target: Path) -> None:
    """Write config.json and model.safetensors into a new folder."""
    from safetensors.torch import save_file

    target.mkdir(parents=True)
    config = {"counterpoint": NAME, "schema": SCHEMA, "shape": list(encoder.shape), **asdict(encoder.sizes)}
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(state, target / "model.safetensors")


def load(folder: Path, *, device: str = "cpu") -> MLP:
    """The encoder that `save` wrote.

    Raises:
        Refusal: files that are missing, damaged, or do not fit each other.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    where = f"--model {folder}"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    try:
        sizes = Sizes(**{name: config[name] for name in asdict(Sizes())})
        shape = [int(axis) for axis in config["shape"]]
    except (KeyError, TypeError, ValueError) as error:
        raise Refusal("the config.json that a run wrote", f"{type(error).__name__}: {error}", where=where) from error
    encoder = MLP(shape, checked(sizes, where))
    try:
        encoder.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise Refusal("weights that fit the config.json", str(error).splitlines()[0], where=where) from error
    if not all(torch.isfinite(tensor).all() for tensor in encoder.state_dict().values()):
        raise Refusal("weights that are numbers", "NaN or infinite weights", where=where)
    return encoder.to(device)
