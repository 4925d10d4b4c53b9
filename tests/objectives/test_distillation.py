"""Distillation of relations: closed forms, the authors' code, limits, invariances, tiles."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize

from counterpoint.objectives.distillation import distillation
from counterpoint.objectives.softmax import infonce
from counterpoint.objectives.spread import alignment
from counterpoint.pairs.labels import labelled
from counterpoint.types import Embeddings, Outcome, same_sample
from tests.objectives.contract import RULES, assert_same, assert_tiles_equal_dense


def drawn(n: int, d: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def taught(n: int = 7, noise: float = 0.7) -> tuple[Embeddings, Embeddings, list[Tensor], list[Tensor]]:
    """Two views with a teacher that is often right, and what they are made of."""
    z = [drawn(n, seed=k).requires_grad_() for k in (1, 2)]
    u = normalize(drawn(n, 3, seed=3), dim=1)
    teacher = [u, normalize(u + noise * drawn(n, 3, seed=4), dim=1)]
    a, c = (Embeddings.of(x, view=v, facts={"teacher": t}) for v, (x, t) in enumerate(zip(z, teacher, strict=True)))
    return a, c, z, teacher


@pytest.mark.proves(row=223, fact="closed-form")
@pytest.mark.proves(row=227, fact="closed-form")
def test_two_candidates_by_hand() -> None:
    z = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    a = Embeddings.of(z[:1], facts={"teacher": z[1:]})
    c = Embeddings.of(z, id=torch.tensor([8, 9]), facts={"teacher": z})
    p = 1 / (1 + math.exp((1 - 0.6) / 0.5))  # the teacher says 0.6 and 1, the student 1 and 0.6
    q = 1 / (1 + math.exp((0.6 - 1) / 0.2))
    found = distillation(a, c, temperature=0.2, teacher_temperature=0.5)
    assert found.loss.item() == pytest.approx(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)), rel=1e-12)
    assert found.notes["entropy"].item() == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p), rel=1e-12)


def cognition_aligned(old: Tensor, new: Tensor) -> Tensor:
    """Rows where the old model is wrong, replaced by those of the new one: cognition_align of ZixuanNi/Mod-X."""
    right = old.argmax(1) == torch.arange(len(old))
    return torch.where(right[:, None], old, new)


def mod_x(images: Tensor, texts: Tensor, old_images: Tensor, old_texts: Tensor) -> Tensor:
    """The distillation term of github.com/ZixuanNi/Mod-X, ModX_Training/continue_train_model.py at 3f63e37: plain
    cosines, sums over rows, half of each direction."""
    new, old = normalize(images, dim=1) @ normalize(texts, dim=1).T, old_images @ old_texts.T
    parts = []
    for s, t in ((new, old), (new.T, old.T)):
        target = cognition_aligned(t, s)
        parts.append(kl_div(s.softmax(-1).log(), target.softmax(-1), reduction="sum"))
    return (parts[0] + parts[1]) / 2


@pytest.mark.proves(row=223, fact="reference")
def test_rows_where_the_teacher_is_right_equal_mod_x() -> None:
    a, c, z, teacher = taught(9)
    scores = teacher[0] @ teacher[1].T
    wrong = (scores.argmax(1) != torch.arange(9)).sum(), (scores.argmax(0) != torch.arange(9)).sum()
    assert 0 < wrong[0] < 9
    assert 0 < wrong[1] < 9
    assert wrong[0] != wrong[1] or not torch.equal(scores.argmax(1), scores.argmax(0))
    found = distillation(a, c, directions="both", right_only=True).loss
    assert_same(found, mod_x(*z, *teacher), z, scale=9)
    everyone = distillation(a, c, directions="both").loss
    assert everyone.item() > found.item()


@pytest.mark.proves(row=223, fact="closed-form")
def test_a_teacher_that_is_always_wrong_says_nothing() -> None:
    a, c, z, teacher = taught(noise=0.0)
    wrong = replace(c, facts={"teacher": teacher[1].roll(1, 0)})
    loss = distillation(a, wrong, right_only=True).loss
    assert loss.item() == 0
    assert torch.autograd.grad(loss, z, allow_unused=True)[0].abs().max() == 0
    assert distillation(a, wrong).loss.item() > 1e-3
    right = distillation(a, c, right_only=True).loss
    assert right.item() == pytest.approx(distillation(a, c).loss.item(), rel=1e-12)


def prd(features: Tensor, prototypes: Tensor, old_features: Tensor, old_prototypes: Tensor, t: float) -> Tensor:
    """One task of relation_distillation_loss in github.com/naderAsadi/Probing-Continual-Learning, methods/repe.py at
    26a5ac1: scores f.p / |p|, the cross-entropy of softmaxes over the prototypes of the task, the mean over samples."""
    now, old = features @ normalize(prototypes, dim=1).T, old_features @ normalize(old_prototypes, dim=1).T
    return (-torch.softmax(old / t, 1) * log_softmax(now / t, 1)).sum(-1).mean()


@pytest.mark.proves(row=227, fact="reference")
def test_samples_among_the_prototypes_of_two_old_tasks_equal_prd() -> None:
    f, old_f = drawn(9, seed=1).requires_grad_(), drawn(9, seed=2)
    prototypes = [drawn(4, seed=k).requires_grad_() for k in (3, 4)]
    before = [drawn(4, seed=k) for k in (5, 6)]
    samples = Embeddings.of(f, facts={"teacher": old_f})
    expected, found, entropy = torch.zeros((), dtype=f.dtype), torch.zeros((), dtype=f.dtype), 0.0
    for now, old in zip(prototypes, before, strict=True):
        expected = expected + prd(f, now, old_f, old, 2.0)
        made = Embeddings.of(normalize(now, dim=1), id=-1 - torch.arange(4), facts={"teacher": normalize(old, dim=1)})
        told = distillation(samples, replace(made, placement="replicated"), temperature=2.0, unit=False)
        found, entropy = found + told.loss, entropy + told.notes["entropy"].mean()
    assert_same(found + entropy, expected, [f, *prototypes])


@pytest.mark.proves(row=227, fact="closed-form")
def test_prototypes_among_the_samples_of_a_batch_as_the_paper_has_it() -> None:
    """For each prototype of old tasks the softmax over the samples of the batch stays what it was."""
    f, old_f, p, old_p = (normalize(drawn(n, seed=k), dim=1) for k, n in enumerate((9, 9, 4, 4)))
    f.requires_grad_()
    p.requires_grad_()
    now, old = p @ f.T / 0.5, old_p @ old_f.T / 0.5
    expected = kl_div(log_softmax(now, 1), old.softmax(1), reduction="batchmean")
    prototypes = replace(Embeddings.of(p, id=-1 - torch.arange(4), facts={"teacher": old_p}), placement="replicated")
    samples = Embeddings.of(f, facts={"teacher": old_f})
    assert_same(distillation(prototypes, samples, temperature=0.5, unit=False).loss, expected, [f, p])


@pytest.mark.proves(row=227, fact="reference")
def test_prototypes_follow_their_samples_and_samples_feel_nothing() -> None:
    """linear_loss of the same file: the mean of 1 - cos(sg(f_i), p of its class); here half of `alignment`."""
    f, p, label = drawn(9, seed=1).requires_grad_(), drawn(4, seed=2).requires_grad_(), torch.arange(9) % 4
    expected = (1 - torch.cosine_similarity(f.detach(), p[label])).mean()
    samples = Embeddings.of(f.detach(), facts={"label": label})
    prototypes = Embeddings.of(p, id=-1 - torch.arange(4), facts={"label": torch.arange(4)})
    found = alignment(samples, prototypes, rule=labelled()).loss / 2
    assert_same(found, expected, [p])


def test_cross_entropy_is_the_divergence_and_the_entropy_of_the_teacher() -> None:
    a, c, z, teacher = taught()
    target = (teacher[0] @ teacher[1].T / 0.3).softmax(1)
    logits = normalize(z[0], dim=1) @ normalize(z[1], dim=1).T / 0.2
    found = distillation(a, c, temperature=0.2, teacher_temperature=0.3)
    assert torch.allclose(found.notes["entropy"], -(target * target.log()).sum(1))
    assert_same(found.loss + found.notes["entropy"].mean(), -(target * log_softmax(logits, 1)).sum(1).mean(), z)


def test_a_student_that_says_the_same_is_left_alone() -> None:
    z = drawn(6, seed=1).requires_grad_()
    facts = {"teacher": normalize(z.detach(), dim=1)}
    loss = distillation(Embeddings.of(z, facts=facts), temperature=0.2, directions="both").loss
    assert abs(loss.item()) < 1e-12
    assert torch.autograd.grad(loss, z)[0].abs().max() < 1e-12


def test_a_teacher_sure_of_the_positive_makes_it_infonce() -> None:
    a, c, z, _ = taught(noise=0.0)
    found = distillation(a, c, temperature=0.1, teacher_temperature=1e-4).loss
    assert_same(found, infonce(*z, temperature=0.1).loss, z)


def test_the_teacher_gets_no_gradient_and_ignored_pairs_no_say() -> None:
    z, t = drawn(5, seed=1).requires_grad_(), drawn(5, 3, seed=2).requires_grad_()
    rows = Embeddings.of(z, id=torch.tensor([1, 1, 2, 3, 4]), facts={"teacher": t})
    loss = distillation(rows, rows).loss
    assert torch.autograd.grad(loss, t, allow_unused=True)[0] is None
    ignored = same_sample(rows, rows).attract + same_sample(rows, rows).repel == 0
    student, teacher = (x.detach() @ x.detach().T for x in (normalize(z, dim=1), t))
    p, q = (x.masked_fill(ignored, -1e9).softmax(1) for x in (teacher, student))
    expected = (p * (p.clamp(min=1e-300) / q.clamp(min=1e-300)).log()).sum(1).mean()
    assert distillation(rows, rows).loss.item() == pytest.approx(expected.item(), rel=1e-9)


def test_an_anchor_without_a_candidate_does_not_count() -> None:
    a, c, _, _ = taught()

    def all_but_the_first(x: Embeddings, y: Embeddings) -> Any:
        pairs = same_sample(x, y)
        here = (x.id != 1)[:, None].to(pairs.attract)
        return pairs._replace(attract=pairs.attract * here, repel=pairs.repel * here)

    some = distillation(a, c, rule=all_but_the_first).loss.item()
    assert some == pytest.approx(distillation(a.rows(torch.arange(7) != 1), c).loss.item(), rel=1e-12)


def test_shuffling_scaling_and_rotating_change_nothing() -> None:
    a, c, _, _ = taught()
    base = distillation(a, c, right_only=True, directions="both").loss.item()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    assert distillation(a, c.rows(order), right_only=True, directions="both").loss.item() == pytest.approx(
        base, rel=1e-12
    )
    rotation = torch.linalg.qr(drawn(6, 6, seed=9))[0]
    turned = [replace(e, z=2 * e.z @ rotation) for e in (a, c)]
    assert distillation(*turned, right_only=True, directions="both").loss.item() == pytest.approx(base, rel=1e-9)


def test_bad_arguments_are_refused() -> None:
    a, c, _, _ = taught()
    with pytest.raises(KeyError, match="'old' of both sides; one has: _cooled, teacher"):
        distillation(a, c, teacher="old")
    with pytest.raises(ValueError, match="teacher above 0, got -1"):
        distillation(a, c, teacher_temperature=-1.0)
    with pytest.raises(ValueError, match="teacher_temperature beside"):
        distillation(a, c, temperature=torch.ones(7))
    each = distillation(a, c, temperature=torch.full((7,), 0.2, dtype=torch.float64), teacher_temperature=0.2).loss
    assert each.item() == pytest.approx(distillation(a, c, temperature=0.2).loss.item(), rel=1e-9)


def test_a_positive_that_is_as_near_as_another_up_to_rounding_is_right() -> None:
    generator = torch.Generator().manual_seed(0)
    z, known = (torch.randn(5, 4, generator=generator) for _ in range(2))
    known[:] = torch.nn.functional.normalize(known, dim=1)
    twin = known.clone()
    twin[1] = known[0] * (1 + 2 * torch.finfo(torch.float32).eps)  # a stranger's, nearer by less than can be told
    a, c = (Embeddings.of(z.roll(v, 1), view=v, facts={"teacher": t}) for v, t in ((0, known), (1, twin)))
    assert distillation(a, c, right_only=True).loss > 0
    only = distillation(a.rows(slice(0, 1)), c, right_only=True).loss
    assert only.item() == pytest.approx(distillation(a.rows(slice(0, 1)), c).loss.item())
    twin[1] = known[0] * 1.01  # now the teacher is wrong
    assert distillation(a.rows(slice(0, 1)), c, right_only=True).loss.item() == 0


@pytest.mark.parametrize("right_only", [False, True])
@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 19), m=st.integers(1, 23), seed=st.integers(0, 10**6))
def test_tiles_equal_dense(rule: Any, right_only: bool, n: int, m: int, seed: int) -> None:
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def loss(a: Embeddings, c: Embeddings) -> Outcome:
        a, c = (
            replace(e, facts={**e.facts, "teacher": torch.stack([e.id, e.facts["label"], e.view], 1).double().sin()})
            for e in (a, c)
        )
        return distillation(
            a, c, rule=rule, temperature=t, teacher_temperature=0.5, directions="both", right_only=right_only
        )

    assert_tiles_equal_dense(loss, n=n, m=m, seed=seed, learnable=(t,))
