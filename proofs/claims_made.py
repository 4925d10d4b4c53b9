"""Claims of made rows: mixtures, extrapolations, hallucinations, noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from claim import Claim
from claims_soft import noisy, told
from claims_softmax import SIMCLR, accuracy, across
from small import augmented, diabetes, digits, knn, mlp, r2, rank_of_values, recall, trained, vectors
from torch import Tensor, nn

from counterpoint._ops.processes import joined
from counterpoint.encoders.clusters import spherical_kmeans
from counterpoint.encoders.momentum import Queue, follow, teacher_of
from counterpoint.objectives.continuous import conr
from counterpoint.objectives.joint import sscd
from counterpoint.objectives.private import infonce_private
from counterpoint.objectives.softmax import infonce
from counterpoint.objectives.spread import alignment
from counterpoint.pairs.adversarial import noise_negatives
from counterpoint.pairs.hallucinated import hallucinated_positives
from counterpoint.pairs.mixed import beta_shares, extrapolated, interpolated, mixed, mixed_negatives
from counterpoint.pairs.remembered import against_queue
from counterpoint.pairs.soft import near
from counterpoint.pairs.synthetic import private_to, shared_sources
from counterpoint.pairs.valued import disagreeing, mixed_by_value
from counterpoint.types import Batch, Embeddings, Outcome

Loss = Callable[[Embeddings, Embeddings, Embeddings, torch.Generator], Outcome]  # queries, keys, queue


def moco(loss: Loss, seed: int) -> float:
    """Accuracy after momentum contrast with a queue of 512."""
    data, encoder = digits(seed), mlp(64)
    generator = torch.Generator().manual_seed(seed)
    modules = {"encoder": encoder, "teacher": teacher_of(encoder), "queue": Queue(512, 32)}

    def views(batch: Batch, g: torch.Generator) -> dict[str, Batch]:
        found = augmented()(batch, g)
        return found | {"view1": {**found["view1"], "by": "teacher"}}

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        keys = sets["view1"].to_unit()
        keys = replace(keys, z=keys.z.detach(), facts={})
        return loss(replace(sets["view0"], facts={}).to_unit(), keys, cast(Queue, modules["queue"]).rows(), generator)

    def after(modules: nn.ModuleDict, sets: dict[str, Embeddings], _outcome: Outcome) -> None:
        follow(modules["teacher"], modules["encoder"], momentum=0.98)
        cast(Queue, modules["queue"]).push(replace(sets["view1"], facts={}).to_unit())

    return knn(trained(modules, views, objective, data, seed=seed, after=after)["encoder"], data)


CONTRAST = partial(infonce, rule=against_queue, temperature=0.1)


def plainly(q: Embeddings, k: Embeddings, queue: Embeddings, _g: torch.Generator) -> Outcome:
    """MoCo."""
    return CONTRAST(q, joined([k, queue]))


def mochi(q: Embeddings, k: Embeddings, queue: Embeddings, g: torch.Generator) -> Outcome:
    """With negatives mixed of hard ones."""
    if not len(queue):
        return plainly(q, k, queue, g)
    made = mixed_negatives(q, queue, nearest=64, pairs=32, with_query=16, generator=g)
    both = joined([k, queue])
    return infonce_private(q, both, made, own=private_to(), rule=against_queue, temperature=0.1)


def transformed(q: Embeddings, k: Embeddings, queue: Embeddings, g: torch.Generator) -> Outcome:
    """With the positive pair pushed apart and the queue mixed with itself."""
    apart = extrapolated(q, k, beta_shares(2.0, (len(q),), g, above=1.0))
    if not len(queue):
        return CONTRAST(apart[0], joined([apart[1], queue]))
    shares = beta_shares(1.6, (len(queue),), g)
    return CONTRAST(apart[0], joined([apart[1], interpolated(queue, torch.randperm(len(queue), generator=g), shares)]))


def hallucinated(q: Embeddings, k: Embeddings, queue: Embeddings, g: torch.Generator) -> Outcome:
    """With positives on the way to near prototypes of the queue."""
    found = plainly(q, k, queue, g)
    if len(queue) < 512:
        return found
    centres = spherical_kmeans(queue.z, 20, iterations=5).centers
    prototypes = replace(Embeddings.of(centres, id=-1 - torch.arange(20)), placement="replicated")
    made = hallucinated_positives(k, prototypes, count=4, among=5, generator=g)
    return Outcome.of(moco=(1.0, found), made=(0.5, alignment(q, made, rule=private_to("sample"))))


def half_mixed(a: Embeddings, c: Embeddings) -> Outcome:
    """Left halves mixed with each other, which both partners' right halves belong to."""
    order = torch.randperm(len(a))
    b = beta_shares(0.15, (len(a),), torch.Generator().manual_seed(int(order[0])))
    bare = replace(a, facts={}), replace(c, facts={})
    return SIMCLR(mixed(bare[0].to_unit(), order, b), bare[1], rule=shared_sources())


def with_noise(count: int, a: Embeddings, c: Embeddings) -> Outcome:
    """SimCLR with noise negatives that were moved to where rows crowd."""
    bare = replace(a, facts={}).to_unit(), replace(c, facts={}).to_unit()
    still = [replace(rows, z=rows.z.detach()) for rows in bare]
    generator = torch.Generator().manual_seed(int(a.id[0]))
    made = noise_negatives(
        count, still[1], lambda n: infonce(still[0], joined([still[1], n]), temperature=0.1).loss,
        generator=generator, steps=4, size=1.0,
    )  # fmt: skip
    return infonce(bare[0], joined([bare[1], made]) if count else bare[1], temperature=0.1)


def regression(term: Callable[[Embeddings, Tensor], Outcome | None], measure: Callable, seed: int) -> float:
    """After training to predict how far an illness went, with a term beside the squared error."""
    data = diabetes(seed)
    modules = {"encoder": mlp(10), "head": nn.Linear(32, 1)}

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        rows = sets["view0"]
        said = modules["head"](rows.z)[:, 0]
        y = rows.facts["label"]
        error = Outcome({"x": (said - y).square().mean()}, {"x": 1.0}, {})
        beside = term(told(rows, value=y, predicted=said.detach()), said)
        return error if beside is None else Outcome.of(error=(1.0, error), beside=(1.0, beside))

    return measure(trained(modules, noisy, objective, data, seed=seed)["encoder"], data)


def contrastive_regression(rows: Embeddings, _said: Tensor) -> Outcome:
    """The regularizer for continuous labels."""
    return conr(rows, rule=disagreeing(0.2, push=0.5), temperature=0.2)


def ordered(with_mixtures: bool, seed: int) -> float:
    """Spearman of distances with distances of values, trained by contrast of labels alone."""
    data = diabetes(seed)

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        a, c = (told(rows, value=rows.facts["label"]) for rows in sets.values())
        rule = near(width=0.05, least=0.3)
        if not with_mixtures:
            return infonce(a, c, rule=rule, temperature=0.2)
        g = torch.Generator().manual_seed(int(a.id[0]))
        made = mixed_by_value(a, negatives=16, positives=16, window=1.0, generator=g)
        return infonce_private(a, c, made, own=private_to(), rule=rule, temperature=0.2)

    return rank_of_values(trained({"encoder": mlp(10)}, noisy, objective, data, seed=seed)["encoder"], data)


def copies_found(entropy: float, seed: int) -> float:
    """How many strongly moved digits find their original first among those held out, by one threshold: average precision."""
    from sklearn.metrics import average_precision_score
    from small import moved

    data = digits(seed)

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        return sscd(Embeddings.cat(list(sets.values())), temperature=0.1, entropy=entropy)

    encoder = trained({"encoder": mlp(64)}, augmented(), objective, data, seed=seed)["encoder"]
    copies = moved(data.held, torch.Generator().manual_seed(seed), 0.2)
    scores = vectors(encoder, copies) @ vectors(encoder, data.held).T
    return float(average_precision_score(torch.eye(len(scores)).flatten(), scores.flatten()))


CLAIMS = [
    Claim("mixed negatives (MoCHi)", "negatives mixed of hard ones improve momentum contrast",
          "accuracy of 5 neighbours", partial(moco, mochi), partial(moco, plainly), row=182),
    Claim("feature transformation (FT)", "pairs pushed apart and a mixed queue improve momentum contrast",
          "accuracy of 5 neighbours", partial(moco, transformed), partial(moco, plainly), row=204),
    Claim("hallucinated positives (HaLP)", "positives made towards near prototypes improve momentum contrast",
          "accuracy of 5 neighbours", partial(moco, hallucinated), partial(moco, plainly), row=226),
    Claim("mixed across modalities (M3CoL)", "mixtures that match both partners improve alignment of modalities",
          "recall@10 between halves", partial(across, half_mixed, recall), partial(across, SIMCLR, recall), row=207),
    Claim("noise negatives (DCLR)", "negatives from noise improve the space",
          "accuracy of 5 neighbours, batches of 32",
          partial(accuracy, partial(with_noise, 32), batch=32), partial(accuracy, partial(with_noise, 0), batch=32), row=102),
    Claim("contrastive regularizer (ConR)", "it improves a regression's features",
          "R^2 of a ridge regression (diabetes)", partial(regression, contrastive_regression, r2),
          partial(regression, lambda _rows, _said: None, r2), row=123),
    Claim("mixtures by value (SupReMix)", "mixtures of known value order the space by value",
          "Spearman of distances with distances of values (diabetes)", partial(ordered, True), partial(ordered, False), row=41),
    Claim("entropy of descriptors (SSCD)", "spreading descriptors by KoLeo makes one threshold find copies",
          "average precision of copies", partial(copies_found, 5.0), partial(copies_found, 0.0), row=88),
]  # fmt: skip
