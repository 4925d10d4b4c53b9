"""Claims of rules with soft targets, of filters and of distillation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from claim import Claim
from claims_softmax import SIMCLR
from scipy.stats import spearmanr
from small import (
    Data,
    augmented,
    both_halves,
    diabetes,
    digits,
    halves,
    knn,
    mlp,
    moved,
    probe,
    rank_of_values,
    recall,
    trained,
    vectors,
    view,
)
from torch import Tensor, nn

from counterpoint._ops.unit import to_unit
from counterpoint.objectives.distillation import distillation
from counterpoint.objectives.judged import ranked
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.filters import suspected, within, without
from counterpoint.pairs.listed import listed
from counterpoint.pairs.soft import alike, near, overlapping
from counterpoint.types import Batch, Embeddings, Outcome, Relation, same_sample


def told(rows: Embeddings, **facts: Tensor) -> Embeddings:
    """The rows with facts more."""
    return replace(rows, facts={**rows.facts, **facts})


def noisy(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
    """Two copies of numbers with noise."""
    drawn = [batch["x"] + 0.3 * torch.randn(batch["x"].shape, generator=generator) for _ in range(2)]
    return {f"view{k}": view(batch, x, "encoder", k) for k, x in enumerate(drawn)}


def by_state(rule: Callable, seed: int) -> float:
    """How well distances follow a continuous state, of patients held out."""
    data = diabetes(seed)

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        a, c = (told(rows, value=rows.facts["label"]) for rows in sets.values())
        return infonce(a, c, rule=rule, temperature=0.2)

    return rank_of_values(trained({"encoder": mlp(10)}, noisy, objective, data, seed=seed)["encoder"], data)


def transfer(weighted: bool, seed: int) -> float:
    """Right halves named by their nearest class, whose centres are of a frozen encoder of left halves."""
    data = digits(seed)
    left = halves(data.x)[0]

    def classes(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        return Outcome({"x": nn.functional.cross_entropy(sets["rows"].z, sets["rows"].facts["label"])}, {"x": 1.0}, {})

    def only_left(batch: Batch, _generator: torch.Generator) -> dict[str, Batch]:
        return {"rows": view(batch, halves(batch["x"])[0], "encoder", 0)}

    teacher = trained({"encoder": mlp(32, 10)}, only_left, classes, data, seed=seed)["encoder"][:-1]
    frozen = teacher.requires_grad_(False)

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        known = to_unit(sets["left"].z)
        a, c = told(sets["left"], teacher=known), told(sets["right"], teacher=known)
        there = infonce(a, c, rule=alike() if weighted else same_sample, temperature=0.1)
        return Outcome.of(there=(0.5, there), back=(0.5, infonce(c, a, temperature=0.1)))

    modules = trained({"left": frozen, "right": mlp(32, 128)}, both_halves, objective, data, seed=seed, steps=100)
    centres = torch.stack([vectors(frozen, left[data.y == c]).mean(0) for c in range(10)])
    said = (vectors(modules["right"], halves(data.held)[1]) @ to_unit(centres).T).argmax(1)
    return float((said == data.answers).float().mean())


def two_digits(rule: Callable, seed: int) -> float:
    """Accuracy of a probe for each of ten labels, on scenes of two digits side by side."""
    one, generator = digits(seed), torch.Generator().manual_seed(seed)
    other = torch.randperm(len(one.x), generator=generator)
    again = torch.randperm(len(one.held), generator=generator)

    def labels(y: Tensor, z: Tensor) -> Tensor:
        return nn.functional.one_hot(y, 10) | nn.functional.one_hot(z, 10)

    x, held = torch.cat([one.x, one.x[other]], 1), torch.cat([one.held, one.held[again]], 1)
    y, answers = labels(one.y, one.y[other]), labels(one.answers, one.answers[again])
    data = Data(x, y, held, answers)

    def views(batch: Batch, g: torch.Generator) -> dict[str, Batch]:
        copies = [torch.cat([moved(part, g) for part in batch["x"].split(64, 1)], 1) for _ in range(2)]
        return {f"view{k}": view(batch, part, "encoder", k) for k, part in enumerate(copies)}

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        a, c = (told(rows, labels=rows.facts["label"]) for rows in sets.values())
        return infonce(a, c, rule=rule, temperature=0.1)

    encoder = trained({"encoder": mlp(128)}, views, objective, data, seed=seed)["encoder"]
    known, asked = vectors(encoder, x), vectors(encoder, held)
    return sum(probe(known, y[:, c], asked, answers[:, c]) for c in range(10)) / 10


def with_duplicates(filtered: bool, seed: int) -> float:
    """Accuracy where every digit stands four times in the data under different ids."""
    one = digits(seed)
    some = one.x[:300].repeat(4, 1)
    data = Data(some, one.y[:300].repeat(4), one.held, one.answers)
    _, _, directions = torch.linalg.svd(one.x - one.x.mean(0), full_matrices=False)

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        seen = [some[rows.facts["row"]] for rows in sets.values()]
        a, c = (
            told(rows, teacher=to_unit((x - one.x.mean(0)) @ directions[:16].T))
            for rows, x in zip(sets.values(), seen, strict=True)
        )
        rule = without(same_sample, suspected(least=0.9)) if filtered else same_sample
        return SIMCLR(a, c, rule=rule)

    return knn(trained({"encoder": mlp(64)}, augmented(), objective, data, seed=seed)["encoder"], data)


def told_apart(inside: bool, seed: int) -> float:
    """How well a probe tells two domains apart, of which one is darker; lower is better."""
    data = digits(seed)
    half = len(data.x) // 2

    def darker(x: Tensor, dark: Tensor) -> Tensor:
        return torch.where(dark[:, None], 0.5 * (x + 0.5) - 0.5, x)

    domain = torch.arange(len(data.x)) % 2
    both = Data(darker(data.x, domain == 1), domain, data.held, data.answers)

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        a, c = (told(rows, domain=rows.facts["label"]) for rows in sets.values())
        return SIMCLR(a, c, rule=within(same_sample) if inside else same_sample)

    encoder = trained({"encoder": mlp(64)}, augmented(), objective, both, seed=seed)["encoder"]
    z = vectors(encoder, both.x)
    return probe(z[:half], domain[:half], z[half:], domain[half:])


def kept(distilled: float, seed: int) -> float:
    """How many halves of the first five classes find each other still, after training on the other five."""
    data = digits(seed)
    old, new = data.some(data.y < 5), data.some(data.y >= 5)

    def clip(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        return SIMCLR(sets["left"], sets["right"])

    modules = trained({"left": mlp(32), "right": mlp(32)}, both_halves, clip, old, seed=seed)
    before = copy.deepcopy(modules).requires_grad_(False)

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        x = new.x[sets["left"].facts["row"]]
        sides = zip(("left", "right"), halves(x), strict=True)
        a, c = (told(sets[name], teacher=vectors(before[name], half)) for name, half in sides)
        keep = distillation(a, c, temperature=0.1, right_only=True, directions="both")
        return Outcome.of(clip=(1.0, SIMCLR(a, c)), keep=(distilled, keep))

    modules = trained(dict(modules), both_halves, objective, new, seed=seed)
    return recall(modules, data.held[data.answers < 5])


def order_kept(by_order: bool, seed: int) -> float:
    """Spearman's correlation of a student's scores with the teacher's, over digits held out; students see 16 of 64 pixels."""
    data = digits(seed)
    some = torch.randperm(64, generator=torch.Generator().manual_seed(seed))[:16]
    teacher = to_unit(data.x + 0.5)

    def views(batch: Batch, _generator: torch.Generator) -> dict[str, Batch]:
        return {"rows": view(batch, batch["x"][:, some], "encoder", 0)}

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        rows = sets["rows"]
        known = teacher[rows.facts["row"]]
        score = known @ known.T
        score.fill_diagonal_(-1.0)
        best, at = score.topk(8 if by_order else 1)
        anchors = rows.id[:, None].expand_as(at).flatten()
        grades = best.flatten().clamp(min=1e-3).tolist() if by_order else None
        relation = Relation.of(anchors, rows.id[at].flatten(), grades)
        if by_order:
            return ranked(rows, rows, rule=listed(relation), temperature=0.1)
        return infonce(rows, rows, rule=listed(relation), temperature=0.1)

    encoder = trained({"encoder": mlp(16)}, views, objective, data, seed=seed)["encoder"]
    z, t = vectors(encoder, data.held[:, some]), to_unit(data.held + 0.5)
    upper = torch.triu_indices(len(z), len(z), 1)
    return float(spearmanr((z @ z.T)[upper[0], upper[1]], (t @ t.T)[upper[0], upper[1]]).statistic)


CLAIMS = [
    Claim(
        "kernel of states (RS-CL)", "soft targets by a continuous state order the space by it",
        "Spearman of distances with distances of values (diabetes)",
        partial(by_state, near(width=0.3)), partial(by_state, same_sample), row=62,
    ),
    Claim(
        "weights of a frozen teacher (CWCL)", "weighing pairs by the frozen modality's similarity improves zero-shot transfer",
        "accuracy of right halves by left centres", partial(transfer, True), partial(transfer, False), row=220,
    ),
    Claim(
        "overlap of labels (SoftCon)", "soft targets by shared labels give better multi-label features",
        "mean accuracy of ten probes, two digits a scene",
        partial(two_digits, overlapping()), partial(two_digits, same_sample), row=208,
    ),
    Claim(
        "false negatives (DCLR)", "negatives that another model finds too similar are better left out",
        "accuracy of 5 neighbours, each digit four times",
        partial(with_duplicates, True), partial(with_duplicates, False), row=102,
    ),
    Claim(
        "within one domain (CLIM)", "negatives of one's own domain alone make domains harder to tell apart",
        "accuracy of a probe of the domain", partial(told_apart, True), partial(told_apart, False), row=155, higher=False,
    ),
    Claim(
        "off-diagonal distillation (Mod-X)", "keeping the old model's relations keeps what was learned before",
        "recall@10 of the old classes", partial(kept, 5.0), partial(kept, 0.0), row=223,
    ),
    Claim(
        "order of a teacher (CPRD)", "learning the teacher's order of hard candidates beats learning its best one",
        "Spearman with the teacher's scores", partial(order_kept, True), partial(order_kept, False), row=176,
    ),
]  # fmt: skip
