"""How alike two sets of tokens are, by what it takes to carry one over to the other: scores, and a loss of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from counterpoint._ops.products import Precision, add_product, product
from counterpoint._ops.running import Reduction
from counterpoint._ops.scores import FLOOR, Columns, Names, Totals
from counterpoint._ops.unit import to_unit
from counterpoint.objectives.custom import Output, Rule, Side, as_embeddings, per_row, sweep, times
from counterpoint.objectives.spread import mean_apart
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, Pairs, same_sample

Masks = tuple[Tensor | None, Tensor | None]


def _named(fact: str, against: str, mask: str | None) -> tuple[Names, Names]:
    """Tokens of each side and, where there is one, their mask."""
    more = () if mask is None else (mask,)
    return (fact, *more), (against, *more)


def _masks(x: Columns, y: Columns) -> Masks:
    """Which tokens are there; None: all."""
    return (x[1].bool() if len(x) > 1 else None), (y[1].bool() if len(y) > 1 else None)


def _tokens(x: Tensor, y: Tensor, precision: Precision) -> Tensor:
    """Products of all tokens of all sets, [n m t u]."""
    flat = product(x.flatten(0, 1), y.flatten(0, 1).T, precision)
    return flat.view(*x.shape[:2], *y.shape[:2]).transpose(1, 2)


def _carry(plan: Tensor, x: Columns, y: Columns, to: tuple[Totals, Totals], precision: Precision) -> None:
    """Add the gradient of sum plan * (x . y), where the plan [n m t u] stays as it is."""
    flat = plan.transpose(1, 2).flatten(2).flatten(0, 1)
    for total, other, part in ((to[0][0], y[0], flat), (to[1][0], x[0], flat.T)):
        add_product(None if total is None else total.flatten(0, 1), part, other.flatten(0, 1), precision)


def _there(like: Tensor, mask: Tensor | None, dim: int, lead: int) -> Tensor:
    """A mask of tokens shaped to a block of token pairs: its tokens at `dim`, its sets at `lead`; ones without a mask."""
    shape = [1] * like.ndim
    shape[dim] = like.shape[dim]
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=like.device)
    shape[lead] = len(mask)
    return mask.view(shape)


def _both_there(tokens: Tensor, masks: Masks) -> tuple[Tensor, Tensor]:
    """Masks of both sides against token pairs: [n m t u] for blocks of sets, [e t u] for sets side by side."""
    lead = (0, 1) if tokens.ndim == 4 else (0, 0)
    return _there(tokens, masks[0], -2, lead[0]), _there(tokens, masks[1], -1, lead[1])


def relaxed_plan(tokens: Float[Tensor, " ... t u"], x: Tensor, y: Tensor) -> Float[Tensor, " ... t u"]:
    """How much of each pair of tokens the relaxed transport counts: each token to its best, half for each direction.

    Args:
        tokens: products of the tokens of two sets.
        x, y: which tokens are there, shaped to fit.
    """
    masked = tokens.masked_fill(~(x & y), FLOOR)
    plan = torch.zeros_like(tokens)
    for dim, own, other in ((-1, x, y), (-2, y, x)):
        best = torch.zeros_like(tokens).scatter_(dim, masked.argmax(dim, keepdim=True), 1.0)
        side = -3 - dim
        amount = own.expand_as(tokens).to(tokens).sum(side, keepdim=True).clamp(min=1) * 2
        plan += best * (own & other.any(dim, keepdim=True)) / amount
    return plan


@dataclass(frozen=True)
class Relaxed:
    """Relaxed transport of token sets; made by `rcmd`."""

    fact: str
    against: str
    mask: str | None

    @property
    def reads(self) -> tuple[Names, Names]:
        """The tokens and, where there is one, their mask."""
        return _named(self.fact, self.against, self.mask)

    def plan(self, tokens: Tensor, masks: Masks) -> Tensor:
        """What each pair of tokens counts."""
        return relaxed_plan(tokens, *_both_there(tokens, masks))

    def of(self, x: Columns, y: Columns, precision: Precision) -> Tensor:
        """The mean over both directions of each token's best."""
        tokens = _tokens(x[0], y[0], precision)
        return (self.plan(tokens, _masks(x, y)) * tokens).sum((-2, -1))

    def pull(self, grad: Tensor, x: Columns, y: Columns, to: tuple[Totals, Totals], precision: Precision) -> None:
        """Gradient flows through the best token of each."""
        plan = self.plan(_tokens(x[0], y[0], precision), _masks(x, y))
        _carry(plan * grad[:, :, None, None], x, y, to, precision)

    def on_pairs(self, x: Columns, y: Columns) -> Tensor:
        """One pair of token sets at a time, side by side."""
        tokens = torch.einsum("etd,eud->etu", x[0], y[0])
        with torch.no_grad():
            plan = self.plan(tokens, _masks(x, y))
        return (plan * tokens).sum((-2, -1))

    def inner(self, x: Columns, y: Columns) -> int:
        """Some copies of tokens times tokens."""
        return 6 * x[0].shape[1] * y[0].shape[1]


@paper(row=161)
def rcmd(fact: str = "z", *, mask: str | None = None) -> Relaxed:
    """How alike two token sets are: each token against its best in the other set, averaged in both directions (RCMD).

        s_ij = 1/2 mean_t max_u x_it . y_ju + 1/2 mean_u max_t x_it . y_ju

    over the tokens that are there: optimal transport that keeps one of its two marginals, both ways. With tokens of length
    1 it is at most 1, and 1 for a set and itself. As `score` of `infonce` it is CLRCMD.

    Args:
        fact: a column of token sets, [n t d].
        mask: the fact [n t] that is true where there is a token; None: all are there. A set without tokens scores 0.

    Differs:
        Where two tokens are equally good the first is taken; in the authors' heat map both count.

    Relations:
        With one token a set it is `dot`. `maxsim` is the first direction alone, as a sum. `transported` keeps both
        marginals at once. `heat_map` says what each pair of tokens adds to it.

    References:
        Lee et al. 2022, arXiv:2202.13196; src/clrcmd/models.py at github.com/sh0416/clrcmd.

    >>> x, y = torch.eye(2)[None], torch.eye(2)[None, :1]      # two tokens, and the first of them
    >>> rcmd().of((x,), (y,), "fp32").tolist()      # (1 + 0) / 2 and 1
    [[0.75]]
    """
    return Relaxed(fact, fact, mask)


def ipot(
    cost: Float[Tensor, " ... t u"], x: Tensor, y: Tensor, *, beta: float, iterations: int, inner: int = 1
) -> Float[Tensor, " ... t u"]:
    """The plan that carries one set's tokens to the other's at least cost, by proximal steps (IPOT), without gradient.

    Args:
        cost: of each pair of tokens.
        x, y: which tokens are there, shaped to fit; all tokens of a set weigh the same, and each set 1.
        beta: how far a step may go, above 0; large: small steps, smooth plans.
        iterations: steps.
        inner: rescalings in a step.

    Returns:
        Plans of token pairs, 0 where one is absent: columns add up to 1 / (number of y's tokens) in the limit, rows to 1 /
        (number of x's tokens) always.

    References:
        Xie et al. 2018, arXiv:1802.04307.
    """
    with torch.no_grad():
        both = (x & y).to(cost)
        n, m = (side.to(cost).sum(dim, keepdim=True).clamp(min=1) for side, dim in ((x, -2), (y, -1)))
        kernel = (-cost / beta).exp()
        tiny = torch.finfo(cost.dtype).tiny
        plan, sigma = both, x / n
        for _ in range(iterations):
            moved = kernel * plan
            for _ in range(inner):
                delta = 1 / (m * (moved * sigma).sum(-2, keepdim=True)).clamp(min=tiny)
                sigma = 1 / (n * (moved * delta).sum(-1, keepdim=True)).clamp(min=tiny)
            plan = torch.where(both > 0, delta * moved * sigma, 0.0)
        return plan


@dataclass(frozen=True)
class Transported:
    """Optimal transport of token sets; made by `transported`."""

    fact: str
    against: str
    mask: str | None
    beta: float
    iterations: int

    @property
    def reads(self) -> tuple[Names, Names]:
        """The tokens and, where there is one, their mask."""
        return _named(self.fact, self.against, self.mask)

    def plan(self, cosines: Tensor, masks: Masks) -> Tensor:
        """What each pair of tokens counts."""
        return ipot(1 - cosines, *_both_there(cosines, masks), beta=self.beta, iterations=self.iterations)

    def of(self, x: Columns, y: Columns, precision: Precision) -> Tensor:
        """The products of tokens under the plan of their cosines."""
        plan = self.plan(_tokens(to_unit(x[0]), to_unit(y[0]), precision), _masks(x, y))
        return (plan * _tokens(x[0], y[0], precision)).sum((-2, -1))

    def pull(self, grad: Tensor, x: Columns, y: Columns, to: tuple[Totals, Totals], precision: Precision) -> None:
        """The plan as it is; gradient flows through the products."""
        plan = self.plan(_tokens(to_unit(x[0]), to_unit(y[0]), precision), _masks(x, y))
        _carry(plan * grad[:, :, None, None], x, y, to, precision)

    def on_pairs(self, x: Columns, y: Columns) -> Tensor:
        """One pair of token sets at a time, side by side."""
        with torch.no_grad():
            cosines = torch.einsum("etd,eud->etu", to_unit(x[0]), to_unit(y[0]))
            plan = self.plan(cosines, _masks(x, y))
        return (plan * torch.einsum("etd,eud->etu", x[0], y[0])).sum((-2, -1))

    def inner(self, x: Columns, y: Columns) -> int:
        """Some copies of tokens times tokens."""
        return 6 * x[0].shape[1] * y[0].shape[1]


def transported(fact: str = "z", *, mask: str | None = None, beta: float = 0.5, iterations: int = 50) -> Transported:
    """How alike two token sets are when each is carried over to the other at least cost: sum_tu T_tu x_t . y_u.

    T is the plan of `ipot` for the cost 1 - cosine, every token of a set weighing the same; it has no gradient. With tokens
    of length 1 this is 1 minus the transport distance. It is in proportion to the anchor, so `infonce(score=...)` takes it.

    Args:
        fact: a column of token sets, [n t d].
        mask: the fact [n t] that is true where there is a token; None: all are there. A set without tokens scores 0.
        beta: how far a step of the plan may go, above 0.
        iterations: steps of the plan, at least 1.

    Raises:
        ValueError: for a beta that is not above 0, or no iterations.

    Relations:
        `rcmd` keeps one marginal at a time, so it is never below this for the same tokens, in the limit of many iterations.
        `transport` is the loss of matched pairs made of it.

    References:
        Chen et al. 2020, arXiv:1909.11740 (UNITER); Xie et al. 2018, arXiv:1802.04307 (IPOT).

    >>> x = torch.eye(2)[None]
    >>> round(transported().of((x,), (x.flip(1),), "fp32").item(), 4)      # order does not matter
    1.0
    """
    if not beta > 0:
        raise ValueError(f"wanted a beta above 0, got {beta}")
    if iterations < 1:
        raise ValueError(f"wanted at least 1 iteration, got {iterations}")
    return Transported(fact, fact, mask, beta, iterations)


def _carried(
    scores: Mapping[str, Tensor], pairs: Pairs, _a: Side, _c: Side, _params: Mapping[str, Tensor]
) -> Mapping[str, Output]:
    """The distance of each positive."""
    return {"apart": times(pairs.attract, 1 - scores["s"]), "attract": pairs.attract}


@paper(row=281)
def transport(
    anchors: Embeddings | Float[Tensor, "n t d"],
    candidates: Embeddings | Float[Tensor, "m u d"] | None = None,
    *,
    rule: Rule = same_sample,
    mask: str | None = None,
    beta: float = 0.5,
    iterations: int = 50,
) -> Outcome:
    """What it costs to carry the tokens of an anchor over to those of its positives: words to the regions they name.

    For attract weights w_ij, tokens scaled to length 1 and the plan T of the cost 1 - cosine (see `ipot`),

        loss = sum_ij w_ij D_ij / sum_ij w_ij,    D_ij = sum_tu T_tu (1 - x_it . y_ju)

    T has no gradient.

    Args:
        anchors: n token sets, [n t d].
        candidates: m token sets, [m u d]; with plain tensors row i pairs with row i, explicitly. None: the anchors themselves.
        rule: who attracts whom; repel weights are not read.
        mask: the fact [n t] that is true where there is a token; None: all are there. A set without tokens is at 1 from all.
        beta: how far a step of the plan may go, above 0.
        iterations: steps of the plan, at least 1.

    Returns:
        One term, "transport", from 0 (equal sets, in any order, in the limit of many iterations) to 2; 0 without a positive.

    Raises:
        ValueError: for plain tensors of different length, a beta that is not above 0, or no iterations.

    Differs:
        The transport term of UNITER alone: without its transformer, masked prediction and matching. The authors' code also
        takes away the distance of mismatched pairs, which the paper does not. Absent tokens there get weight by rounding
        (a penalty of 1e4), here none.

    Relations:
        `transported` is the same as a score, for a loss that compares all with all. With one token a set it is 1 minus the
        cosine: half of `alignment` with alpha = 2.

    References:
        Chen et al. 2020, arXiv:1909.11740; model/ot.py at github.com/ChenRocks/UNITER, whose defaults these are.

    >>> x = torch.eye(2)[None]
    >>> round(transport(x, x.flip(1)).loss.item(), 4)
    0.0
    """
    score = transported(mask=mask, beta=beta, iterations=iterations)
    anchors, candidates = (rows.to_unit() for rows in as_embeddings(anchors, candidates))
    rows: dict[str, Reduction] = {"apart": "total", "attract": "total"}
    swept = sweep(_carried, anchors, candidates, scores={"s": score}, rule=rule, rows=rows)
    return Outcome.term("transport", per_row(mean_apart, swept, "forward"))


def heat_map(
    score: Relaxed | Transported,
    x: Float[Tensor, "n t d"],
    y: Float[Tensor, "n u d"],
    *,
    x_mask: Bool[Tensor, "n t"] | None = None,
    y_mask: Bool[Tensor, "n u"] | None = None,
) -> Float[Tensor, "n t u"]:
    """What each pair of tokens adds to the score of set i of x with set i of y: it adds up to the score.

    Args:
        score: made by `rcmd` or `transported`; the columns it names are not read.
        x, y: token sets, scaled to length 1 here.
        x_mask, y_mask: true where there is a token; None: all are there.

    Returns:
        One number for each pair of tokens, at most 1; 0 where the score does not match them, and where one is absent.

    References:
        Lee et al. 2022, arXiv:2202.13196, section 4.3.

    >>> x = torch.eye(2)[None]
    >>> heat_map(rcmd(), x, x)[0].tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    cosines = torch.einsum("etd,eud->etu", to_unit(x), to_unit(y))
    with torch.no_grad():
        plan = score.plan(cosines, (x_mask, y_mask))
    return plan * cosines
