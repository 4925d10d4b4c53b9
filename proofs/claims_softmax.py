"""Claims of the softmax family."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from claim import Claim
from small import (
    Data,
    augmented,
    balanced_knn,
    both_halves,
    digits,
    gap,
    halves,
    knn,
    long_tailed,
    mlp,
    trained,
    vectors,
    view,
)
from torch import Tensor, nn

from counterpoint.objectives.decoupled import decoupled, macl
from counterpoint.objectives.doubly import cacr
from counterpoint.objectives.joint import alignment_uniformity, cuaxu
from counterpoint.objectives.multilinear import symile
from counterpoint.objectives.polyview import poly_view
from counterpoint.objectives.reweighted import hn_nce
from counterpoint.objectives.softmax import infonce
from counterpoint.objectives.spread import uniformity
from counterpoint.types import Batch, Embeddings, Outcome

Loss = Callable[[Embeddings, Embeddings], Outcome]
Loading = Callable[[int], Data]


def accuracy(loss: Loss, seed: int, *, batch: int = 128, steps: int = 200, copies: int = 2, few: bool = False) -> float:
    """Of nearest neighbours, after training on moved copies of each digit; `few`: on long-tailed classes."""
    data = long_tailed(digits(seed)) if few else digits(seed)

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        half = copies // 2
        return loss(*(Embeddings.cat([sets[f"view{k}"] for k in part]) for part in (range(half), range(half, copies))))

    views = augmented(copies)
    encoder = trained({"encoder": mlp(64)}, views, objective, data, seed=seed, batch=batch, steps=steps)["encoder"]
    return balanced_knn(encoder, data) if few else knn(encoder, data)


def as_one(loss: Callable[[Embeddings], Outcome]) -> Loss:
    """A loss of all views as one set."""
    return lambda a, c: loss(Embeddings.cat([a, c]))


SIMCLR = partial(infonce, temperature=0.1, directions="both")


def across(loss: Loss, measure: Callable[[nn.ModuleDict, Tensor], float], seed: int) -> float:
    """After training left and right halves to find each other."""
    data = digits(seed)

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        return loss(sets["left"], sets["right"])

    modules = {"left": mlp(32), "right": mlp(32)}
    return measure(trained(modules, both_halves, objective, data, seed=seed), data.held)


def evenness(modules: nn.ModuleDict, x: Tensor) -> float:
    """Uniformity of both halves together; lower is more even."""
    left, right = halves(x)
    both = torch.cat([vectors(modules["left"], left), vectors(modules["right"], right)])
    return float(uniformity(both).loss)


XOR = 8  # bits of each kind


def three_kinds(joint: bool, seed: int) -> float:
    """Accuracy of finding z = x xor y among 32 by x and y together; linear encoders, the paper's own example."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(n: int) -> tuple[Tensor, Tensor, Tensor]:
        x, y = (torch.randint(2, (n, XOR), generator=generator) for _ in range(2))
        return x.float(), y.float(), (x ^ y).float()

    x, y, z = drawn(2000)
    data = Data(torch.cat([x, y, z], 1), torch.zeros(2000, dtype=torch.int64), x[:0], x[:0])

    def views(batch: Batch, _generator: torch.Generator) -> dict[str, Batch]:
        return {name: view(batch, part, name, k) for k, (name, part) in enumerate(named(batch["x"]).items())}

    def named(rows: Tensor) -> dict[str, Tensor]:
        return dict(zip("xyz", rows.split(XOR, 1), strict=True))

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        three = [sets[name] for name in "xyz"]
        if joint:
            return symile(three, temperature=0.1, negatives="shuffled", generator=generator)
        pairs = [(0, 1), (0, 2), (1, 2)]
        return Outcome.of(**{f"p{i}{j}": (1 / 3, SIMCLR(three[i], three[j])) for i, j in pairs})

    modules = {name: nn.Linear(XOR, 32) for name in "xyz"}
    modules = trained(modules, views, objective, data, seed=seed, steps=400, batch=256, lr=1e-2)
    asked = dict(zip("xyz", drawn(320), strict=True))
    with torch.no_grad():
        u, v, w = (vectors(modules[name], asked[name]) for name in "xyz")
        query = u * v if joint else u + v
    right = [(q @ c.T).argmax(1) == torch.arange(32) for q, c in zip(query.split(32), w.split(32), strict=True)]
    return float(torch.cat(right).float().mean())


def half_the_rows(loss: Loss, seed: int) -> float:
    """Two copies of 128 digits a step, beside four copies of 64."""
    return accuracy(loss, seed, batch=128, copies=2)


CLAIMS = [
    Claim(
        "decoupled (DCL)", "small batches lose less without the positive in the denominator",
        "accuracy of 5 neighbours, batches of 16",
        partial(accuracy, partial(SIMCLR, positives_compete=False), batch=16), partial(accuracy, SIMCLR, batch=16), row=51,
    ),
    Claim(
        "decoupled, weighted (DCLW)", "weighing far positives more improves the decoupled loss",
        "accuracy of 5 neighbours, batches of 16",
        partial(accuracy, partial(decoupled, directions="both"), batch=16),
        partial(accuracy, partial(SIMCLR, positives_compete=False), batch=16), row=51,
    ),
    Claim(
        "hard negatives (HN-NCE)", "weighing negatives by their hardness gives better features",
        "accuracy of 5 neighbours",
        partial(accuracy, partial(hn_nce, beta=0.5, temperature=0.1)), partial(accuracy, SIMCLR), row=121,
    ),
    Claim(
        "alignment and uniformity", "optimised directly they give better features than a contrastive loss",
        "accuracy of 5 neighbours", partial(accuracy, alignment_uniformity), partial(accuracy, SIMCLR), row=106,
    ),
    Claim(
        "doubly contrastive (CACR)", "it is more robust than one softmax where classes are imbalanced",
        "mean accuracy of classes, long-tailed, four copies",
        partial(accuracy, as_one(partial(cacr, t_negative=2.0)), few=True, copies=4),
        partial(accuracy, as_one(partial(infonce, temperature=0.1)), few=True, copies=4), row=12,
    ),
    Claim(
        "adaptive temperature (MACL)", "a temperature that grows with alignment beats a fixed one",
        "accuracy of 5 neighbours",
        partial(accuracy, partial(macl, directions="both")), partial(accuracy, SIMCLR), row=144,
    ),
    Claim(
        "poly-view (PVC)", "four views of half as many samples beat two views at equal cost",
        "accuracy of 5 neighbours",
        partial(accuracy, as_one(poly_view), batch=64, copies=4),
        partial(half_the_rows, as_one(poly_view)), row=137,
    ),
    Claim(
        "multilinear scores (Symile)", "what only all kinds together tell is learned, by pairs it is not",
        "accuracy among 32, z = x xor y", partial(three_kinds, True), partial(three_kinds, False), row=45,
    ),
    Claim(
        "closing the gap (CUAXU)", "alignment and uniformity in and across modalities narrow the gap",
        "distance of the centres of both halves", partial(across, cuaxu, gap), partial(across, SIMCLR, gap),
        row=0, higher=False,
    ),
    Claim(
        "even spread (CUAXU)", "the same terms spread both modalities more evenly",
        "uniformity of both halves", partial(across, cuaxu, evenness), partial(across, SIMCLR, evenness),
        row=0, higher=False,
    ),
]  # fmt: skip
