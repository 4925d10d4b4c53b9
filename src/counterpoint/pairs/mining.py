"""Mining hard negatives: what lies near a query without belonging to it, and why the rest was left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from counterpoint._ops.hashed import hashed_uniform
from counterpoint._ops.neighbours import neighbours
from counterpoint.pairs.limits import Mining
from counterpoint.pairs.listed import listed
from counterpoint.papers import paper
from counterpoint.types import Edges, Embeddings, Relation

# Places of queries and of candidates -> a score of each pair, higher for pairs that belong together.
Judge = Callable[[Int[Tensor, " e"], Int[Tensor, " e"]], Float[Tensor, " e"]]
# What may happen to a candidate in reach of a query, in the order in which it is asked; the first that applies counts.
REASONS = ("rank", "no positive", "highest", "lowest", "margin", "relative margin", "filter", "spare")
KEPT, NOWHERE = -1, -2  # the second: fewer candidates than places
BLOCK = 4096  # queries at a time: bounds memory at block x depth numbers


@dataclass(frozen=True)
class Mined:
    """Mined negatives as edges, ordered by query and then by score, and what became of every other candidate.

    Args:
        query, candidate: [e] places in the two sets.
        query_id, candidate_id: [e] their identities.
        score: [e] of the pair.
        judged: [e] the filter's score; None without a filter.
        bar, judged_bar: [n] score of the positive that counts, NaN where a query has none; the filter's likewise.
        kept: [n] negatives of each query.
        dropped: reason -> candidates that were seen and not kept. "known" are positives, given negatives and equal
            texts; "spare" would have done, had more been wanted. The filter is asked only until enough are found.
    """

    query: Int[Tensor, " e"]
    candidate: Int[Tensor, " e"]
    query_id: Int[Tensor, " e"]
    candidate_id: Int[Tensor, " e"]
    score: Float[Tensor, " e"]
    judged: Float[Tensor, " e"] | None
    bar: Float[Tensor, " n"]
    judged_bar: Float[Tensor, " n"] | None
    kept: Int[Tensor, " n"]
    dropped: dict[str, int] = field(default_factory=dict)

    def relation(self) -> Relation:
        """The mined pairs as judged negatives: edges of grade 0."""
        return Relation.of(self.query_id, self.candidate_id, [0.0] * len(self.query_id))

    def table(self, width: int) -> dict[str, Tensor]:
        """The same with a row for each query, [n, width]: places of candidates (-1: fewer were found) and scores."""
        at = torch.arange(len(self.query)) - (torch.cumsum(self.kept, 0) - self.kept)[self.query]
        place = torch.full((len(self.kept), width), -1, dtype=torch.int64)
        score = torch.zeros(len(self.kept), width)
        place[self.query, at], score[self.query, at] = self.candidate, self.score
        return {"candidate": place, "score": score}


@paper(
    reference="Moreira et al.: NV-Retriever: Improving text embedding models with effective hard-negative mining, "
    "arXiv:2407.15831, 2024"
)
@torch.no_grad()
def mine_negatives(
    queries: Embeddings,
    candidates: Embeddings,
    relation: Relation,
    *,
    how: Mining | None = None,
    judge: Judge | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> Mined:
    """The nearest candidates of each query that its positives outscore clearly enough.

    With s the score and p the positive that counts, a candidate stays if skip < rank <= depth, lowest <= s <= highest,
    s <= s_p - margin, s <= s_p - relative_margin |s_p|, and f <= f_p - filter_margin for the score f of the filter.

    Args:
        queries: n rows.
        candidates: m rows of different ids; positives that are not among them count for no margin.
        relation: what is known. Positives, given negatives and equal ids are never mined.
        how: which neighbours to take.
        judge: the filter: a cross-encoder or a guide, asked in the order of the pick until a query has enough.
        tick: called with the number of queries done.

    Returns:
        Edges of grade 0 with their scores, and a count for each reason why a candidate was left. Where a margin or a
        filter is asked for, a query without a positive among the candidates gets no negative.

    Raises:
        ValueError: for candidates of one id.

    Differs:
        From the paper (TopK-PercPos, TopK-MarginPos): of several positives the weakest counts by default, since
        whatever scores above it scores like something known to be relevant; one wrongly labelled positive then costs a
        query its negatives, where "strongest" keeps them. The relative margin is a share of |s_p|, so that a positive
        below 0 is no easier to beat. The filter by another model's scores is that of GISTEmbed (arXiv:2402.16829).

    Relations:
        `neighbours` finds; the rule is `listed(relation, negative_weight=0)`.

    References:
        Moreira et al. 2024, arXiv:2407.15831, section 3; Solatorio 2024, arXiv:2402.16829; Xiong et al. 2020,
        arXiv:2007.00808, for mining anew between epochs.

    >>> q = Embeddings.of(torch.tensor([[1.0, 0.0]]), id=torch.tensor([1]))
    >>> c = Embeddings.of(torch.tensor([[0.9, 0.0], [0.89, 0.0], [0.5, 0.0]]), id=torch.tensor([5, 6, 7]))
    >>> found = mine_negatives(q, c, Relation.of([1], [5]), how=Mining(count=1))
    >>> found.candidate_id.tolist(), found.dropped["relative margin"]
    ([7], 1)
    """
    how = how or Mining()
    if len(torch.unique(candidates.id)) < len(candidates):
        raise ValueError("wanted candidates of different ids: a text that stands twice would be mined twice")
    parts = []
    for start in range(0, len(queries), BLOCK):
        rows = queries.rows(slice(start, start + BLOCK))
        parts.append(_of_block(rows, candidates, relation, how=how, judge=_moved(judge, start)))
        tick(len(rows))
    return _joined(parts, queries, candidates)


def _moved(judge: Judge | None, start: int) -> Judge | None:
    """The judge for queries whose places start at 0."""
    return None if judge is None else lambda query, candidate: judge(query + start, candidate)


def _of_block(
    queries: Embeddings, candidates: Embeddings, relation: Relation, *, how: Mining, judge: Judge | None
) -> Mined:
    rule = listed(relation, negative_weight=0.0)
    edges = rule.edges(queries, candidates)
    positive = edges.row[edges.attract > 0].cpu(), edges.col[edges.attract > 0].cpu()
    bar = extreme(_dots(queries, candidates, positive), positive[0], len(queries), against=how.against)
    found = neighbours(queries, candidates, how.depth, rule=rule)
    index, score = found.index.cpu(), found.score.cpu()
    fate = _fates(index, score, bar, how=how, compares=how.compares or judge is not None)
    order = _order(index, queries, candidates, how)
    judged = torch.full_like(score, torch.nan)
    judged_bar = None
    if judge is not None:
        judged_bar = extreme(judge(*positive), positive[0], len(queries), against=how.against)
        _ask(judge, index, fate, order, judged, limit=judged_bar - how.filter_margin, count=how.count)
    rank = _left(fate, order).cumsum(1)
    spare = torch.zeros_like(fate, dtype=torch.bool).scatter_(1, order, (rank > how.count) & _left(fate, order))
    fate[spare] = REASONS.index("spare")
    dropped = {"known": _known(edges, queries, candidates)}
    dropped |= {name: int((fate == i).sum()) for i, name in enumerate(REASONS)}
    query, place = (fate == KEPT).nonzero(as_tuple=True)
    candidate = index[query, place]
    return Mined(
        query, candidate, queries.id.cpu()[query], candidates.id.cpu()[candidate], score[query, place],
        None if judge is None else judged[query, place], bar, judged_bar,
        torch.bincount(query, minlength=len(queries)), dropped,
    )  # fmt: skip


def _dots(a: Embeddings, c: Embeddings, at: tuple[Tensor, Tensor]) -> Float[Tensor, " e"]:
    """The scores of listed pairs, a block at a time."""
    blocks = zip(at[0].split(BLOCK), at[1].split(BLOCK), strict=True)
    return torch.cat([a.z.new_zeros(0), *((a.z[i] * c.z[j]).sum(1) for i, j in blocks)]).float().cpu()


def extreme(score: Float[Tensor, " e"], owner: Int[Tensor, " e"], rows: int, *, against: str) -> Float[Tensor, " n"]:
    """The lowest or the highest score of each owner; NaN for one without any.

    >>> extreme(torch.tensor([3.0, 1.0]), torch.tensor([0, 0]), 2, against="weakest").tolist()
    [1.0, nan]
    """
    out = torch.full((rows,), torch.nan, dtype=torch.float32)
    how = "amin" if against == "weakest" else "amax"
    return out.scatter_reduce_(0, owner.cpu(), score.float().cpu(), how, include_self=False)


def _fates(
    index: Int[Tensor, "n k"], score: Float[Tensor, "n k"], bar: Float[Tensor, " n"], *, how: Mining, compares: bool
) -> Int[Tensor, "n k"]:
    """The first reason that speaks against each candidate before the filter, as its place in `REASONS`; KEPT: none."""
    limit = bar[:, None]
    rank = torch.arange(index.shape[1])[None, :]
    never = torch.zeros_like(score, dtype=torch.bool)
    against = {
        "rank": (rank < how.skip).expand_as(never),
        "no positive": limit.isnan().expand_as(never) if compares else never,
        "highest": never if how.highest is None else score > how.highest,
        "lowest": never if how.lowest is None else score < how.lowest,
        "margin": never if how.margin is None else score > limit - how.margin,
        "relative margin": never if how.relative_margin is None else score > limit - how.relative_margin * limit.abs(),
    }
    fate = torch.where(index < 0, NOWHERE, KEPT)
    for i, name in reversed(list(enumerate(REASONS))):
        if name in against:
            fate[against[name] & (index >= 0)] = i
    return fate


def _order(index: Tensor, queries: Embeddings, candidates: Embeddings, how: Mining) -> Int[Tensor, "n k"]:
    """The order in which the candidates of each query are taken; masked places come last."""
    if how.pick == "top":
        return torch.arange(index.shape[1]).expand_as(index).contiguous()
    drawn = hashed_uniform(how.seed, queries.id.cpu()[:, None], candidates.id.cpu()[index.clamp(min=0)])
    return torch.where(index < 0, 1.0, drawn).argsort(dim=1, stable=True)


def _left(fate: Tensor, order: Tensor) -> Bool[Tensor, "n k"]:
    """Which are still wanted, in the order of taking."""
    return (fate == KEPT).gather(1, order)


def _ask(
    judge: Judge, index: Tensor, fate: Tensor, order: Tensor, judged: Tensor, *, limit: Tensor, count: int
) -> None:
    """Ask the filter about the next candidates of queries that have too few, until all have enough or none are left."""
    while True:
        approved = (~judged.isnan() & (fate == KEPT)).sum(1)
        open_ = _left(fate, order) & judged.isnan().gather(1, order)
        row, at = (open_ & (open_.cumsum(1) <= (count - approved)[:, None])).nonzero(as_tuple=True)
        if not len(row):
            return
        place = order[row, at]
        found = judge(row, index[row, place]).float().cpu()
        judged[row, place] = found
        refused = found > limit[row]
        fate[row[refused], place[refused]] = REASONS.index("filter")


def _known(edges: Edges, queries: Embeddings, candidates: Embeddings) -> int:
    """Pairs that were left out because something is known of them."""
    return len(torch.unique(edges.row * len(candidates) + edges.col))


def _joined(parts: list[Mined], queries: Embeddings, candidates: Embeddings) -> Mined:
    """Blocks as one."""
    sizes = [0, *torch.tensor([len(p.kept) for p in parts], dtype=torch.int64).cumsum(0).tolist()]

    def together(columns: Iterator[Tensor], like: Tensor) -> Tensor:
        return torch.cat([like, *columns])

    whole, real = torch.empty(0, dtype=torch.int64), torch.empty(0)
    judged = [p.judged for p in parts if p.judged is not None]
    bars = [p.judged_bar for p in parts if p.judged_bar is not None]
    query = together((p.query + start for p, start in zip(parts, sizes, strict=False)), whole)
    candidate = together((p.candidate for p in parts), whole)
    return Mined(
        query,
        candidate,
        queries.id.cpu()[query],
        candidates.id.cpu()[candidate],
        together((p.score for p in parts), real),
        torch.cat(judged) if judged else None,
        together((p.bar for p in parts), real),
        torch.cat(bars) if bars else None,
        together((p.kept for p in parts), whole),
        {name: sum(p.dropped[name] for p in parts) for name in ("known", *REASONS)},
    )
