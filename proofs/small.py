"""What the effect experiments share: small real data, small encoders, one loop, and what is measured.

Handwritten digits are scikit-learn's, 1,797 images of 8 x 8. As two modalities they are cut into left and right halves, which no
encoder sees together. Every number a seed decides comes from one generator, so that both arms of a pair start from equal weights
and see equal batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from counterpoint._ops.unit import to_unit
from counterpoint.data.orders import endless, shuffled
from counterpoint.encoders.text import autocast
from counterpoint.training.loop import Schedule, optimizer_for
from counterpoint.training.method import Method, nothing_after, step
from counterpoint.types import Batch, Embeddings, Outcome

TRAIN = 1200
Views = Callable[[Batch, torch.Generator], dict[str, Batch]]
Objective = Callable[[nn.ModuleDict, dict[str, Embeddings]], Outcome]


@dataclass(frozen=True)
class Data:
    """Rows to train on and rows that are held out, with their answers."""

    x: Tensor
    y: Tensor
    held: Tensor
    answers: Tensor

    def some(self, keep: Tensor) -> Data:
        """Only these training rows."""
        return Data(self.x[keep], self.y[keep], self.held, self.answers)


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    return load_digits(return_X_y=True)


def digits(seed: int) -> Data:
    """Digits from -0.5 to 0.5, split anew for each seed."""
    x, y = _digits()
    order = np.random.default_rng(seed).permutation(len(x))
    a, b = torch.tensor(x[order] / 16 - 0.5, dtype=torch.float32), torch.tensor(y[order])
    return Data(a[:TRAIN], b[:TRAIN], a[TRAIN:], b[TRAIN:])


def diabetes(seed: int) -> Data:
    """442 patients: ten standardised measurements, and how far the illness went a year later, in standard deviations."""
    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = x[order] / x.std(0), (y[order] - y.mean()) / y.std()
    a, b = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    return Data(a[:300], b[:300], a[300:], b[300:])


def long_tailed(data: Data, ratio: float = 0.5) -> Data:
    """Of class c only a share ratio^c of its training rows, at least 4."""
    keep = [torch.where(data.y == c)[0] for c in range(10)]
    return data.some(torch.cat([rows[: max(4, int(len(rows) * ratio**c))] for c, rows in enumerate(keep)]))


def mlp(inputs: int, width: int = 32, hidden: int = 128, depth: int = 2) -> nn.Sequential:
    """A small net with weights drawn from torch's own generator."""
    layers: list[nn.Module] = []
    for k in range(depth):
        layers += [nn.Linear(inputs if k == 0 else hidden, hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, width))


def moved(x: Tensor, generator: torch.Generator, noise: float = 0.2) -> Tensor:
    """Images shifted by up to one pixel, with noise."""
    images = nn.functional.pad(x.view(-1, 8, 8), (1, 1, 1, 1), value=-0.5)
    at = torch.randint(3, (len(x), 2), generator=generator)
    rows = (at[:, :1] + torch.arange(8))[:, :, None].expand(-1, 8, 10)
    columns = (at[:, 1:] + torch.arange(8))[:, None, :].expand(-1, 8, 8)
    shifted = images.gather(1, rows).gather(2, columns).flatten(1)
    return shifted + noise * torch.randn(x.shape, generator=generator)


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The left and the right half of images."""
    images = x.view(-1, 8, 8)
    return images[:, :, :4].flatten(1), images[:, :, 4:].flatten(1)


def view(batch: Batch, x: Tensor, by: str, number: int) -> Batch:
    """One view of a batch: what is encoded, by which module, and what its rows remember."""
    return {"x": x, "id": batch["id"], "by": by, "view": number, "label": batch["label"], "row": batch["row"]}


def augmented(count: int = 2, *, noise: float = 0.2, by: str = "encoder") -> Views:
    """So many moved copies of each image, named view0, view1..."""

    def views(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        return {f"view{k}": view(batch, moved(batch["x"], generator, noise), by, k) for k in range(count)}

    return views


def both_halves(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
    """The left half by the module `left`, the right half by `right`, with noise."""
    del generator
    left, right = halves(batch["x"])
    return {"left": view(batch, left, "left", 0), "right": view(batch, right, "right", 1)}


def plain(batch: Batch, _generator: torch.Generator) -> dict[str, Batch]:
    """The rows as they are."""
    return {"rows": view(batch, batch["x"], "encoder", 0)}


def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
    """Each view by its module; labels and row numbers are facts."""
    return {
        name: Embeddings.of(
            modules[str(b["by"])](b["x"]), id=b["id"], view=b["view"], facts={"label": b["label"], "row": b["row"]}
        )
        for name, b in views.items()
    }


def trained(
    modules: Mapping[str, nn.Module],
    views: Views,
    objective: Objective,
    data: Data,
    *,
    seed: int,
    steps: int = 200,
    batch: int = 128,
    lr: float = 2e-3,
    after: Callable[[nn.ModuleDict, dict[str, Embeddings], Outcome], None] = nothing_after,
) -> nn.ModuleDict:
    """The modules after so many steps on the training rows."""
    method = Method(nn.ModuleDict(dict(modules)), views, encode, objective, lambda m: m, after)
    fp32, generator = autocast("cpu", "fp32"), torch.Generator().manual_seed(seed)
    optimizer = optimizer_for(method, Schedule(steps=steps, lr=lr))
    stream = endless(shuffled(len(data.x), batch=min(batch, len(data.x)), seed=seed))
    method.modules.train()
    for _ in range(steps):
        at = torch.from_numpy(next(stream))
        rows = {"x": data.x[at], "label": data.y[at], "id": at, "row": at}
        step(method, [rows], optimizer, generator=generator, autocast=fp32, clip=1.0)
    return method.modules.eval()


@torch.no_grad()
def vectors(encoder: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Embeddings of length 1."""
    return to_unit(encoder(x))


def knn(encoder: Callable[[Tensor], Tensor], data: Data, k: int = 5) -> float:
    """Accuracy of the k nearest training rows on the rows held out."""
    known, asked = vectors(encoder, data.x).numpy(), vectors(encoder, data.held).numpy()
    return float(KNeighborsClassifier(k).fit(known, data.y.numpy()).score(asked, data.answers.numpy()))


def balanced_knn(encoder: nn.Module, data: Data, classes: range = range(10)) -> float:
    """The mean accuracy of classes, each counted alike."""
    known, asked = vectors(encoder, data.x).numpy(), vectors(encoder, data.held).numpy()
    said = KNeighborsClassifier(1).fit(known, data.y.numpy()).predict(asked)
    right = said == data.answers.numpy()
    return float(np.mean([right[data.answers.numpy() == c].mean() for c in classes]))


def probe(known: Tensor, y: Tensor, asked: Tensor, answers: Tensor) -> float:
    """Accuracy of a logistic regression on vectors."""
    model = LogisticRegression(max_iter=2000).fit(known.numpy(), y.numpy())
    return float(model.score(asked.numpy(), answers.numpy()))


def recall(modules: nn.ModuleDict, x: Tensor, k: int = 10) -> float:
    """How many left halves find their right half among the first k; both directions averaged."""
    left, right = halves(x)
    scores = vectors(modules["left"], left) @ vectors(modules["right"], right).T
    own = scores.diagonal()
    found = [
        ((s > own_of).sum(1) < k).float().mean() for s, own_of in ((scores, own[:, None]), (scores.T, own[:, None]))
    ]
    return float(sum(found) / 2)


def gap(modules: nn.ModuleDict, x: Tensor) -> float:
    """The distance of the two modalities' centres."""
    left, right = halves(x)
    return float((vectors(modules["left"], left).mean(0) - vectors(modules["right"], right).mean(0)).norm())


def rank_of_values(encoder: nn.Module, data: Data) -> float:
    """Spearman's correlation of distances in the space with distances of values, over pairs of rows held out."""
    z = vectors(encoder, data.held)
    apart = (z[:, None] - z[None]).norm(dim=-1)
    values = (data.answers[:, None] - data.answers[None]).abs()
    upper = torch.triu_indices(len(z), len(z), 1)
    return float(spearmanr(apart[upper[0], upper[1]], values[upper[0], upper[1]]).statistic)


def r2(encoder: nn.Module, data: Data) -> float:
    """R^2 of a ridge regression from the space to the values."""
    known, asked = vectors(encoder, data.x).numpy(), vectors(encoder, data.held).numpy()
    return float(Ridge(1e-2).fit(known, data.y.numpy()).score(asked, data.answers.numpy()))
