"""What benchmarks/loss.py measures: our losses and those of peers, each as a function that makes a step from rows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from counterpoint.objectives.custom import custom, dot, sweeping, times
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.types import Embeddings, Pairs, Relation

T = 0.05  # the temperature of every loss
NOISE = 3**0.5  # a pair has a cosine of about 1 / (1 + NOISE^2)^0.5 = 0.5: positives neither found nor lost
CLASSES = 100
SPREAD = 0.1  # of the kernel over scalar labels in [0, 1]


@dataclass(frozen=True)
class Rows:
    """The two sets, row i of one paired with row i of the other, both leaves that require grad."""

    a: Tensor
    c: Tensor
    id: Tensor
    seed: int

    @classmethod
    def of(cls, n: int, d: int, seed: int, *, buffers: bool = True) -> Rows:
        """Drawn from the seed; `buffers` makes the gradients' memory beforehand."""
        g = torch.Generator().manual_seed(seed)
        a = torch.randn(n, d, generator=g)
        c = torch.randn(n, d, generator=g).mul_(NOISE).add_(a)
        for z in (a, c):
            z.requires_grad_()
            z.grad = torch.zeros(n, d) if buffers else None
        return cls(a, c, torch.randperm(n, generator=g), seed)

    def sets(self, facts: dict[str, Tensor] | None = None, other: int = 0) -> tuple[Embeddings, Embeddings]:
        """Two views of the samples; `other` sets the ids of candidates apart by that much."""
        facts = facts or {}
        return Embeddings.of(self.a, id=self.id, facts=facts), Embeddings.of(
            self.c, id=self.id + other, view=1, facts=facts
        )

    def generator(self) -> torch.Generator:
        """For what a method draws besides."""
        return torch.Generator().manual_seed(self.seed + 1)

    def labels(self) -> Tensor:
        """A class for each row."""
        return torch.randint(CLASSES, (len(self.a),), generator=self.generator())


Step = Callable[[], Tensor]


@dataclass(frozen=True)
class Method:
    """`make` prepares what does not belong to a step; a step returns the loss; one that `differentiates` is a whole one."""

    make: Callable[[Rows], Step]
    ours: bool
    differentiates: bool = False

    def run(self, step: Step, precision: str) -> float:
        """Forward and backward; peers in bf16 run under autocast, as their users run them."""
        around: AbstractContextManager[object]
        if self.ours:
            around = sweeping(precision=precision)  # type: ignore[arg-type]
        else:
            around = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        with around:
            loss = step()
        if not self.differentiates:
            loss.backward()
        return float(loss.detach())


METHODS: dict[str, Method] = {}


def method(name: str, **given: bool) -> Callable[[Callable[[Rows], Step]], Callable[[Rows], Step]]:
    """Puts a function in the list under a name."""

    def put(make: Callable[[Rows], Step]) -> Callable[[Rows], Step]:
        METHODS[name] = Method(make, **{"ours": False, **given})
        return make

    return put


# ---- ours


@method("ours-symmetric", ours=True)
def _ours_symmetric(r: Rows) -> Step:
    return lambda: infonce(*r.sets(), temperature=T, directions="both").loss


@method("ours-forward", ours=True)
def _ours_forward(r: Rows) -> Step:
    return lambda: infonce(*r.sets(), temperature=T).loss


@method("ours-ntxent", ours=True)
def _ours_ntxent(r: Rows) -> Step:
    return lambda: infonce(Embeddings.cat(r.sets()), temperature=T).loss


@method("ours-supcon", ours=True)
def _ours_supcon(r: Rows) -> Step:
    label = r.labels()
    return lambda: infonce(Embeddings.of(r.a, facts={"label": label}), rule=labelled(), temperature=T).loss


@method("ours-custom", ours=True)
def _ours_custom(r: Rows) -> Step:
    mine = custom(
        tile=lambda s, p, a, c, k: {"good": times(p.attract, s["s"]), "bad": (s["s"] / 0.1, p.repel)},
        row=lambda r: functional.softplus(r["bad"] - r["good"] / 0.1),
        rows={"good": "total", "bad": "logsumexp"},
    )
    return lambda: mine(*r.sets()).loss


# ---- ours, one rule after the other. All scale anchors by 1/t before the sweep, as `infonce` does.


def _warm(r: Rows, facts: dict[str, Tensor] | None = None) -> tuple[Embeddings, Embeddings]:
    a, c = (rows.to_unit() for rows in r.sets(facts))
    return replace(a, z=a.z / T), c


def _without_rule(r: Rows, *, mean: bool, facts: dict[str, Tensor] | None = None) -> Step:
    second = facts is not None
    mine = custom(
        tile=lambda s, p, a, c, k: {"all": s["s"] + s["u"] if second else s["s"], "total": s["s"]},
        row=lambda got: got["all"] - got["total"] / len(r.a) if mean else got["all"],
        rows={"all": "logsumexp", "total": "total"} if mean else {"all": "logsumexp"},
        scores={"s": dot(), "u": dot("teacher")} if second else None,
        bounds={"all": (-1 / T - second, 1 / T + second)},
        directions="both",
        unit=False,
    )
    return lambda: mine(*_warm(r, facts), rule=None).loss  # type: ignore[arg-type]


@method("no-rule", ours=True)
def _no_rule(r: Rows) -> Step:
    return _without_rule(r, mean=True)


@method("logsumexp", ours=True)
def _logsumexp(r: Rows) -> Step:
    return _without_rule(r, mean=False)


@method("two-products", ours=True)
def _two_products(r: Rows) -> Step:
    teacher = functional.normalize(torch.randn(r.a.shape, generator=r.generator()), dim=-1)
    return _without_rule(r, mean=True, facts={"teacher": teacher})


@method("identity", ours=True)
def _identity(r: Rows) -> Step:
    return _ours_symmetric(r)


@method("listed", ours=True)
def _listed(r: Rows) -> Step:
    n = len(r.a)
    another = r.id[torch.randperm(n, generator=r.generator())]
    rule = listed(Relation.of(r.id.repeat(2), torch.cat([r.id, another]) + n))
    return lambda: infonce(*r.sets(other=n), rule=rule, temperature=T, directions="both").loss


@method("labelled", ours=True)
def _labelled(r: Rows) -> Step:
    facts = {"label": r.labels()}
    return lambda: infonce(*r.sets(facts), rule=labelled(), temperature=T, directions="both").loss


@method("kernel", ours=True)
def _kernel(r: Rows) -> Step:
    facts = {"value": torch.rand(len(r.a), generator=r.generator())}

    def rule(a: Embeddings, c: Embeddings) -> Pairs:
        apart = a.facts["value"][:, None] - c.facts["value"][None, :]
        attract = torch.exp(apart.square() / (-2 * SPREAD**2))
        return Pairs(attract, 1 - attract)

    return lambda: infonce(*r.sets(facts), rule=rule, temperature=T, directions="both").loss


# ---- peers, called where they take plain embeddings


def _ranking(r: Rows, *, both: bool) -> Step:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    more = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"} if both else {}
    loss = MultipleNegativesRankingLoss(torch.nn.Identity(), scale=1 / T, **more)  # type: ignore[arg-type]
    return lambda: loss.compute_loss_from_embeddings([r.a, r.c], torch.empty(0))


@method("st-symmetric")
def _ranking_symmetric(r: Rows) -> Step:
    return _ranking(r, both=True)


@method("st-forward")
def _ranking_forward(r: Rows) -> Step:
    return _ranking(r, both=False)


def _cached(r: Rows, size: int) -> Step:
    """The loss part of gradient caching: it goes back chunk by chunk, into gradients that are slices of the rows'."""
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    loss = CachedMultipleNegativesRankingLoss(
        torch.nn.Sequential(torch.nn.Identity()),  # type: ignore[arg-type]
        scale=1 / T,
        mini_batch_size=size,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )
    parts = []
    for z in (r.a, r.c):
        assert z.grad is not None
        parts.append([x.requires_grad_() for x in z.detach().split(size)])
        for part, grad in zip(parts[-1], z.grad.split(size), strict=True):
            part.grad = grad
    return lambda: loss.calculate_loss(parts, with_backward=True)


@method("st-cached-32", differentiates=True)
def _cached_32(r: Rows) -> Step:
    return _cached(r, 32)


@method("st-cached-1024", differentiates=True)
def _cached_1024(r: Rows) -> Step:
    return _cached(r, 1024)


def _pml_ntxent(r: Rows, *, symmetric: bool) -> Step:
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    loss = SelfSupervisedLoss(NTXentLoss(temperature=T), symmetric=symmetric)
    return lambda: loss(r.a, r.c)


@method("pml-forward")
def _pml_forward(r: Rows) -> Step:
    return _pml_ntxent(r, symmetric=False)


@method("pml-ntxent")
def _pml_both_views(r: Rows) -> Step:
    return _pml_ntxent(r, symmetric=True)


@method("pml-supcon")
def _pml_supcon(r: Rows) -> Step:
    from pytorch_metric_learning.losses import SupConLoss

    loss, label = SupConLoss(temperature=T), r.labels()
    return lambda: loss(r.a, label)


# ---- peers, re-stated: the same tensor operations in the same order as in the named code


@method("open-clip")
def _open_clip(r: Rows) -> Step:
    """open_clip 4.2 (mlfoundations/open_clip, src/open_clip/loss.py): ClipLoss in one process, after the towers' norm."""
    scale = torch.tensor(1 / T)

    def step() -> Tensor:
        a, c = functional.normalize(r.a, dim=-1), functional.normalize(r.c, dim=-1)
        to_c, to_a = scale * a @ c.T, scale * c @ a.T
        own = torch.arange(len(a))
        return (functional.cross_entropy(to_c, own) + functional.cross_entropy(to_a, own)) / 2

    return step


@method("info-nce-pytorch")
def _info_nce_pytorch(r: Rows) -> Step:
    """info-nce-pytorch 0.1.4 (RElbers/info-nce-pytorch, info_nce/__init__.py) without negative keys."""

    def step() -> Tensor:
        a, c = functional.normalize(r.a, dim=-1), functional.normalize(r.c, dim=-1)
        logits = a @ c.transpose(-2, -1)
        return functional.cross_entropy(logits / T, torch.arange(len(a)))

    return step


@method("lightly")
def _lightly(r: Rows) -> Step:
    """lightly 1.5.26 (lightly-ai/lightly, lightly/loss/ntx_ent_loss.py): NTXentLoss in one process, no memory bank."""

    def step() -> Tensor:
        n = len(r.a)
        a, c = functional.normalize(r.a, dim=1), functional.normalize(r.c, dim=1)
        oneself = torch.eye(n, dtype=torch.bool)
        aa, ac, ca, cc = (torch.einsum("nc,mc->nm", x, y) / T for x, y in ((a, a), (a, c), (c, a), (c, c)))
        aa, cc = aa[~oneself].view(n, -1), cc[~oneself].view(n, -1)
        logits = torch.cat([torch.cat([ac, aa], dim=1), torch.cat([ca, cc], dim=1)], dim=0)
        return functional.cross_entropy(logits, torch.arange(n).repeat(2))

    return step


@method("dense-custom")
def _dense_custom(r: Rows) -> Step:
    """The six-line objective as one writes it without a sweep."""

    def step() -> Tensor:
        s = functional.normalize(r.a, dim=-1) @ functional.normalize(r.c, dim=-1).T / 0.1
        bad = s.masked_fill(torch.eye(len(s), dtype=torch.bool), -torch.inf).logsumexp(1)
        return functional.softplus(bad - s.diagonal()).mean()

    return step
