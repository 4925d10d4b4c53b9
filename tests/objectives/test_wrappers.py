"""Wrappers: prefixes, earlier layers, pairs of views: what they add up, what they leave alone, peers' formulas."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, normalize

from counterpoint.objectives.decorrelation import barlow_twins
from counterpoint.objectives.prediction import prediction
from counterpoint.objectives.softmax import infonce
from counterpoint.objectives.spread import koleo
from counterpoint.objectives.wrappers import matryoshka, matryoshka_layers, over_views
from counterpoint.pairs.labels import labelled
from counterpoint.types import Embeddings, Outcome
from tests.objectives.contract import assert_same, two_sets

MATRYOSHKA = "Kusupati et al.: Matryoshka Representation Learning, arXiv:2205.13147, 2022"
LOSS = partial(infonce, temperature=0.05)


def rows(n: int, d: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ranking(x: Tensor, y: Tensor, scale: float = 20.0) -> Tensor:
    """MultipleNegativesRankingLoss of sentence-transformers: cross entropy of scaled cosines."""
    return cross_entropy(scale * normalize(x, dim=1) @ normalize(y, dim=1).T, torch.arange(len(x)))


# width


@pytest.mark.proves(reference=MATRYOSHKA, fact="reference")
def test_matryoshka_equals_that_of_a_peer() -> None:
    """MatryoshkaLoss of sentence-transformers 6.2.0: the sum of weight * loss of the first coordinates, scaled again."""
    x, y = rows(6).requires_grad_(), rows(6, seed=1).requires_grad_()
    expected = 1.0 * ranking(x, y) + 0.5 * ranking(x[:, :4], y[:, :4]) + 2.0 * ranking(x[:, :2], y[:, :2])
    assert_same(matryoshka(LOSS, [2, 4, 8], [2.0, 0.5, 1.0])(x, y).loss, expected, [x, y])


@pytest.mark.proves(reference=MATRYOSHKA, fact="closed-form")
def test_each_width_is_a_term_and_the_full_one_alone_the_objective() -> None:
    a, c, _ = two_sets(7, 9, 0, torch.float64)
    plain = LOSS(a, c, rule=labelled())
    alone, both = matryoshka(LOSS, [5])(a, c, rule=labelled()), matryoshka(LOSS, [2, 5])(a, c, rule=labelled())
    assert alone.loss.item() == plain.loss.item()
    assert list(both.terms) == ["width 5", "width 2"]
    assert both.weights == {"width 5": 1.0, "width 2": 1.0}
    assert torch.equal(both.notes["positive"], plain.notes["positive"])
    assert not torch.equal(both.notes["positive"], matryoshka(LOSS, [2])(a, c, rule=labelled()).notes["positive"])


def test_the_objective_keeps_its_own_rule_and_may_be_of_one_set() -> None:
    a, c, _ = two_sets(7, 9, 0, torch.float64)
    own = partial(LOSS, rule=labelled())
    assert matryoshka(own, [5])(a, c).loss.item() == own(a, c).loss.item()
    assert matryoshka(koleo, [3])(a).loss.item() == koleo(Embeddings.of(a.z[:, :3], id=a.id)).loss.item()
    assert matryoshka(koleo, [3])(a.z).loss.item() == koleo(a.z[:, :3]).loss.item()


def test_token_sets_are_cut_token_by_token() -> None:
    seen = []

    def objective(a: Embeddings, **_: Any) -> Outcome:
        seen.append(a.z.shape)
        return Outcome({"x": a.z.sum()}, {"x": 1.0}, {})

    matryoshka(objective, [2, 4])(torch.zeros(3, 5, 4))
    assert seen == [(3, 5, 4), (3, 5, 2)]


def test_coordinates_beyond_all_widths_get_no_gradient() -> None:
    x = rows(6).requires_grad_()
    gradient = torch.autograd.grad(matryoshka(LOSS, [2, 4])(x, rows(6, seed=1)).loss, x)[0]
    assert gradient[:, 4:].abs().max() == 0
    assert gradient[:, :4].abs().min() > 0


# depth


def with_layers(seed: int, view: int) -> tuple[Embeddings, list[Tensor]]:
    z = [rows(6, seed=seed + k).requires_grad_() for k in range(3)]
    return Embeddings.of(z[0], view=view, facts={"first": z[1], "second": z[2]}), z


@pytest.mark.proves(row=284, fact="reference")
def test_layers_and_widths_equal_those_of_a_peer() -> None:
    """AdaptiveLayerLoss (n_layers_per_step=-1, layer_weighting="linear") around MatryoshkaLoss, which is
    Matryoshka2dLoss of sentence-transformers 6.2.0: last + sum_k loss_k / ((1 + k) 2) and t KL(last | layer k) with
    batchmean over the rows of all columns, whose target is detached."""
    (a, za), (c, zc) = with_layers(0, 0), with_layers(10, 1)
    t, expected = 0.3, torch.zeros(())
    for width, weight in ((8, 1.0), (3, 0.5)):
        expected = expected + weight * ranking(za[0][:, :width], zc[0][:, :width])
        for k in (0, 1):
            layer = ranking(za[k + 1][:, :width], zc[k + 1][:, :width])
            expected = expected + weight * layer / (1 + k) / 2
    target = (torch.cat([za[0], zc[0]]) / t).softmax(-1).detach()
    for k in (1, 2):
        early = (torch.cat([za[k], zc[k]]) / t).log_softmax(-1)
        expected = expected + kl_div(early, target, reduction="batchmean") * t
    loss = matryoshka_layers(matryoshka(LOSS, [8, 3], [1.0, 0.5]), {"first": 1 / 2, "second": 1 / 4}, temperature=t)
    assert_same(loss(a, c).loss, expected, [*za, *zc])


@pytest.mark.proves(row=284, fact="closed-form")
def test_equal_layers_have_no_divergence_and_none_at_all_is_the_objective() -> None:
    x, y = rows(6), rows(6, seed=1)
    a, c = (Embeddings.of(z, view=v, facts={"early": z}) for v, z in enumerate((x, y)))
    plain = LOSS(a, c)
    outcome = matryoshka_layers(LOSS, {"early": 0.5}, last=2.0)(a, c)
    assert outcome.terms["distil"].item() == pytest.approx(0, abs=1e-15)
    assert outcome.loss.item() == pytest.approx(2.5 * plain.loss.item(), rel=1e-12)
    assert matryoshka_layers(LOSS, {})(a, c).loss.item() == pytest.approx(plain.loss.item(), rel=1e-12)
    assert torch.equal(outcome.notes["positive"], plain.notes["positive"])


def test_the_last_layer_is_not_moved_by_the_divergence() -> None:
    a, z = with_layers(0, 0)
    apart = matryoshka_layers(koleo, {"first": 1.0})(a).terms["distil"]
    gradients = torch.autograd.grad(apart, z[:2], allow_unused=True)
    assert gradients[0] is None
    assert gradients[1].abs().max() > 0
    by_hand = (a.z[:1] / 0.3).softmax(1) * ((a.z[:1] / 0.3).log_softmax(1) - (z[1][:1] / 0.3).log_softmax(1))
    one = matryoshka_layers(koleo, {"first": 1.0})(a.rows(slice(0, 1))).terms["distil"]
    assert one.item() == pytest.approx(0.3 * by_hand.sum().item(), rel=1e-12)


# views


def images_and_texts(views: int) -> tuple[Embeddings, Embeddings, list[list[Tensor]]]:
    z = [[rows(6, seed=10 * side + v).requires_grad_() for v in range(views)] for side in (0, 1)]
    ids = torch.arange(6)
    both = [
        Embeddings.cat([Embeddings.of(x, id=ids, view=side * views + v) for v, x in enumerate(z[side])])
        for side in (0, 1)
    ]
    return both[0], both[1], z


@pytest.mark.proves(row=33, fact="reference")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_views_of_images_and_texts_equal_the_loss_of_the_authors(smoothing: float) -> None:
    """CL2LLoss of losses.py of github.com/facebookresearch/clip-rocket (commit ebd9e58): cross entropies of all pairs of
    local views in both directions, averaged, beside the global pair with weights num_augs and 1."""
    a, c, z = images_and_texts(2)
    (g, h), ids = (rows(6, seed=50 + k).requires_grad_() for k in (0, 1)), torch.arange(6)

    def both(x: Tensor, y: Tensor, scale: float, smooth: float) -> tuple[Tensor, Tensor]:
        s = scale * normalize(x) @ normalize(y).T
        return tuple(cross_entropy(m, ids, label_smoothing=smooth) for m in (s, s.T))  # type: ignore[return-value]

    local = [both(x, y, 5.0, smoothing) for x in z[0] for y in z[1]]
    whole = both(g, h, 10.0, 0.0)
    sides = [(whole[k] + 2 * sum(pair[k] for pair in local) / 4) / 3 for k in (0, 1)]
    expected = (sides[0] + sides[1]) / 2
    many = over_views(partial(infonce, temperature=1 / 5, directions="both", label_smoothing=smoothing), [0, 1], [2, 3])
    one = partial(infonce, temperature=1 / 10, directions="both")
    found = Outcome.of(whole=(1 / 3, one(g, h)), local=(2 / 3, many(a, c)))
    assert_same(found.loss, expected, [*z[0], *z[1], g, h])


def clip(image: Tensor, text: Tensor) -> tuple[Outcome, Tensor]:
    """Ours and CLIPLoss of the authors."""
    s, ids = normalize(image) @ normalize(text).T / 0.07, torch.arange(6)
    return infonce(image, text, temperature=0.07, directions="both"), (
        cross_entropy(s, ids) + cross_entropy(s.T, ids)
    ) / 2


@pytest.mark.proves(row=33, fact="reference")
def test_clip_beside_prediction_across_two_kinds_equals_siamlip() -> None:
    """SiamLIPLoss there (BYOLIP with a teacher's targets): the mean of 2 - 2 cosine of both directions, and CLIP's loss."""
    image, text, p, q, v, w = (rows(6, seed=k).requires_grad_() for k in range(6))
    ours, theirs = clip(image, text)
    siam = [2 - 2 * (normalize(x, dim=-1) * normalize(y, dim=-1).detach()).sum(1).mean() for x, y in ((p, w), (q, v))]
    found = Outcome.of(clip=(1.0, ours), there=(0.5, prediction(p, w)), back=(0.5, prediction(q, v)))
    assert_same(found.loss, theirs + (siam[0] + siam[1]) / 2, [image, text, p, q])


@pytest.mark.proves(row=33, fact="reference")
def test_clip_beside_barlow_twins_across_two_kinds_equals_barlip() -> None:
    """BarLIPLoss there: 0.025 times Barlow Twins with 0.005 of batch-normed projections, and CLIP's loss."""
    image, text, v, w = (rows(6, seed=k).requires_grad_() for k in range(4))
    ours, theirs = clip(image, text)
    normed = [nn.BatchNorm1d(8, affine=False).double()(x) for x in (v, w)]
    corr, eye = normed[0].T @ normed[1] / 6, torch.eye(8)
    bar = 0.025 * ((corr - eye).square() * torch.where(eye > 0, 1.0, 5e-3)).sum()
    found = Outcome.of(clip=(1.0, ours), barlip=(0.025, barlow_twins(v, w, off_diagonal=5e-3)))
    assert_same(found.loss, theirs + bar, [image, text, v, w])


@pytest.mark.proves(row=33, fact="closed-form")
def test_one_view_is_the_objective_and_weight_0_is_clip() -> None:
    a, c, _ = images_and_texts(1)
    plain = LOSS(a, c)
    assert over_views(LOSS, [0], [1])(a, c).loss.item() == plain.loss.item()
    none = Outcome.of(clip=(1.0, plain), barlip=(0.0, barlow_twins(a, c)))
    assert none.loss.item() == plain.loss.item()


def test_bad_arguments_are_refused() -> None:
    for widths, weights in (([], None), ([2, 2], None), ([2, 4], [1.0])):
        with pytest.raises(ValueError, match="different widths and a weight for each"):
            matryoshka(LOSS, widths, weights)
    with pytest.raises(ValueError, match="a width from 1 to 8, got 9"):
        matryoshka(LOSS, [9])(rows(2), rows(2))
    with pytest.raises(ValueError, match="a width from 1 to 8, got 0"):
        matryoshka(LOSS, [0])(rows(2), rows(2))
    with pytest.raises(KeyError, match="as the fact 'early'; the rows have: none"):
        matryoshka_layers(LOSS, {"early": 1.0})(rows(2), rows(2))
    with pytest.raises(ValueError, match="a temperature above 0, got 0"):
        matryoshka_layers(LOSS, {}, temperature=0.0)
    with pytest.raises(ValueError, match="a view of each side, got 0 and 1"):
        over_views(LOSS, [], [1])
