"""Recipes that change who is a negative: false ones are spared, hard ones are made, sampled, or kept from harm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from counterpoint._ops.processes import all_sum
from counterpoint._ops.reduce import moments
from counterpoint.data.batches import Rows
from counterpoint.data.identity import content_id, ids_of
from counterpoint.encoders.clusters import Centroids
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.momentum import teacher_of
from counterpoint.encoders.text import load
from counterpoint.errors import Refusal
from counterpoint.objectives.clustered import band
from counterpoint.objectives.custom import joined
from counterpoint.objectives.softmax import Directions, infonce
from counterpoint.objectives.spread import alignment
from counterpoint.pairs.adversarial import noise_negatives
from counterpoint.pairs.clusters import beside_made, cluster_mates
from counterpoint.pairs.filters import equal, suspected, without
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.papers import paper
from counterpoint.recipes.text import encode_items, encoder_of, simcse
from counterpoint.training.method import Method
from counterpoint.types import Batch, Embeddings, Outcome, Pairs, same_sample
from counterpoint.views.items import Views, anchors_and_candidates, draw

__all__ = ["clp", "clusterns", "dclr"]
KIND = "text"
NEEDS = {"clp": ("anchor", "positive", "negative")}
UNOWNED = -1  # the label of a candidate that no query asks for
Encode = Callable[[nn.ModuleDict, dict[str, Batch]], dict[str, Embeddings]]


def complement_of(encoder: Encoder, teacher: str) -> Any:
    """A frozen model without dropout: that of a folder, or the encoder as it is now where none is named.

    Args:
        encoder: what is trained.
        teacher: a model folder or name; "" for the encoder's own copy.
    """
    frozen: Any = teacher_of(load(teacher, device=str(encoder.device)) if teacher else encoder)
    frozen.set_dropout(0.0)
    return frozen


def with_teacher(encode: Encode) -> Encode:
    """The same embeddings, with the vectors of `modules["teacher"]` as the fact `teacher`, without gradient."""

    def taught(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        with torch.no_grad():
            known = encode_items({"encoder": modules["teacher"]}, views)
        return {name: rows.told(teacher=known[name].z) for name, rows in encode(modules, views).items()}

    return taught


def with_salt(views: Views) -> Views:
    """The same views, with a number of this step in each row: the same for all rows and on all processes."""

    def salted(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        found, salt = views(batch, generator), torch.empty((), dtype=torch.int64).random_(generator=generator)
        return {name: {**view, "salt": salt.expand(len(view["id"])).clone()} for name, view in found.items()}

    return salted


def carrying(encode: Encode, *names: str) -> Encode:
    """The same embeddings, with columns of their batches as facts, unless a batch has none of the name."""

    def told(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        found = encode(modules, views)
        return {
            view: rows.told(**{n: views[view][n].to(rows.z.device) for n in names if n in views[view]})
            for view, rows in found.items()
        }

    return told


def of_id(rows: Embeddings, fact: str, id: Tensor) -> Tensor:
    """The fact of the row of each of these ids, which the rows have; of several rows of one id, of one of them.

    >>> of_id(Embeddings.of(torch.eye(2), id=torch.tensor([9, 4])).told(label=torch.tensor([1, 2])), "label", torch.tensor([4]))
    tensor([2])
    """
    order = torch.argsort(rows.id, stable=True)
    return rows.facts[fact][order[torch.searchsorted(rows.id[order], id)]]


def noise_alone(a: Embeddings, c: Embeddings) -> Pairs:
    """Views of one sample attract, made rows repel, other samples are ignored."""
    attract, repel = same_sample(a, c)
    return Pairs(attract, repel * (c.id < 0))


def _noise(sets: dict[str, Embeddings], times: float, size: float, steps: int, temperature: float) -> Embeddings:
    """Noise that has climbed to where the rows of this step are too many."""
    first, second = (replace(sets[name], z=sets[name].z.detach(), facts={}) for name in ("first", "second"))
    count = int(times * int(all_sum(torch.tensor(len(first), device=first.z.device))))
    drawn = torch.Generator().manual_seed(int(sets["first"].facts["salt"][0]) % 2**63)
    uneven = partial(infonce, rule=noise_alone, temperature=temperature, positives_compete=False)
    return noise_negatives(
        count, first, lambda noise: uneven(first, joined([second, noise])).loss, generator=drawn, steps=steps, size=size
    )


@paper(row=102)
def dclr(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.05,
    phi: float = 0.9,
    noise_times: float = 1.0,
    noise_steps: int = 4,
    noise_size: float = 1e-3,
    teacher: str = "",
    head: bool = True,
) -> Method:
    """DCLR: SimCSE whose suspected false negatives do not repel, and with noise for negatives where rows are too many.

        loss_i = -log( e^(s_ii / t) / (e^(s_ii / t) + sum_j alpha_ij e^(s_ij / t) + sum_k e^(s(h_i, n_k) / t)) )
        alpha_ij = 0 where the complementary model's cosine is at least phi, else 1

    Args:
        encoder: must have dropout, which makes the views differ.
        train: rows with anchor; every other column is ignored.
        temperature: divides the cosine; > 0.
        phi: from which cosine of the complementary model on a pair does not repel; > 0, above 1 all repel.
        noise_times: rows of noise for each row of the batch, at least 0.
        noise_steps: steps that the noise climbs, at least 0.
        noise_size: length of a step, > 0.
        teacher: folder or name of the complementary model, such as a trained SimCSE; "": the encoder before training.
        head: as of `simcse`.

    Raises:
        Refusal: for an encoder without dropout, or a phi that is not above 0.

    Differs:
        The authors' code multiplies logits by alpha, so that a spared pair still has e^0 in the denominator, and adds
        log(1 - p) of all negatives; and its noise climbs beside the batch. All three as in the paper here. The
        complementary model has no dropout.

    Relations:
        `simcse` with phi above 1 and no noise.

    References:
        Zhou et al. 2022, arXiv:2205.00656; phi, noise_times, steps and size as for BERT base in run.sh, train.py and
        simcse/models.py of github.com/RUCAIBox/DCLR.
    """
    if not phi > 0:
        raise Refusal("a phi above 0", phi, where="--set phi", remedy="0.9 spares what is nearly equal")
    method = simcse(encoder, train, temperature=temperature, head=head)
    rule = without(same_sample, suspected(least=phi)) if phi <= 1 else same_sample
    loss = partial(infonce, rule=rule, temperature=temperature)

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        first, second = sets["first"], sets["second"]
        if noise_times > 0:
            noise = _noise(sets, noise_times, noise_size, noise_steps, temperature)
            unlike = torch.zeros(len(noise), second.facts["teacher"].shape[1]).to(second.facts["teacher"])
            second = joined([second, noise.told(teacher=unlike)])
        return loss(first, second)

    return replace(
        method,
        modules=nn.ModuleDict({**method.modules, "teacher": complement_of(encoder, teacher)}),
        views=with_salt(method.views),
        encode=carrying(with_teacher(method.encode), "salt"),
        objective=objective,
    )


@paper(row=146)
def clusterns(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.05,
    clusters: int = 128,
    momentum: float = 0.999,
    start: float = 0.4,
    weight: float = 1.0,
    band_weight: float = 1e-4,
    alpha: float = 0.2,
    beta: float = 0.5,
    head: bool = True,
) -> Method:
    """ClusterNS: SimCSE with each row's nearest foreign centroid as a hard negative; its own cluster is held, not repelled.

        loss = infonce over the batch without one's own cluster, and with the nearest foreign centroid of each row
             + band_weight * `band` of rows of one cluster

    Args:
        encoder: must have dropout, which makes the views differ.
        train: rows with anchor; every other column is ignored.
        temperature: divides the cosine; > 0.
        clusters: how many centroids, at least 2.
        momentum: what of a centroid stays in a step, from 0 to below 1.
        start: centroids are there from the first batch on whose mean cosine is at most this; before, this is SimCSE.
        weight: of a row's own hard negative, at least 0; those of other rows have 1.
        band_weight: of the second term, at least 0.
        alpha, beta: by how much a row of one's cluster is to be less near than the positive, at least and at most.
        head: as of `simcse`.

    Raises:
        Refusal: for an encoder without dropout.

    Differs:
        The authors' code leaves rows of one cluster among the negatives and moves centroids before a batch uses them;
        here after it. See `Centroids`, which also says what happens in a small first batch.

    Relations:
        `simcse` as long as there are no centroids.

    References:
        Deng et al. 2023, arXiv:2305.09892; defaults as in run_non_prompt.sh and train.py of github.com/djz233/ClusterNS.
    """
    method = simcse(encoder, train, temperature=temperature, head=head)
    kept = Centroids(clusters, int(encoder.width), momentum=momentum).to(encoder.device)
    spared = beside_made(without(same_sample, equal("cluster")), weight=weight)

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        centroids = cast(Centroids, modules["centroids"])
        if not centroids.started:
            return Outcome.of(contrast=(1.0, method.objective(modules, sets)))
        first, second = (sets[name].told(owner=sets[name].id) for name in ("first", "second"))
        first = first.told(cluster=centroids.assign(first.z))
        second = second.told(cluster=of_id(first, "cluster", second.id))
        hard = joined([second, centroids.foreign(first)])
        near = infonce(first, hard, rule=spared, temperature=temperature)
        held = band(first, second, rule=cluster_mates(), alpha=alpha, beta=beta)
        return Outcome.of(contrast=(1.0, near), band=(band_weight, held))

    def after(modules: nn.ModuleDict, sets: dict[str, Embeddings], _outcome: Outcome) -> None:
        centroids = cast(Centroids, modules["centroids"])
        if centroids.started or _mean_cosine(sets["first"], sets["second"]) <= start:
            centroids.follow(sets["first"].to_unit())

    return replace(
        method, modules=nn.ModuleDict({**method.modules, "centroids": kept}), objective=objective, after=after
    )


@torch.no_grad()
def _mean_cosine(first: Embeddings, second: Embeddings) -> float:
    """Of all rows of one set with all of another, over all processes."""
    one, other = (moments(rows.to_unit().z, diagonal=True).mean for rows in (first, second))
    return float(one @ other)


def with_own_queries(train: Rows, *, negatives: int) -> Views:
    """The views of labelled pairs, and as "asked" a query for each negative of which it is a positive, where there is one.

    A negative and its query share a number as `label`; candidates without one have -1.

    Args:
        train: rows with anchor, positive and negative; whatever they list as a positive may be a negative of other rows.
        negatives: how many of each row.
    """
    asking: dict[int, list[str]] = {}
    for anchor, positives in zip(train.anchors, train.positives, strict=True):
        for positive in positives:
            asking.setdefault(content_id(positive), []).append(anchor)
    pair = anchors_and_candidates(negatives=negatives)

    def views(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        found = pair(batch, generator)
        known = found["candidate"]["id"].tolist()
        rows = batch["row"].tolist()
        owners = [row for row, cell in zip(rows, batch["negative"], strict=True) for _ in cell[:negatives]]
        numbers = torch.tensor(
            [UNOWNED] * len(rows)
            + [content_id(f"{row} {one}") for row, one in zip(owners, known[len(rows) :], strict=True)]
        )
        asked = [
            asking.get(one, []) if number >= 0 else [] for one, number in zip(known, numbers.tolist(), strict=True)
        ]
        texts = draw(asked, 1, rows=numbers, generator=generator)
        label = numbers[[bool(some) for some in asked]]
        found["candidate"] = {**found["candidate"], "label": numbers}
        found["asked"] = {"text": texts, "id": ids_of(texts), "role": "anchor", "label": label, "view": 1}
        return found

    return views


@paper(row=156)
def clp(
    encoder: Encoder,
    train: Rows,
    *,
    temperature: float = 0.02,
    penalty: float = 0.1,
    negatives: int = 4,
    directions: Directions = "forward",
) -> Method:
    """CLP: pairs with hard negatives, each of which is held near a query that it answers while others push it away.

        loss = (1 - penalty) infonce + penalty mean over hard negatives d with a query q of their own of (1 - cos(q, d))

    Args:
        encoder: encodes both sides.
        train: rows with anchor, positive and negative. A negative's own queries are the anchors that list it as a positive,
            as where negatives were mined among the positives of all rows; one without any is pushed as ever.
        temperature: divides the cosine; > 0.
        penalty: weight of the second term, from 0 to 1.
        negatives: how many of a row's negatives a batch takes, drawn anew each time; at least 1.
        directions: as of `pairs`.

    Raises:
        Refusal: for a penalty outside 0 to 1.

    Differs:
        The paper has a language model write the queries. Its formula puts the penalty inside the bracket that is
        subtracted and sums over queries; here as in its text and the authors' code, which adds the mean. The layers of
        experts, of which alone the authors train the weights, are left out.

    Relations:
        `pairs_with_negatives` with a penalty of 0.

    References:
        Yu 2024, arXiv:2412.17364; modeling.py and README.md of github.com/CreaLabs/Enhanced-BGE-M3-with-CLP-and-MoE.
    """
    if not 0 <= penalty <= 1:
        raise Refusal("a penalty from 0 to 1", penalty, where="--set penalty")
    loss = partial(infonce, rule=listed(train.relation), temperature=temperature, directions=directions)

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        near = loss(sets["anchor"], sets["candidate"])
        if not penalty or "asked" not in sets:  # no process has a query for any negative of this batch
            return Outcome.of(contrast=(1 - penalty, near))
        apart = alignment(sets["asked"], sets["candidate"], rule=labelled())
        return Outcome.of(contrast=(1 - penalty, near), penalty=(penalty / 2, apart))

    views = with_own_queries(train, negatives=negatives)
    return Method(nn.ModuleDict({"encoder": encoder}), views, encode_items, objective, encoder_of)
