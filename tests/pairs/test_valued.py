"""Continuous labels: mixtures of known label beside the authors' code, and the pairs and loss of ConR beside theirs."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from counterpoint.objectives.continuous import conr
from counterpoint.objectives.positives import infonce_separate
from counterpoint.objectives.private import infonce_private
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.synthetic import private_to
from counterpoint.pairs.valued import disagreeing, mixed_by_value
from counterpoint.types import Embeddings
from tests.objectives.contract import assert_tiles_equal_dense
from tests.pairs.test_synthetic import unit

LABELS = [30.0, 31.0, 30.0, 33.0, 27.5, 40.0]


def draws(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_views_of(labels: list[float]) -> Embeddings:
    """Two views of each sample, with its label."""
    n = len(labels)
    y = torch.tensor(labels, dtype=torch.float64).repeat(2)
    rows = Embeddings.of(unit(2 * n).requires_grad_(), id=torch.arange(10, 10 + n).repeat(2), facts={"value": y})
    return replace(rows, view=torch.arange(2).repeat_interleave(n))


def supcon_of_mixtures(z: Tensor, y: Tensor, mixtures: list[tuple[int, bool, Tensor]], t: float) -> Tensor:
    """SupConLoss_v2 without weights, of imdb-wiki/supremix_loss.py of github.com/Dingyijiang1/Mixup-Your-Own-Pairs (76464f1).

    The authors' own repository, yilei-wu/SupReMix, has no code. Without its factor P / (P + 1), and without the two
    different maxima that it takes away from logits of rows and of mixtures.
    """
    total = []
    for i in range(len(z)):
        others = [(bool(y[k] == y[i]), z[k]) for k in range(len(z)) if k != i]
        others += [(attracts, row) for owner, attracts, row in mixtures if owner == i]
        logits = torch.stack([z[i] @ row for _, row in others]) / t
        positive = torch.tensor([attracts for attracts, _ in others])
        if positive.any() and len(others) > 1:
            total.append(-logits.log_softmax(0)[positive].mean())
    return torch.stack(total).mean()


@pytest.mark.proves(row=41, fact="reference")
def test_mixtures_and_loss_are_the_authors() -> None:
    """mixing_func of imdb-wiki/train_supremix.py there, entry (i, j, k) for each drawn i, j, k; and its loss without weights."""
    rows = two_views_of(LABELS)
    z, y = rows.z, rows.facts["value"]
    own = mixed_by_value(rows, negatives=4, positives=3, window=4.0, generator=draws())
    place = {(int(i), int(v)): k for k, (i, v) in enumerate(zip(rows.id, rows.view, strict=True))}
    mixtures = []
    for k in range(len(own)):
        i = place[int(-1 - own.id[k]), int(own.view[k])]
        attracts, share = bool(own.facts["attracts"][k]), own.facts["shares"][k, 0]
        left, right = own.facts["sources"][k].tolist()
        # a source is known by its sample: of its two views, one is the one that was mixed
        views = [(place[left, a], place[right, b]) for a in (0, 1) for b in (0, 1)]
        if attracts:
            expected = [(alpha * z[j] + (1 - alpha) * z[m], alpha) for j, m in views
                        if y[j] < y[i] < y[m] and y[i] - y[j] < 4 and y[m] - y[i] < 4
                        for alpha in [(y[m] - y[i]) / (y[m] - y[j])]]  # fmt: skip
            assert own.facts["value"][k] == y[i]
        else:
            assert left == rows.id[i]
            expected = [(share * z[i] + (1 - share) * z[m], share) for _, m in views if y[m] != y[i]]
            assert torch.isclose(own.facts["value"][k], share * y[i] + (1 - share) * y[views[0][1]])
        assert any(torch.allclose(own.z[k], row) and torch.isclose(share, alpha) for row, alpha in expected)
        mixtures.append((i, attracts, own.z[k]))
    assert not own.z.requires_grad
    loss = infonce_private(rows, rows, own, own=private_to(), rule=labelled("value"), temperature=0.3, unit=False).loss
    expected_loss = supcon_of_mixtures(z, y, mixtures, 0.3)
    assert torch.allclose(loss, expected_loss)
    assert torch.allclose(torch.autograd.grad(loss, z)[0], torch.autograd.grad(expected_loss, z)[0])


@pytest.mark.proves(row=41, fact="closed-form")
def test_a_mixture_from_both_sides_has_the_anchors_label() -> None:
    rows = Embeddings.of(torch.eye(3), facts={"value": torch.tensor([0.0, 1.0, 3.0])})
    own = mixed_by_value(rows, negatives=0, positives=2, window=5.0, generator=draws())
    assert own.id.tolist() == [-2, -2]
    assert torch.allclose(own.z, torch.tensor([2 / 3, 0, 1 / 3]).expand(2, 3))
    assert own.facts["value"].tolist() == [1.0, 1.0]
    assert own.facts["sources"].tolist() == [[0, 2]] * 2


@pytest.mark.parametrize("middle", [1.0, 1.5])
@pytest.mark.parametrize("window", [1.0, 1.5, 2.0])
def test_partners_lie_inside_the_window_and_not_on_its_edge(window: float, middle: float) -> None:
    rows = Embeddings.of(torch.eye(3), facts={"value": torch.tensor([0.0, middle, 2.5])})
    assert len(mixed_by_value(rows, negatives=0, positives=2, window=window, generator=draws())) == 2 * (window > 1.5)


def test_an_anchor_without_partners_gets_none() -> None:
    alike = Embeddings.of(torch.eye(3), facts={"value": torch.ones(3)})
    assert len(mixed_by_value(alike, negatives=2, positives=2, window=5.0, generator=draws())) == 0
    ends = Embeddings.of(torch.eye(2), facts={"value": torch.tensor([0.0, 1.0])})
    own = mixed_by_value(ends, negatives=2, positives=2, window=5.0, generator=draws())
    assert own.id.tolist() == [-1, -1, -2, -2]
    assert own.facts["attracts"].sum() == 0


def test_shares_of_the_anchor_are_beta() -> None:
    rows = Embeddings.of(torch.eye(3), facts={"value": torch.tensor([0.0, 1.0, 3.0])})
    for beta in ((2, 8), (1, 1), (5, 2)):
        own = mixed_by_value(rows, negatives=6000, positives=0, window=1.0, beta=beta, generator=draws())
        drawn, (a, b) = own.facts["shares"][:, 0], beta
        assert drawn.mean().item() == pytest.approx(a / (a + b), abs=0.01)
        assert drawn.var().item() == pytest.approx(a * b / ((a + b) ** 2 * (a + b + 1)), rel=0.05)
        partner = own.facts["sources"][:, 1].view(3, -1)
        assert [(partner[i] == (i + 1) % 3).double().mean().item() for i in range(3)] == pytest.approx(
            [0.5] * 3, abs=0.03
        )


def test_mixtures_do_not_depend_on_the_order_nor_on_lengths() -> None:
    rows = two_views_of(LABELS)
    own = mixed_by_value(rows, negatives=2, positives=1, window=9.0, generator=draws())
    order = torch.randperm(12, generator=draws())
    moved = mixed_by_value(rows.rows(order), negatives=2, positives=1, window=9.0, generator=draws())
    found = [sorted(map(tuple, torch.cat([o.id[:, None], o.z], 1).tolist())) for o in (own, moved)]
    assert torch.allclose(torch.tensor(found[0]), torch.tensor(found[1]))
    longer = replace(rows, z=rows.z * torch.linspace(0.5, 4, 12, dtype=torch.float64)[:, None])
    same = mixed_by_value(longer, negatives=2, positives=1, window=9.0, generator=draws())
    assert torch.allclose(same.z, own.z)  # rows are scaled to length 1 before they are mixed


def test_no_mixtures_is_supcon_on_labels() -> None:
    rows = two_views_of(LABELS)
    own = mixed_by_value(rows, negatives=0, positives=0, window=1.0, generator=draws())
    found = infonce_private(rows, rows, own, own=private_to(), rule=labelled("value"), temperature=0.3)
    assert torch.equal(found.loss, infonce(rows, rule=labelled("value"), temperature=0.3).loss)


def test_refusals() -> None:
    rows = two_views_of(LABELS)
    for wrong in ({"negatives": -1}, {"window": 0.0}, {"beta": (0, 1)}):
        with pytest.raises(ValueError, match="wanted"):
            mixed_by_value(rows, **{"negatives": 1, "positives": 1, "window": 1.0, "generator": draws(), **wrong})
    for width, push in ((-1.0, 0.0), (1.0, -1.0), (math.nan, 0.0)):
        with pytest.raises(ValueError, match="wanted a width"):
            disagreeing(width, push=push)
    with pytest.raises(KeyError, match="rare"):
        conr(rows, rule=labelled("value"), weight="rare")


def judged(n: int = 9) -> Embeddings:
    """Rows of one view with a label, a prediction and a rarity."""
    generator = draws(7)
    facts = {
        "value": torch.randint(20, 30, (n,), generator=generator).double(),
        "predicted": 20 + 10 * torch.rand(n, generator=generator, dtype=torch.float64),
        "rare": 0.5 + torch.rand(n, generator=generator, dtype=torch.float64),
    }
    return Embeddings.of(unit(n).requires_grad_(), facts=facts)


def authors(rows: Embeddings, *, w: float, t: float, e: float) -> Tensor:
    """ConR of agedb-dir/loss.py at github.com/BorealisAI/ConR (ad6a8c9).

    Without exp(0) in the sum over positives, and 0 for an anchor without a positive, where it divides by 0.
    """
    y, guess, weights = rows.facts["value"][:, None], rows.facts["predicted"][:, None], rows.facts["rare"][:, None]
    far, apart = (y - y.T).abs(), (guess - guess.T).abs()
    pos, neg = far.le(w), ~far.le(w) & apart.le(w)
    pos = pos & ~torch.eye(len(y), dtype=torch.bool)
    z = nn.functional.normalize(rows.z, dim=1)
    exp = (z @ z.T / t).exp()
    below = (exp * pos).sum(1) + (weights * (far * e).exp() * exp * neg).sum(1)
    counts = neg.any(1) & pos.any(1)
    per = (-(exp / below[:, None].clamp(min=1e-9)).log() * pos).sum(1) / pos.sum(1).clamp(min=1)
    return (weights[:, 0] * torch.where(counts, per, 0.0)).mean()


@pytest.mark.proves(row=123, fact="reference")
def test_conr_is_the_authors_loss_without_its_ones() -> None:
    rows = judged(12)
    loss = conr(rows, rule=disagreeing(2.0, push=0.3, weight="rare"), weight="rare", temperature=0.2).loss
    expected = authors(rows, w=2.0, t=0.2, e=0.3)
    assert torch.allclose(loss, expected)
    assert torch.allclose(torch.autograd.grad(loss, rows.z)[0], torch.autograd.grad(expected, rows.z)[0])


@pytest.mark.proves(row=123, fact="closed-form")
def test_conr_of_three_rows_by_hand() -> None:
    facts = {"value": torch.tensor([0.0, 1.0, 9.0]), "predicted": torch.tensor([0.0, 5.0, 0.5])}
    rows = Embeddings.of(torch.eye(3), facts=facts)
    found = conr(rows, rule=disagreeing(1.0, push=0.5), temperature=1.0).loss
    # the first has a positive and a negative, the second no negative, the third no positive: a mean over three
    assert found.item() == pytest.approx(math.log(1 + math.exp(0.5 * 9)) / 3, rel=1e-6)


def test_a_wide_window_has_no_negatives_and_costs_nothing() -> None:
    rows = judged()
    loss = conr(rows, rule=disagreeing(100.0)).loss
    assert loss == 0
    assert torch.autograd.grad(loss, rows.z)[0].abs().sum() == 0


def test_classes_that_all_look_alike_are_supcon() -> None:
    rows = judged(12)
    rows = replace(rows, facts={**rows.facts, "value": (rows.facts["value"] % 3).floor()})
    alike = replace(rows, facts={**rows.facts, "predicted": torch.zeros(12)})
    loss = conr(alike, rule=disagreeing(0.5, push=0.0), temperature=0.2).loss
    assert torch.allclose(loss, infonce(rows, rule=labelled("value"), temperature=0.2).loss)
    assert not torch.allclose(loss, infonce_separate(rows, rule=labelled("value"), temperature=0.2).loss)


def test_disagreement_follows_identity() -> None:
    rows = two_views_of([1.0, 5.0])
    rows = replace(rows, facts={**rows.facts, "predicted": torch.zeros(4)}, age=torch.tensor([0, 0, 0, 1]))
    pairs = disagreeing(0.5, push=0.0)(rows, rows)
    assert pairs.attract.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert pairs.repel.tolist() == [[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    labels = replace(rows, facts={**rows.facts, "value": torch.tensor([1.0, 5.0, 3.0, 5.0])})
    assert disagreeing(0.5)(labels, labels).repel[0, 2] == 0  # one sample in two views, whatever its labels


def test_predictions_get_no_gradient() -> None:
    rows = judged()
    guess = rows.facts["predicted"].requires_grad_()
    loss = conr(rows, rule=disagreeing(2.0), temperature=0.2).loss
    assert loss > 0
    assert torch.autograd.grad(loss, guess)[0].abs().sum() == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_conr_by_tiles(seed: int) -> None:
    def loss(a: Embeddings, c: Embeddings, rule: object = None) -> object:
        return conr(a, c, rule=disagreeing(1.0, push=0.2, value="label", predicted="label"), temperature=0.3)

    assert_tiles_equal_dense(partial(loss), n=13, m=9, seed=seed)  # type: ignore[arg-type]
