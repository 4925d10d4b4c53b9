"""Claims of the softmax family."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from claim import Claim
from small import augmented, digits, knn, mlp, trained
from torch import nn

from counterpoint.objectives.reweighted import hn_nce
from counterpoint.objectives.softmax import infonce
from counterpoint.objectives.spread import alignment, uniformity
from counterpoint.types import Embeddings, Outcome

Loss = Callable[[Embeddings, Embeddings], Outcome]


def accuracy(loss: Loss, seed: int, *, batch: int = 128, steps: int = 200) -> float:
    """Of five nearest neighbours, after training on two moved copies of each digit."""
    data = digits(seed)

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        return loss(sets["view0"], sets["view1"])

    modules = {"encoder": mlp(64)}
    return knn(trained(modules, augmented(), objective, data, seed=seed, batch=batch, steps=steps)["encoder"], data)


def aligned_and_uniform(a: Embeddings, c: Embeddings) -> Outcome:
    """The loss of the paper, with its weights of 1."""
    return Outcome.of(near=(1.0, alignment(a, c)), even=(0.5, uniformity(a)), other=(0.5, uniformity(c)))


SIMCLR = partial(infonce, temperature=0.1, directions="both")
CLAIMS = [
    Claim(
        "decoupled (DCL)", "small batches lose less without the positive in the denominator",
        "accuracy of 5 neighbours, batches of 16",
        partial(accuracy, partial(SIMCLR, positives_compete=False), batch=16),
        partial(accuracy, SIMCLR, batch=16), row=51,
    ),
    Claim(
        "hard negatives (HN-NCE)", "weighing negatives by their hardness gives better features",
        "accuracy of 5 neighbours",
        partial(accuracy, partial(hn_nce, beta=0.5, temperature=0.1)), partial(accuracy, SIMCLR), row=121,
    ),
    Claim(
        "alignment and uniformity", "optimised directly they do at least as well as a contrastive loss",
        "accuracy of 5 neighbours", partial(accuracy, aligned_and_uniform), partial(accuracy, SIMCLR), row=106,
    ),
]  # fmt: skip
