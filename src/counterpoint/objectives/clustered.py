"""Losses that stand on clusters: rows against prototypes, nodes against meta-nodes, members of a cluster in a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint._ops.join import matches
from counterpoint._ops.processes import all_max, all_sum, everywhere, joined, summed
from counterpoint._ops.reduce import mean
from counterpoint._ops.scores import FLOOR
from counterpoint._ops.sinkhorn import sinkhorn
from counterpoint.objectives.custom import Output, Rule, Side, as_embeddings, dot, sweep, times
from counterpoint.objectives.positives import positives_alone
from counterpoint.objectives.softmax import LOGITS, Temperature, between, cooled
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, Pairs, same_sample

AIM, BIAS, OWN, SIZE, NODE = "_aim", "_bias", "_own", "_size", "_node"  # facts that carry numbers into sweeps


def _above_0(**given: float) -> None:
    """Refuse what is not above 0."""
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"wanted {name} above 0, got {value}")


def _wide(rows: Embeddings) -> Embeddings:
    """Half-precision vectors as fp32."""
    return replace(rows, z=rows.z.to(torch.promote_types(rows.z.dtype, torch.float32)))


def _towards(
    anchors: Embeddings, prototypes: Embeddings, *, temperature: Temperature, sharp: float, unit: bool = True
) -> Float[Tensor, " n"]:
    """The cross-entropy of each anchor's softmax over prototypes with its soft target.

    The target is softmax_k(sharp aim_i . aim_k + bias_k), made of facts, and takes no gradient.
    """
    anchors, prototypes, _, bound = cooled(anchors, prototypes, temperature, unit=unit)

    def tile(
        scores: Mapping[str, Tensor], _pairs: Pairs, _a: Side, c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        return {"all": scores["s"], "aim": (scores["s"], sharp * scores["aim"] + c[BIAS])}

    swept = sweep(
        tile,
        anchors,
        prototypes,
        scores={**LOGITS, "aim": dot(AIM)},
        rows={"all": "logsumexp", "aim": "mean_under"},
        bounds={"all": between(bound)["denominator"]} if bound is not None else None,  # type: ignore[index]
    ).rows
    return swept["all"] - swept["aim"]


@paper(row=18)
def prototypical(
    anchors: Embeddings,
    prototypes: Embeddings,
    *,
    temperature: Temperature = 0.07,
    teacher_temperature: float = 0.1,
    cluster: str = "cluster",
    teacher: str = "teacher",
    unit: bool = False,
) -> Outcome:
    """Each row has to find the prototype of its cluster, and prototypes near that one by as much as they are near (ProtoCLIP).

    With c(i) the cluster of row i, p_k the prototypes on the side of the rows and T_k those of the teacher,

        loss_i = - sum_k q_ik log softmax_k(z_i . p_k / t),    q_ik = softmax_k(T_c(i) . T_k / t')

    and the result is the mean over rows whose cluster has a prototype. Targets take no gradient.

    Args:
        anchors: n rows with the fact of their cluster, which the teacher found.
        prototypes: k rows with the fact of their cluster and of what the teacher has in its place, [k, any width]. The
            mean of the rows themselves that the teacher puts together as z is the paper's back translation.
        temperature: t > 0; a number, one for each anchor, or the name of the anchors' fact that holds them.
        teacher_temperature: t' > 0; towards 0 the target is the own cluster alone.
        cluster: the name of the integer fact.
        teacher: the name of the prototypes' fact.
        unit: scale rows and prototypes to length 1 first. The authors scale rows only, which the caller has done then.

    Returns:
        One term, "prototypical", in nats, at least 0.

    Raises:
        ValueError: for a temperature that is not above 0.
        KeyError: for a fact that rows do not have.

    Differs:
        The authors call for each direction and take half the sum, and add the loss of CLIP: `Outcome.of` does both. A
        teacher_temperature of at most 0 means hard labels to their code; here that is `infonce` with labelled(cluster).

    Relations:
        As teacher_temperature goes to 0 it is `infonce` of rows against prototypes under `labelled`. `swapped` has the
        same form, with targets of a balanced assignment.

    References:
        Chen et al. 2022, arXiv:2206.10996; ProtoLoss in src/training/loss.py of github.com/megvii-research/protoclip.

    >>> rows = Embeddings.of(torch.eye(2), facts={"cluster": torch.arange(2)})
    >>> p = Embeddings.of(torch.eye(2), id=-1 - torch.arange(2), facts={"cluster": torch.arange(2), "teacher": torch.eye(2)})
    >>> round(prototypical(rows, p, temperature=1.0, teacher_temperature=0.01).loss.item(), 4)      # log(1 + exp(-1))
    0.3133
    """
    _above_0(teacher_temperature=teacher_temperature)
    row, col = matches(anchors.facts[cluster], prototypes.facts[cluster])
    first = torch.full((len(anchors),), len(prototypes), device=row.device).scatter_reduce(0, row, col, "amin")
    known = torch.nonzero(first < len(prototypes)).flatten()
    aims = prototypes.facts[teacher].detach()
    rows = anchors.rows(known)
    loss = _towards(
        replace(rows, facts={**rows.facts, AIM: aims[first[known]]}),
        replace(prototypes, facts={**prototypes.facts, AIM: aims, BIAS: aims.new_zeros(len(aims))}),
        temperature=temperature if not isinstance(temperature, Tensor) or not temperature.ndim else temperature[known],
        sharp=1 / teacher_temperature,
        unit=unit,
    )
    return Outcome.term("prototypical", mean(loss))


@paper(row=23)
def swapped(
    anchors: Embeddings,
    prototypes: Embeddings,
    *,
    coded: Sequence[int] = (0, 1),
    past: Mapping[int, Embeddings] | None = None,
    temperature: float = 0.1,
    eps: float = 0.05,
    iterations: int = 3,
) -> Outcome:
    """Each view of a sample has to predict to which prototypes another view of it is assigned, evenly over all (SwAV).

    For the code q of view s, and all other views t of the same sample,

        loss_st = - sum_k q_sk log softmax_k(z_t . p_k / temperature),    q_sk = exp(z_s . p_k / eps + a_s + b_k)

    where a and b make the codes of a view sum to 1 over prototypes, and to as much for each prototype over the batch
    (Sinkhorn). The result is the mean over pairs (s, t). Codes take no gradient.

    Args:
        anchors: all views of all samples; paired by id, told apart by view.
        prototypes: k rows, the same on all processes; see `encoders.prototypes`.
        coded: the views that are assigned, such as the two large crops; all views predict.
        past: for a coded view, rows of past batches that take part in the assignment, such as a queue's.
        temperature: > 0.
        eps: > 0, how soft codes are: 0 assigns each row to one prototype, infinity evenly to all.
        iterations: of Sinkhorn, at least 0; 0 gives the codes of a softmax, which need not be even.

    Returns:
        One term, "swapped", in nats, at least 0; log k for prototypes that are all equal.

    Raises:
        ValueError: for a temperature or an eps that is not above 0.

    Differs:
        Rows and prototypes are scaled to length 1 here. The sums of Sinkhorn are over all processes, however many rows
        each has, where the authors' code takes it that all have as many. It lets the queue be per process.

    Relations:
        `prototypical` has the same form, with targets from a teacher's prototypes.

    References:
        Caron et al. 2020, arXiv:2006.09882; main_swav.py of github.com/facebookresearch/swav, whose defaults these are.

    >>> two = Embeddings.cat([Embeddings.of(torch.eye(2)), Embeddings.of(torch.eye(2), view=1)])
    >>> prototypes = Embeddings.of(torch.eye(2), id=-1 - torch.arange(2))
    >>> round(swapped(two, prototypes, temperature=1.0, eps=0.05).loss.item(), 4)      # log(1 + exp(-1))
    0.3133
    """
    _above_0(temperature=temperature, eps=eps)
    anchors, prototypes = _wide(anchors).to_unit(), _wide(prototypes).to_unit()
    still = replace(prototypes, z=prototypes.z.detach(), facts={})
    found = []
    for view in coded:
        codes = anchors.rows(anchors.view == view)
        codes = replace(codes, z=codes.z.detach(), facts={})
        queued = (past or {}).get(view)
        balanced = codes if queued is None else joined([codes, replace(queued, z=queued.z.to(codes.z), facts={})])
        plan = sinkhorn(balanced, still, scale=1 / eps, iterations=iterations)
        others, codes = anchors.rows(anchors.view != view), everywhere(codes)
        row, col = matches(others.id, codes.id)
        found.append(
            _towards(
                replace(others.rows(row), facts={AIM: codes.z[col]}),
                replace(prototypes, facts={AIM: still.z, BIAS: plan.columns}),
                temperature=temperature,
                sharp=1 / eps,
            )
        )
    return Outcome.term("swapped", mean(torch.cat(found)))


def _meta_nodes(anchors: Embeddings, cluster: str, *, counted: bool) -> tuple[Embeddings, Tensor]:
    """The mean of each cluster's rows over all processes, or its direction, and how many rows it has."""
    label = anchors.facts[cluster]
    known = label >= 0
    most = int(all_max(torch.cat([label, label.new_full((1,), -1)]).amax())) + 1
    sizes = all_sum(torch.zeros(most, dtype=anchors.z.dtype, device=label.device).index_add(
        0, label[known], torch.ones_like(anchors.z[known, 0])))  # fmt: skip
    sums = summed(anchors.z.new_zeros(most, anchors.z.shape[1]).index_add(0, label[known], anchors.z[known]))
    number = torch.arange(most, device=label.device)
    zeros = torch.zeros_like(number)
    nodes = Embeddings(
        sums / sizes.clamp(min=1)[:, None],
        -1 - number,
        zeros,
        zeros,
        zeros,
        {SIZE: sizes, NODE: number},
        placement="replicated",
    )
    return nodes if counted else nodes.to_unit(), sizes


@paper(row=185)
def block_infonce(
    anchors: Embeddings,
    *,
    rule: Rule = same_sample,
    cluster: str = "cluster",
    temperature: float = 1.0,
    counted: bool = True,
) -> Outcome:
    """Each row is drawn to its positives; the repulsion of all from all is that of a few meta-nodes (PamC).

    With unit rows x_i, attract weights w_ij, clusters a of n_a rows whose mean is m_a, and n rows in all,

        loss = - mean_i log sum_j w_ij exp(x_i . x_j / t) + sum_a n_a / n log sum_b (n_b - [a = b]) exp(m_a . m_b / t)

    where the first mean is over rows that have a positive. The second term takes clusters squared and not rows squared,
    and a gradient through all rows of a cluster.

    Args:
        anchors: n rows with the fact of their cluster, such as the nodes of a graph.
        rule: who attracts whom, such as `listed` edges; repel weights are not read.
        cluster: the name of the fact with the number of each row's cluster, from 0; a row below 0 repels nothing.
        temperature: t > 0, of the cosine; the authors multiply by tau = 1 / t.
        counted: False is the authors' code: every cluster counts once, whatever its size, by its direction, and the pair
            of a cluster with itself as one of cosine 0.

    Returns:
        One term, "block_infonce", in nats.

    Raises:
        ValueError: for a temperature that is not above 0.

    Differs:
        Clusters are given as numbers, as the authors' code takes the likeliest of its soft assignments; the objective
        that learns these is not part of it. Counting by sizes is what makes it exact where the rows of a cluster
        coincide, and for clusters of one row; it is derived from the mechanism, the authors' code is `counted=False`.

    Relations:
        With a cluster for each row it is the loss with all pairs in the denominator but oneself, positives among them.
        By Jensen's inequality in each pair of clusters the second term is never above that of all pairs, but for what a
        cluster's rows have with themselves.

    References:
        Kulatilleke, Portmann, Chandra 2022, arXiv:2209.14067; NcontrastCC in train.py of github.com/gayanku/PAMC.

    >>> x = torch.eye(2).repeat(2, 1)      # two clusters of two equal rows
    >>> nodes = Embeddings.of(x, id=torch.tensor([1, 2, 1, 2]), facts={"cluster": torch.tensor([0, 1, 0, 1])})
    >>> nodes = replace(nodes, view=torch.tensor([0, 0, 1, 1]))
    >>> round(block_infonce(nodes).loss.item(), 4)      # -1 + log(e + 2)
    0.5514
    """
    _above_0(temperature=temperature)
    anchors, candidates, _, bound = cooled(anchors, None, temperature)
    drawn = positives_alone(anchors, candidates, rule=rule, bound=bound, directions="forward").rows["above"]
    nodes, sizes = _meta_nodes(candidates, cluster, counted=counted)

    def tile(
        scores: Mapping[str, Tensor], _pairs: Pairs, a: Side, c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        own, s = a[NODE] == c[NODE], scores["s"] / temperature
        if counted:
            return {"away": (s, c[SIZE] - own.to(s))}
        return {"away": (torch.where(own, torch.zeros_like(s), s), (c[SIZE] > 0).to(s))}

    away = sweep(tile, nodes, nodes, rows={"away": "logsumexp"}).rows["away"]
    weight = (sizes if counted else (sizes > 0).to(sizes)) * (away > FLOOR / 2)
    # Every process has the whole of this, and carries the gradient of its own rows alone: nothing is left to be added up.
    pushed = (away * weight).sum() / torch.where(weight.sum() > 0, weight.sum(), torch.ones_like(weight.sum()))
    has = drawn > FLOOR / 2
    loss = pushed - mean(torch.where(has, drawn, torch.zeros_like(drawn)), has.to(drawn))
    return Outcome.term("block_infonce", loss)


@paper(row=146)
def band(
    anchors: Embeddings | Float[Tensor, "n d"],
    candidates: Embeddings | Float[Tensor, "m d"] | None = None,
    *,
    rule: Rule = same_sample,
    alpha: float = 0.2,
    beta: float = 0.5,
) -> Outcome:
    """Rows that are likely alike, but are not known to be, are held less near than the positive, and not too far.

    With the cosine s, p_i the mean cosine of anchor i with its positives, and r_ij how strongly a pair is held,

        D_ij = s_ij - p_i,    loss = sum_ij r_ij (max(0, D_ij + alpha) + max(0, -D_ij - beta)) / sum_ij r_ij

    over anchors that have a positive: it is 0 where D lies between -beta and -alpha (ClusterNS calls it bidirectional).

    Args:
        anchors: n rows, or a plain [n, d] tensor.
        candidates: m rows; with plain tensors row i pairs with row i, explicitly. None: the anchors themselves.
        rule: attracts positives; what it lets repel are the pairs that are held, such as `cluster_mates`.
        alpha: by how much a held pair is to be less alike than the positive; below beta.
        beta: by how much at most.

    Returns:
        One term, "band", at least 0, in units of similarity; 0 without a held pair.

    Raises:
        ValueError: for plain tensors of different length, or an alpha above beta.

    Relations:
        It stands beside `infonce` with a small weight, 1e-4 in the authors' scripts.

    References:
        Deng et al. 2023, arXiv:2305.09892; BML_loss in simcse/models.py of github.com/djz233/ClusterNS, whose scripts have
        alpha = 0.2 and beta = 0.5.

    >>> band(torch.eye(2), torch.eye(2)).loss.item()      # D = -1, which is 0.5 below the band
    0.5
    """
    if not alpha <= beta:
        raise ValueError(f"wanted an alpha of at most beta, got {alpha} and {beta}")
    anchors, candidates = (_wide(rows).to_unit() for rows in as_embeddings(anchors, candidates))
    near = sweep(
        lambda s, p, _a, _c, _k: {"pull": times(p.attract, s["s"]), "attract": p.attract},
        anchors,
        candidates,
        rule=rule,
        rows={"pull": "total", "attract": "total"},
    ).rows
    has = near["attract"] > 0
    own = near["pull"] / torch.where(has, near["attract"], torch.ones_like(near["attract"]))

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, a: Side, _c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        apart = scores["s"] - a[OWN]
        return {"cost": times(pairs.repel, (apart + alpha).relu() + (-apart - beta).relu()), "held": pairs.repel}

    told = replace(anchors, facts={**anchors.facts, OWN: own})
    held = sweep(tile, told, candidates, rule=rule, rows={"cost": "total", "held": "total"}).rows
    amount = held["held"]
    loss = mean(held["cost"] / torch.where(amount > 0, amount, torch.ones_like(amount)), amount * has)
    return Outcome.term("band", loss)
