"""Made rows, as negatives and positives of the anchors, and the rules that say whose they are."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from counterpoint._ops.processes import joined
from counterpoint.objectives.continuous import conr
from counterpoint.objectives.private import infonce_private
from counterpoint.objectives.softmax import infonce
from counterpoint.objectives.spread import alignment
from counterpoint.pairs.adversarial import adversarial_negatives, adversarial_positives, noise, noise_negatives
from counterpoint.pairs.hallucinated import hallucinated_positives
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.mixed import extrapolated, interpolated, mixed, mixed_negatives
from counterpoint.pairs.synthetic import of_sources, private_to, shared_sources
from counterpoint.pairs.valued import disagreeing, mixed_by_value
from counterpoint.types import Embeddings, Outcome
from tests.contracts.case import Case, Cases

T = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def by_id(rows: Embeddings) -> Tensor:
    """A number from 0 to 1 that a row has wherever it lies."""
    return (rows.id % 7).to(rows.z) / 7


def told(rows: Embeddings) -> Embeddings:
    """Rows with a continuous label and a prediction."""
    return replace(
        rows, facts={"value": rows.facts["label"].to(rows.z), "predicted": by_id(rows), "rare": 1 + by_id(rows)}
    )


def mochi(a: Embeddings, c: Embeddings, temperature: float | Tensor = 0.3) -> Outcome:
    own = mixed_negatives(a, c, nearest=3, pairs=2, with_query=2, generator=drawn())
    return infonce_private(a, c, own, own=private_to(), temperature=temperature)


def far(a: Embeddings, c: Embeddings) -> Outcome:
    at = torch.arange(1, a.z.shape[1] + 1).to(a.z)
    keys = replace(a, z=(at * (1 + a.id[:, None])).cos(), view=a.view + 1, facts={})
    one, other = extrapolated(replace(a, facts={}), keys, 1 + by_id(a))
    return infonce(one, Embeddings.cat([other, replace(c, facts={})]), temperature=0.3)


def between(a: Embeddings, c: Embeddings) -> Outcome:
    return infonce(a, interpolated(c, torch.arange(len(c)).flip(0), 0.7), temperature=0.3)


def soft(a: Embeddings, c: Embeddings) -> Outcome:
    return infonce(a, mixed(c, torch.arange(len(c)).flip(0), by_id(c)), rule=shared_sources(), temperature=0.3)


def of_inputs(a: Embeddings, c: Embeddings) -> Outcome:
    rows = of_sources(a, (3 * a.id + 1) % 7, by_id(a))
    return infonce(rows, c, rule=shared_sources(), temperature=0.3, directions="both", normalize="none")


def supremix(a: Embeddings, _c: Embeddings) -> Outcome:
    a = told(a)
    own = mixed_by_value(a, negatives=2, positives=2, window=2.0, generator=drawn())
    return infonce_private(a, a, own, own=private_to(), rule=labelled("value"), temperature=0.3)


def regularized(a: Embeddings, c: Embeddings) -> Outcome:
    rule = disagreeing(0.4, push=0.2, weight="rare")
    return conr(told(a), told(c), rule=rule, weight="rare", temperature=0.3)


def noisy(a: Embeddings, c: Embeddings) -> Outcome:
    def loss(n: Embeddings) -> Tensor:
        return infonce(a, joined([c, n]), temperature=0.3).loss

    made = noise_negatives(6, a, loss, generator=drawn(), steps=2, size=0.1)
    return infonce(a, joined([c, made]), temperature=0.3)


def adversarial(a: Embeddings, c: Embeddings) -> Outcome:
    def contrast(e: Embeddings) -> Tensor:
        return infonce(a, e, temperature=0.3).loss

    def away(e: Embeddings) -> Tensor:
        return (e.z - c.z.detach()).square().sum()

    own = [adversarial_negatives(c, contrast, size=0.2), adversarial_positives(c, contrast, away, size=0.2)]
    return infonce_private(a, c, Embeddings.cat(own), own=private_to("sample"), temperature=0.3)


def hallucinated(a: Embeddings, _c: Embeddings) -> Outcome:
    ends = noise(5, a, drawn())
    return alignment(a, hallucinated_positives(a, ends, count=2, generator=drawn()), rule=private_to("sample"))


CASES: Cases = {
    "mixed_negatives": Case(mochi),
    "mixed_negatives, of a queue": Case(mochi, replicated=True),
    "infonce_private, learnable": Case(lambda a, c: mochi(a, c, T), (T,)),
    "extrapolated": Case(far),
    "interpolated": Case(between, replicated=True),
    "mixed": Case(soft, replicated=True),
    "shared_sources": Case(of_inputs),
    "mixed_by_value": Case(supremix),
    "conr": Case(regularized),
    "disagreeing": Case(regularized, sweeps=False),  # the sweep is that of conr
    "noise_negatives": Case(noisy),
    "adversarial_negatives": Case(adversarial),
    "adversarial_positives": Case(adversarial, sweeps=False),  # the same loss
    "hallucinated_positives": Case(hallucinated),
}
