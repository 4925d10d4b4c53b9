"""Running denominators and their temperatures: the authors' two losses over several steps, limits, finite differences."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint._ops.launch import in_processes
from counterpoint.encoders.estimates import Estimates
from counterpoint.objectives.estimated import estimated
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.types import Embeddings, Outcome
from tests.objectives.contract import RULES, two_sets

SOGCLR = (
    "Yuan et al.: Provable Stochastic Optimization for Global Contrastive Learning: Small Batch Does Not Harm "
    "Performance, arXiv:2202.12387, 2022"
)


def draw(n: int, d: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class AuthorsOne:
    """GCLoss_v1 in libauc/losses/contrastive.py of Optimization-AI/LibAUC at 2005414, restated for one process.

    Its temperatures are [n, 1, 1] beside logits [n, m], which fits for no batch; they are taken for [n, 1] here.
    """

    def __init__(self, size: int, tau: float, gamma: float, *, learn: bool) -> None:
        self.u = torch.zeros(size, 1, dtype=torch.float64)
        self.tau = torch.full((size, 1), tau, dtype=torch.float64)
        self.m = torch.zeros(size, 1, dtype=torch.float64)
        self.gamma, self.learn = gamma, learn

    def __call__(self, h1: Tensor, h2: Tensor, index: Tensor) -> Tensor:
        h1, h2 = normalize(h1, dim=1), normalize(h2, dim=1)
        b, eye, tau = len(h1), torch.eye(len(h1), dtype=torch.float64), self.tau[index]
        labels, losses, us, slopes = torch.cat([eye, torch.zeros_like(eye)], 1), [], [], []
        for x, y in ((h1, h2), (h2, h1)):
            logits = torch.cat([x @ y.T, x @ x.T - eye * 1e9], 1)
            weights = (logits / tau).exp() * (1 - labels)
            now = weights.sum(1, keepdim=True) / (2 * (b - 1))
            new = bool(self.u[index].sum() == 0)
            u = now if new else (1 - self.gamma) * self.u[index] + self.gamma * now
            p = (weights / u.clamp(min=1e-8)).detach()
            pushed = (p * logits).sum(1, keepdim=True) / (2 * (b - 1))
            losses.append(-(labels * (logits - pushed)).sum(1))
            us.append(u.detach())
            slopes.append(u.detach().log() + 0.3 - (p * (logits / tau).detach()).sum(1, keepdim=True) / (2 * (b - 1)))
        self.u[index] = (us[0] + us[1]) / 2
        if self.learn:
            self.m[index] = 0.1 * self.m[index] + 0.9 * (slopes[0] + slopes[1]) / 2
            self.tau[index] = (self.tau[index] - 0.01 * self.m[index]).clamp(0.05, 0.7)
        return (losses[0] + losses[1]).mean()


class AuthorsTwo:
    """GCLoss_v2 of the same file, without its guard against overflow, which changes no number."""

    def __init__(self, size: int, tau: float, gamma: float) -> None:
        self.u = [torch.zeros(size, 1, dtype=torch.float64) for _ in range(2)]
        self.tau = [torch.full((size, 1), tau, dtype=torch.float64) for _ in range(2)]
        self.m = [torch.zeros(size, 1, dtype=torch.float64) for _ in range(2)]
        self.gamma = gamma

    def __call__(self, images: Tensor, texts: Tensor, index: Tensor) -> Tensor:
        images, texts = normalize(images, dim=1), normalize(texts, dim=1)
        b, total = len(images), torch.zeros((), dtype=torch.float64)
        for k, s in enumerate((images @ texts.T, texts @ images.T)):
            h, tau, free = s - s.diagonal()[:, None], self.tau[k][index], 1 - torch.eye(b, dtype=torch.float64)
            weights = (h / tau).detach().exp() * free
            now, old = weights.sum(1, keepdim=True) / (b - 1), self.u[k][index]
            u = now if bool(old.sum() == 0) else (1 - self.gamma) * old + self.gamma * now
            p = weights / u
            self.u[k][index] = u
            slope = u.log() + 6.0 - (p * (h / tau).detach()).sum(1, keepdim=True) / (b - 1)
            self.m[k][index] = 0.1 * self.m[k][index] + 0.9 * slope
            self.tau[k][index] = (self.tau[k][index] - 0.01 * self.m[k][index]).clamp(0.005, 0.05)
            total = total + (p * h).sum(1).mean() / 2
        return total


def both_views(first: Tensor, second: Tensor, index: Tensor) -> Embeddings:
    sets = [Embeddings.of(z, id=index + 40, view=v, facts={"row": index}) for v, z in enumerate((first, second))]
    return Embeddings.cat(sets)


def exact(state: Estimates, temperature: float) -> Estimates:
    """In double precision, with temperatures that are not rounded to fp32 first."""
    state.double().temperature.fill_(temperature)
    return state


def assert_gradients(found: Tensor, wanted: Tensor, leaves: list[Tensor]) -> None:
    assert found.item() == pytest.approx(wanted.item(), rel=1e-8)
    for ours, theirs in zip(*(torch.autograd.grad(x, leaves) for x in (found, wanted)), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-7, atol=1e-10)


BATCHES = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [3, 0, 2, 1, 4], [9, 8, 7, 6, 5]]  # the authors take a batch to be all new


@pytest.mark.proves(row=187, fact="reference")
@pytest.mark.proves(reference=SOGCLR, fact="reference")
@pytest.mark.parametrize("learn", [False, True])
def test_one_modality_is_the_loss_of_the_authors_step_by_step(learn: bool) -> None:
    """Value, gradient, denominators and temperatures; the authors add the two views up."""
    theirs = AuthorsOne(10, 0.3, 0.8, learn=learn)
    ours = exact(Estimates(10, temperature=0.3, eta=0.01 if learn else 0.0), 0.3)
    for step, rows in enumerate(BATCHES):
        index = torch.tensor(rows)
        leaves = [draw(5, seed=2 * step + v).requires_grad_() for v in (0, 1)]
        wanted = theirs(*leaves, index)
        two = ours.of(both_views(*leaves, index))
        outcome = estimated(two, temperature="temperature", gamma=0.8, relative=False)
        ours.follow(two, outcome)
        assert_gradients(2 * outcome.loss, wanted, leaves)
        assert torch.allclose(ours.log_u[index].exp(), theirs.u[index, 0], rtol=1e-9)
        assert torch.allclose(ours.temperature, theirs.tau[:, 0], rtol=1e-9)


@pytest.mark.proves(row=187, fact="reference")
def test_two_modalities_are_the_loss_of_the_authors_step_by_step() -> None:
    """The authors add negatives up: their loss is 4 times this for a batch of 5; each modality has its own table."""
    theirs = AuthorsTwo(10, 0.04, 0.9)
    ours = [exact(Estimates(10, temperature=0.04, least=0.005, most=0.05), 0.04) for _ in range(2)]
    for step, rows in enumerate(BATCHES):
        index = torch.tensor(rows)
        leaves = [draw(5, seed=2 * step + v).requires_grad_() for v in (0, 1)]
        wanted = theirs(*leaves, index)
        sets = [Embeddings.of(z, id=index + 40, view=v, facts={"row": index}) for v, z in enumerate(leaves)]
        found = torch.zeros((), dtype=torch.float64)
        for k, state in enumerate(ours):
            anchors = state.of(sets[k])
            outcome = estimated(anchors, sets[1 - k], temperature="temperature", rho=6.0)
            state.follow(anchors, outcome)
            found = found + outcome.loss / 2
            assert torch.allclose(state.log_u[index].exp(), theirs.u[k][index, 0], rtol=1e-7)
            assert torch.allclose(state.temperature, theirs.tau[k][:, 0], rtol=1e-8)
        assert_gradients(4 * found, wanted, leaves)


def test_two_tables_follow_one_outcome_of_both_directions() -> None:
    sets = [Embeddings.of(draw(5, seed=v), view=v, facts={"row": torch.arange(5)}) for v in (0, 1)]
    apart, together = ([Estimates(5, temperature=0.3).double() for _ in range(2)] for _ in range(2))
    told = [table.of(rows) for table, rows in zip(together, sets, strict=True)]
    outcomes = [estimated(a, c, temperature="temperature") for a, c in (told, told[::-1])]
    both = Outcome.of(images=(0.5, outcomes[0]), texts=(0.5, outcomes[1]))
    for k, name in enumerate(("images", "texts")):
        apart[k].follow(told[k], outcomes[k])
        together[k].follow(told[k], both, term=name)
        assert torch.equal(apart[k].log_u, together[k].log_u)
        assert torch.equal(apart[k].temperature, together[k].temperature)
    assert not torch.equal(together[0].log_u, together[1].log_u)


def test_estimates_follow_only_what_was_noted_of_their_rows() -> None:
    state = Estimates(5)
    rows = state.of(Embeddings.of(draw(5, seed=0), facts={"row": torch.arange(5)}))
    outcome = estimated(rows)
    with pytest.raises(KeyError, match=r"notes \['texts estimate', 'texts slope'\], it has: estimate"):
        state.follow(rows, outcome, term="texts")
    with pytest.raises(ValueError, match="5 rows, got 2"):
        state.follow(rows.rows(slice(0, 2)), outcome)


@pytest.mark.proves(row=187, fact="closed-form")
def test_a_denominator_by_hand() -> None:
    """Positive at 1, negative at 0, t = 0.5, u before 1: u = 0.3 + 0.7 exp(-2), loss = -exp(-2) / u."""
    a = Embeddings.of(torch.tensor([[1.0, 0.0]]).double(), facts={"estimate": torch.zeros(1).double()})
    c = Embeddings.of(torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double(), view=1)
    found = estimated(a, c, temperature=0.5, gamma=0.7, rho=0.3)
    u, w = 0.3 + 0.7 * math.exp(-2), math.exp(-2)
    assert found.loss.item() == pytest.approx(-w / u, rel=1e-12)
    assert found.notes["estimate"].item() == pytest.approx(math.log(u), rel=1e-12)
    assert found.notes["slope"].item() == pytest.approx(math.log(u) + 0.3 + 2 * w / u, rel=1e-12)


@pytest.mark.parametrize("relative", [True, False])
def test_without_memory_it_is_the_gradient_of_the_decoupled_loss(relative: bool) -> None:
    z = draw(8).requires_grad_()
    index = torch.arange(8) % 4
    rows = replace(Embeddings.of(z, facts={"label": index}), id=torch.arange(8))
    found = estimated(rows, rule=labelled(), temperature=0.3, gamma=1.0, relative=relative).loss
    wanted = 0.3 * infonce(rows, rule=labelled(), temperature=0.3, positives_compete=False).loss
    assert torch.allclose(*(torch.autograd.grad(x, z)[0] for x in (found, wanted)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_anchors_with_unequal_amounts_of_negatives_each_divide_by_their_own(rule: Any, relative: bool) -> None:
    """Twice, without memory: the gradient of the decoupled loss; and with memory, one anchor at a time."""
    a, c, z = two_sets(9, 11, 0, torch.float64)
    amount = rule(a, c).repel.sum(1)
    assert len(amount[amount > 0].unique()) > 1
    options: Any = {"rule": rule, "temperature": 0.3, "relative": relative}
    found = estimated(a, c, gamma=1.0, **options).loss
    wanted = 0.3 * infonce(a, c, rule=rule, temperature=0.3, positives_compete=False).loss
    for one, two in zip(*(torch.autograd.grad(x, z) for x in (found, wanted)), strict=True):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-12)
    told = replace(a, facts={**a.facts, "estimate": torch.linspace(-2, 1, 9).double()})
    whole = estimated(told, c, gamma=0.6, **options)
    parts = [estimated(told.rows(slice(i, i + 1)), c, gamma=0.6, **options) for i in range(9)]
    there = torch.tensor([bool(part.notes["estimate"] > -1e8) for part in parts])
    each = torch.stack([part.loss for part in parts])
    assert whole.loss.item() == pytest.approx(each[there].mean().item(), rel=1e-9)
    for name in ("estimate", "slope"):
        assert torch.allclose(whole.notes[name], torch.cat([part.notes[name] for part in parts]), rtol=1e-9)


def test_the_slope_is_the_derivative_of_the_dual_by_the_temperature() -> None:
    """t log mean exp(h / t) + t rho, by finite differences, with gamma = 1."""
    two = both_views(draw(5), draw(5, seed=1), torch.arange(5))

    def dual(t: float) -> Tensor:
        return t * (estimated(two, temperature=t, gamma=1.0).notes["estimate"] + 0.3)

    step = 1e-5
    wanted = (dual(0.2 + step) - dual(0.2 - step)) / (2 * step)
    assert torch.allclose(estimated(two, temperature=0.2, gamma=1.0).notes["slope"], wanted, atol=1e-8)


def test_low_temperatures_do_not_overflow() -> None:
    z = draw(6).float()
    z[4] = z[0] + 0.01  # an anchor without a positive lies at a negative: exp(200) if it were looked at
    z.requires_grad_()
    a = Embeddings.of(z, facts={"label": torch.tensor([0, 0, 1, 1, 2, 3])})
    outcome = estimated(a, rule=labelled(), temperature=0.005, relative=False)
    assert torch.isfinite(outcome.loss)
    assert torch.isfinite(torch.autograd.grad(outcome.loss, z)[0]).all()
    assert outcome.notes["estimate"][4:].tolist() == [-1e9, -1e9]  # without a positive


def test_samples_that_were_not_looked_at_stay_as_they_are_and_views_count_by_their_mean() -> None:
    state = Estimates(5, temperature=0.2, beta=1.0, eta=0.1).double()
    rows = Embeddings.of(draw(4), facts={"row": torch.tensor([3, 1, 3, 2])})
    outcome = estimated(Embeddings.of(draw(2)), Embeddings.of(draw(2), view=1))
    notes = {
        "estimate": torch.tensor([0.0, 1.0, math.log(3.0), -1e9]).double(),
        "slope": torch.tensor([1.0, -9.0, 0.0, 7.0]).double(),
    }
    state.follow(rows, outcome._replace(notes=notes))
    assert torch.allclose(state.log_u, torch.tensor([-1e9, 1.0, -1e9, math.log(2.0), -1e9]).double())
    assert torch.allclose(state.temperature, torch.tensor([0.2, 0.7, 0.2, 0.15, 0.2]).double())


def test_the_tables_are_the_same_on_all_processes() -> None:
    first, second, index = draw(6), draw(6, seed=1), torch.tensor([4, 2, 0, 1, 5, 3])

    def work(rank: int, count: int) -> list[Tensor]:
        state, share = Estimates(6, temperature=0.3).double(), slice(6 * rank // count, 6 * (rank + 1) // count)
        for _ in range(2):
            two = state.of(both_views(first[share], second[share], index[share]))
            state.follow(two, estimated(two, temperature="temperature"))
        return [state.log_u, state.temperature, state.slope]

    one = in_processes(1, work)[0]
    for found in in_processes(3, work):
        assert all(torch.allclose(x, y, rtol=1e-9) for x, y in zip(found, one, strict=True))


@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_a_gamma_out_of_range_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma"):
        estimated(Embeddings.of(draw(2)), Embeddings.of(draw(2), view=1), gamma=gamma)
    with pytest.raises(ValueError, match="least"):
        Estimates(3, least=0.9, most=0.5)


def test_a_temperature_takes_no_gradient() -> None:
    t, z = torch.full((4,), 0.3, dtype=torch.float64).requires_grad_(), draw(4).requires_grad_()
    a = Embeddings.of(z, facts={"t": t, "label": torch.tensor([0, 0, 1, 1])})
    for given in ("t", t):
        loss = estimated(a, rule=labelled(), temperature=given).loss
        gradient = torch.autograd.grad(loss, t, allow_unused=True)[0]
        assert gradient is None or not gradient.any()
