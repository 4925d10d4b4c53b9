"""Distillation: a student's similarities follow a teacher's, as a distribution, by their order, or pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from counterpoint._ops.processes import everywhere
from counterpoint._ops.reduce import mean
from counterpoint._ops.running import Reduction
from counterpoint._ops.scores import FLOOR, Score
from counterpoint.objectives.custom import (
    Directions,
    Output,
    Rule,
    Side,
    Tile,
    as_embeddings,
    dot,
    keep,
    per_row,
    sweep,
    times,
)  # fmt: skip
from counterpoint.objectives.softmax import LOGITS, Temperature, cooled
from counterpoint.papers import paper
from counterpoint.types import Edges, Embeddings, Outcome, Pairs, same_sample

TAUGHT = "_teacher"  # the fact of a teacher's vectors, without gradient, as wide as the rows
RIGHT: dict[str, Reduction] = {"best": "maximum", "hit": "maximum"}
DIVERGENCE: dict[str, Reduction] = {
    "student": "logsumexp", "teacher": "logsumexp", "cross": "mean_under", "own": "mean_under"
}  # fmt: skip


def _taught(rows: Embeddings, fact: str) -> Embeddings:
    """The rows with what the teacher says of them."""
    if fact not in rows.facts:
        known = ", ".join(sorted(rows.facts)) or "none"
        raise KeyError(f"wanted the teacher's vectors as the fact '{fact}' of both sides; one has: {known}")
    return replace(rows, facts={**rows.facts, TAUGHT: rows.facts[fact].detach().to(rows.z.dtype)})


def _both_softmaxes(warmth: float, judge: bool) -> Tile:
    """The student's and the teacher's logits over the pairs that the rule says something of."""

    def tile(
        scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, _c: Side, _params: Mapping[str, Tensor]
    ) -> Mapping[str, Output]:
        student, teacher = scores["s"], scores["teacher"] / warmth
        there = ((pairs.attract > 0) | (pairs.repel > 0)).to(student.dtype)
        among = keep(teacher, there > 0, FLOOR)
        found: dict[str, Output] = {
            "student": (student, there), "teacher": (teacher, there), "cross": (student, among), "own": (teacher, among)
        }  # fmt: skip
        if judge:
            found |= {"best": among, "hit": keep(teacher, pairs.attract > 0, FLOOR)}
        return found

    return tile


def _divergence(found: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The Kullback-Leibler divergence of each row, and whether it counts."""
    counts = found["student"] > FLOOR / 2
    loss = (found["own"] - found["teacher"]) - (found["cross"] - found["student"])
    counted = counts & (found["hit"] >= found["best"]) if "hit" in found else counts
    return torch.where(counted, loss, torch.zeros_like(loss)), counts.to(loss)


@paper(row=223)
@paper(row=227)
def distillation(
    anchors: Embeddings,
    candidates: Embeddings | None = None,
    *,
    teacher: str = "teacher",
    rule: Rule = same_sample,
    temperature: Temperature = 1.0,
    teacher_temperature: float | None = None,
    directions: Directions = "forward",
    right_only: bool = False,
    unit: bool = True,
) -> Outcome:
    """The student's softmax over candidates follows the teacher's: what is near to whom, not only which pair is right.

    Over all candidates that the rule says something of, also the positives,

        loss_i = sum_j p_ij log(p_ij / q_ij),   p_ij ~ exp(u_i.v_j / T),   q_ij ~ exp(s_ij / t_i)

    for the student's similarity s and the teacher's vectors u, v; the result is the mean over anchors with a candidate.

    Args:
        anchors: n rows with the teacher's vectors as a fact.
        candidates: m rows with the same fact. None: the anchors themselves.
        teacher: the name of that fact, [n e]; of unit rows u.v is a cosine. No gradient goes to it.
        rule: which pairs are looked at: all that attract or repel; with `right_only` also who is right.
        temperature: t > 0 of the student; a number, one for each anchor, or the name of the anchors' fact that holds them.
        teacher_temperature: T > 0; None: that of the student, which has to be a number then.
        directions: "both" averages this with the same of each candidate over the anchors.
        right_only: an anchor whose nearest candidate by the teacher is not a positive costs nothing, as if the teacher
            said what the student says. It still counts in the mean.
        unit: scale rows to length 1 first; False: s is the plain dot product.

    Returns:
        One term, "distillation", in nats, at least 0; 0 where both distributions are equal. Notes, [n], detached:
        "entropy" of the teacher's distribution in nats.

    Raises:
        KeyError: for rows without the teacher's fact.
        ValueError: for a temperature that is not above 0, or none for the teacher beside a temperature by anchor.

    Differs:
        The code of Mod-X sums over anchors where this is the mean. PRD takes the softmax of a prototype over the batch,
        as its paper says, when prototypes are the anchors; its code takes that of a sample over the prototypes of one
        old task and adds up tasks, which is this with samples as anchors.

    Relations:
        Cross-entropy with the teacher's distribution is this plus the note "entropy", so its gradient is the same.
        A teacher that is one-hot at the positive (T towards 0) makes it `infonce`. `ranked` keeps the order only,
        `scored` compares single pairs.

    References:
        Hinton et al. 2015, arXiv:1503.02531; Ni et al. 2023, arXiv:2305.07437 (Mod-X); Asadi et al. 2023,
        arXiv:2303.14771 (PRD).

    >>> from dataclasses import replace
    >>> z = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    >>> a, c = (Embeddings.of(z, view=view, facts={"teacher": z}) for view in (0, 1))
    >>> distillation(a, c).loss.item()
    0.0
    >>> round(distillation(replace(a, facts={"teacher": z.flip(0)}), c).loss.item(), 4)
    0.079
    """
    anchors, candidates, t, _ = cooled(anchors, candidates, temperature, unit=unit)
    if teacher_temperature is None and t.ndim:
        raise ValueError("wanted a teacher_temperature beside a temperature for each anchor, got none")
    warmth = float(t.detach()) if teacher_temperature is None else teacher_temperature
    if not warmth > 0:
        raise ValueError(f"wanted a temperature of the teacher above 0, got {warmth}")
    reductions = {**DIVERGENCE, **(RIGHT if right_only else {})}
    swept = sweep(
        _both_softmaxes(warmth, right_only),
        _taught(anchors, teacher),
        _taught(candidates, teacher),
        scores={**LOGITS, "teacher": dot(TAUGHT)},
        rule=rule,
        rows=reductions,
        columns=reductions if directions == "both" else None,
    )
    loss = per_row(_divergence, swept, directions)
    entropy = (swept.rows["teacher"] - swept.rows["own"]).detach()
    return Outcome({"distillation": loss}, {"distillation": 1.0}, {"entropy": entropy})


Head = Callable[[Float[Tensor, "e d"], Float[Tensor, "e d"]], Float[Tensor, " e"]]


def _no_tile(
    _scores: Mapping[str, Tensor], _pairs: Pairs, _a: Side, _c: Side, _params: Mapping[str, Tensor]
) -> Mapping[str, Output]:
    return {}


def _whole_lists(candidates: Embeddings) -> Embeddings:
    """The candidates of all processes, so that the list of an anchor is in one place."""
    return replace(everywhere(candidates), placement="replicated")


def _scores_of(anchors: Embeddings, candidates: Embeddings, rule: Rule, score: Score | Head) -> tuple[Edges, Tensor]:
    """The pairs that a rule lists and says something of, and the student's score of each."""
    compared = score if isinstance(score, Score) else dot()
    swept = sweep(_no_tile, anchors, candidates, scores={"s": compared}, rule=rule)
    edges, found = swept.on_edges()
    if not isinstance(score, Score):
        found = score(anchors.z[edges.row], candidates.z[edges.col])
    some = (edges.attract > 0) | (edges.repel > 0)
    return Edges(*(column[some] for column in edges)), found[some]


@paper(row=251)
@paper(
    reference="Hofstätter et al.: Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge "
    "Distillation, arXiv:2010.02666, 2020 (Margin-MSE)"
)
def scored(
    anchors: Embeddings,
    candidates: Embeddings | None = None,
    *,
    rule: Rule,
    compare: Literal["scores", "margins"] = "scores",
    score: Score | Head | None = None,
    scale: float | Float[Tensor, ""] = 1.0,
    unit: bool = False,
) -> Outcome:
    """The student's score of each listed pair is fitted to the teacher's, by squares.

    For the teacher's values v_ij of the pairs that the rule lists, with weights w_ij = attract + repel,

        "scores":   loss = sum_ij w_ij (c s_ij - v_ij)^2 / sum_ij w_ij
        "margins":  loss = sum_ipk w_ip r_ik ((c s_ip - c s_ik) - (v_ip - v_ik))^2 / sum_ipk w_ip r_ik

    where the margins of an anchor are those of each positive p (attract w) above each negative k (repel r).

    Args:
        anchors: n rows.
        candidates: m rows. None: the anchors themselves.
        rule: lists the pairs with the teacher's values, such as `listed(Relation.of(..., value=...), others=0)`.
        compare: single scores, or their differences within an anchor.
        score: how the student compares: a score such as `dot()` or `squared()`, or a head, a function of the listed
            rows [e d] and [e d] -> [e] with parameters of its own. None: the dot product.
        scale: c, what brings a cosine to the range of the teacher; may be a tensor that requires grad.
        unit: scale rows to length 1 first, so that s is the cosine.

    Returns:
        One term, "scored", at least 0, in squares of the teacher's unit; 0 without a listed pair. Notes: "residual"
        c s - v of each listed pair, detached.

    Raises:
        TypeError: for a rule that does not list its pairs.
        ValueError: for another word in `compare`.

    Differs:
        DSE adds the squares over the classes of a teacher with several outputs, and mixes this with the loss of the
        task; here a teacher gives one number a pair.

    Relations:
        "margins" does not see a number that is added to all scores of an anchor. `ranked` takes the order alone.

    References:
        Barkan et al. 2020, arXiv:1908.05161, section 3 (DSE); Hofstätter et al. 2020, arXiv:2010.02666 (Margin-MSE).

    >>> from counterpoint.pairs.listed import listed
    >>> from counterpoint.types import Relation
    >>> a, c = (Embeddings.of(torch.eye(2), id=torch.tensor(ids)) for ids in ([1, 2], [5, 6]))
    >>> rule = listed(Relation.of([1, 1], [5, 6], value=[2.0, 0.0]), others=0)
    >>> scored(a, c, rule=rule).loss.item()      # the mean of (1 - 2)^2 and (0 - 0)^2
    0.5
    """
    if compare not in ("scores", "margins"):
        raise ValueError(f"wanted to compare 'scores' or 'margins', got '{compare}'")
    anchors, candidates = as_embeddings(anchors, candidates)
    if unit:
        anchors, candidates = anchors.to_unit(), candidates.to_unit()
    candidates = _whole_lists(candidates)
    edges, found = _scores_of(anchors, candidates, rule, dot() if score is None else score)
    residual = scale * found - edges.value
    notes = {"residual": residual.detach()}
    if compare == "scores":
        loss = mean(residual.square(), edges.attract + edges.repel)
        return Outcome({"scored": loss}, {"scored": 1.0}, notes)
    zeros = residual.new_zeros(len(anchors))

    def moments(weight: Tensor) -> tuple[Tensor, Tensor]:
        """How much weight each anchor has, and its mean residual."""
        whole = zeros.index_add(0, edges.row, weight)
        return whole, zeros.index_add(0, edges.row, weight * residual) / torch.where(whole > 0, whole, 1.0)

    (good, high), (bad, low) = moments(edges.attract), moments(edges.repel)
    spread = zeros.index_add(0, edges.row, edges.attract * (residual - high[edges.row]).square()) * bad
    spread = spread + zeros.index_add(0, edges.row, edges.repel * (residual - low[edges.row]).square()) * good
    triples = good * bad
    loss = mean(spread / torch.where(triples > 0, triples, 1.0) + (high - low).square(), triples)
    return Outcome({"scored": loss}, {"scored": 1.0}, notes)


def _push(
    scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, _c: Side, _params: Mapping[str, Tensor]
) -> Mapping[str, Output]:
    """What each pair adds to the negatives of its anchor."""
    return {"easy": (scores["s"], pairs.repel), "push": times(pairs.repel, scores["s"]), "repel": pairs.repel}


def _below(edges: Edges, logit: Float[Tensor, " e"], n: int) -> Float[Tensor, " e"]:
    """log sum exp of the logits that an anchor's list puts below each pair: those of a lower value.

    The lists are sorted and laid out as [n, length of the longest].
    """
    order = torch.argsort(edges.value, stable=True)
    order = order[torch.argsort(edges.row[order], stable=True)]
    row, value = edges.row[order], edges.value[order]
    sizes = torch.bincount(row, minlength=n)
    starts = torch.cumsum(sizes, 0) - sizes
    index = torch.arange(len(row), device=row.device)
    first = torch.ones_like(row, dtype=torch.bool)  # the first of its anchor and value
    first[1:] = (row[1:] != row[:-1]) | (value[1:] != value[:-1])
    ahead = torch.cummax(torch.where(first, index, 0), 0).values - starts[row]  # how many lie below
    longest = int(sizes.max()) if len(row) else 0
    table = logit.new_full((n, longest + 1), FLOOR).index_put((row, index - starts[row] + 1), logit[order])
    below = torch.logcumsumexp(table, 1)[row, ahead]
    return torch.zeros_like(logit).index_put((order,), below)


def _beside(below: Tensor, easy: Tensor, logit: Tensor) -> Tensor:
    """log(1 + exp(below - logit) + exp(easy - logit)), 0 where both are the floor."""
    highest = torch.maximum(below, easy).detach()
    some = highest > FLOOR / 2
    highest = torch.where(some, highest, 0.0)
    both = ((below - highest).exp() + (easy - highest).exp()).clamp(min=torch.finfo(logit.dtype).tiny).log() + highest
    return torch.where(some, softplus(both - logit), 0.0)


@paper(row=176)
def ranked(
    anchors: Embeddings,
    candidates: Embeddings | None = None,
    *,
    rule: Rule,
    temperature: Temperature = 0.05,
    unit: bool = True,
) -> Outcome:
    """Listed candidates keep the order that a teacher gives them: each wins against those below it and all negatives.

    For the pairs that attract, with weights w_ij (normalised: sum_j w_ij = 1) and the teacher's values v_ij,

        loss_i = - sum_j w_ij log( exp(l_ij) / (exp(l_ij) + sum_(k: v_ik < v_ij) exp(l_ik) + sum_k r_ik exp(l_ik)) )

    with l_ij = s_ij / t_i and repel weights r; the result is the mean over anchors with a list of something to order.

    Args:
        anchors: n rows.
        candidates: m rows. None: the anchors themselves.
        rule: lists the pairs to be ordered as attracting, with the teacher's values: `listed(Relation.of(..., value=...))`.
            Their anchor's other candidates repel (easy negatives), or do not, with `others=0`.
        temperature: t > 0; a number, one for each anchor, or the name of the anchors' fact that holds them.
        unit: scale rows to length 1 first, so that s is the cosine.

    Returns:
        One term, "ranked", in nats, at least 0. Notes, [n], detached: "negatives".

    Raises:
        TypeError: for a rule that does not list its pairs.
        ValueError: for a temperature that is not above 0.

    Differs:
        The paper adds over the list of an anchor, here it is the mean. Which candidates are listed (there: the
        hardest of the student, as far as the teacher finds them above the rest) is up to the rule. Equal values
        do not compete.

    Relations:
        Only the order of the values counts. Without easy negatives it is the likelihood of the order by Plackett and
        Luce (ListMLE), over the length of the list. With one pair an anchor it is `infonce` with
        `positives_compete=False` and the pair itself in the denominator; with equal values, `infonce_separate`.

    References:
        Chen et al. 2024, arXiv:2407.07479.

    >>> from counterpoint.pairs.listed import listed
    >>> from counterpoint.types import Relation
    >>> a, c = (Embeddings.of(torch.eye(2), id=torch.tensor(ids)) for ids in ([1, 2], [5, 6]))
    >>> rule = listed(Relation.of([1, 1], [5, 6], value=[9.0, 3.0]), others=0)
    >>> round(ranked(a, c, rule=rule, temperature=1.0).loss.item(), 4)      # log(1 + exp(-1)) / 2
    0.1566
    """
    anchors, candidates, _, bound = cooled(anchors, candidates, temperature, unit=unit)
    candidates = _whole_lists(candidates)
    swept = sweep(
        _push,
        anchors,
        candidates,
        scores=LOGITS,
        rule=rule,
        rows={"easy": "logsumexp", "push": "total", "repel": "total"},
        bounds=None if bound is None else {"easy": (-bound, bound)},
    )
    edges, logit = swept.on_edges()
    listed = edges.attract > 0
    edges, logit = Edges(*(column[listed] for column in edges)), logit[listed]
    below, easy = _below(edges, logit, len(anchors)), swept.rows["easy"][edges.row]
    zeros = torch.zeros_like(swept.rows["easy"])
    cost = zeros.index_add(0, edges.row, edges.attract * _beside(below, easy, logit))
    attract = zeros.index_add(0, edges.row, edges.attract)
    rivals = zeros.index_add(0, edges.row, (torch.maximum(below, easy).detach() > FLOOR / 2).to(zeros))
    loss = mean(cost / torch.where(attract > 0, attract, 1.0), (rivals > 0).to(zeros))
    return Outcome({"ranked": loss}, {"ranked": 1.0}, {"negatives": swept.rows["repel"].detach()})
