"""What a teacher says of listed pairs: scores to be met, margins, distributions, or an order to be kept."""

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
from counterpoint._ops.running import segment
from counterpoint._ops.scores import FLOOR, Score
from counterpoint.objectives.custom import Output, Rule, Side, as_embeddings, dot, sweep, times
from counterpoint.objectives.softmax import LOGITS, Temperature, cooled
from counterpoint.papers import paper
from counterpoint.types import Edges, Embeddings, Outcome, Pairs

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
    compare: Literal["scores", "margins", "distributions"] = "scores",
    score: Score | Head | None = None,
    scale: float | Float[Tensor, ""] = 1.0,
    unit: bool = False,
) -> Outcome:
    """The student's scores of listed pairs are fitted to the teacher's: each alone, their differences, or their shares.

    For the teacher's values v_ij of the pairs that the rule lists, with attract weights w_ij and repel weights r_ij,

        "scores":         loss = sum_ij (w_ij + r_ij) (c s_ij - v_ij)^2 / sum_ij (w_ij + r_ij)
        "margins":        loss = sum_ipk w_ip r_ik ((c s_ip - c s_ik) - (v_ip - v_ik))^2 / sum_ipk w_ip r_ik
        "distributions":  loss_i = sum_j p_ij log(p_ij / q_ij),  p_ij ~ exp(v_ij),  q_ij ~ exp(c s_ij),  j listed

    Margins are those of each positive p of an anchor above each of its negatives k; distributions have no weights, and
    the result is the mean over anchors with a list.

    Args:
        anchors: n rows.
        candidates: m rows. None: the anchors themselves.
        rule: lists the pairs with the teacher's values, such as `listed(Relation.of(..., value=...), others=0)`.
        compare: which of the three. For a teacher's temperature T divide the values by it.
        score: how the student compares: a score such as `dot()` or `squared()`, or a head, a function of the listed
            rows [e d] and [e d] -> [e] with parameters of its own. None: the dot product.
        scale: c, what brings a cosine to the range of the teacher; may be a tensor that requires grad.
        unit: scale rows to length 1 first, so that s is the cosine.

    Returns:
        One term, "scored", at least 0, in squares of the teacher's unit ("distributions": in nats); 0 without a listed
        pair. Notes: "residual", c s - v of each listed pair, detached.

    Raises:
        TypeError: for a rule that does not list its pairs.
        ValueError: for another word in `compare`.

    Differs:
        DSE adds the squares over the classes of a teacher with several outputs, and mixes this with the loss of the
        task; here a teacher gives one number a pair.

    Relations:
        "margins" and "distributions" do not see a number that is added to all scores of an anchor. `distillation`
        compares distributions over all candidates, by a teacher's vectors; `ranked` takes the order alone.

    References:
        Barkan et al. 2020, arXiv:1908.05161, section 3 (DSE); Hofstätter et al. 2020, arXiv:2010.02666 (Margin-MSE).

    >>> from counterpoint.pairs.listed import listed
    >>> from counterpoint.types import Relation
    >>> a, c = (Embeddings.of(torch.eye(2), id=torch.tensor(ids)) for ids in ([1, 2], [5, 6]))
    >>> rule = listed(Relation.of([1, 1], [5, 6], value=[2.0, 0.0]), others=0)
    >>> scored(a, c, rule=rule).loss.item()      # the mean of (1 - 2)^2 and (0 - 0)^2
    0.5
    """
    if compare not in ("scores", "margins", "distributions"):
        raise ValueError(f"wanted to compare 'scores', 'margins' or 'distributions', got '{compare}'")
    anchors, candidates = as_embeddings(anchors, candidates)
    if unit:
        anchors, candidates = anchors.to_unit(), candidates.to_unit()
    candidates = _whole_lists(candidates)
    edges, found = _scores_of(anchors, candidates, rule, dot() if score is None else score)
    residual = scale * found - edges.value
    match compare:
        case "scores":
            loss = mean(residual.square(), edges.attract + edges.repel)
        case "margins":
            loss = mean(*_margins(edges, residual, len(anchors)))
        case _:
            loss = mean(*_distributions(edges, scale * found, len(anchors)))
    return Outcome({"scored": loss}, {"scored": 1.0}, {"residual": residual.detach()})


def _margins(edges: Edges, residual: Float[Tensor, " e"], n: int) -> tuple[Tensor, Tensor]:
    """The mean square over an anchor's triples, and their weight: by moments, so that no triple is ever listed."""
    zeros = residual.new_zeros(n)

    def moments(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The weight of each anchor's pairs, the mean of their residuals, and the variance."""
        whole = zeros.index_add(0, edges.row, weight)
        below = torch.where(whole > 0, whole, 1.0)
        middle = zeros.index_add(0, edges.row, weight * residual) / below
        apart = (residual - middle[edges.row]).square()
        return whole, middle, zeros.index_add(0, edges.row, weight * apart) / below

    (good, high, wide), (bad, low, broad) = moments(edges.attract), moments(edges.repel)
    return (high - low).square() + wide + broad, good * bad


def _distributions(edges: Edges, logit: Float[Tensor, " e"], n: int) -> tuple[Tensor, Tensor]:
    """The divergence of an anchor's list from the teacher's, and whether it has one."""
    zeros = logit.new_zeros(n)
    student, teacher = (segment("logsumexp", x, edges.row, zeros, elsewhere=FLOOR) for x in (logit, edges.value))
    log_p, log_q = edges.value - teacher[edges.row], logit - student[edges.row]
    return zeros.index_add(0, edges.row, log_p.exp() * (log_p - log_q)), (teacher > FLOOR / 2).to(zeros)


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
        The formula was read in a public note on the paper. There it adds over the list of an anchor, here it is the
        mean. Which candidates are listed (there: the hardest of the student, as far as the teacher finds them valid) is
        up to the rule. Equal values do not compete. A pair of grade 0 is a negative, whatever its value.

    Relations:
        Only the order of the values counts. Without easy negatives it is the likelihood of the order by Plackett and
        Luce (ListMLE), over the length of the list. With one pair an anchor it is `infonce`; with equal
        values, `infonce_separate`.

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
