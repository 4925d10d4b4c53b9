"""Filters of false negatives: what they find, the losses of the papers, a peer, and that the sparse form survives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import gist_embed
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.filters import above_positive, equal, own_positive, suspected, unequal, within, without
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.pairs.soft import alike
from counterpoint.types import Embeddings, Relation, same_sample
from tests.objectives.contract import assert_same

GIST = (
    "Solatorio: GISTEmbed: Guided In-sample Selection of Training Negatives for Text Embedding Fine-tuning, "
    "arXiv:2402.16829, 2024"
)


def drawn(n: int, d: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gist_loss(sets: list[Tensor], guides: list[Tensor], monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Tensor:
    """The forward pass of sentence-transformers' GISTEmbedLoss on vectors that are already there."""
    found = {"model": sets, "guide": guides}
    monkeypatch.setattr(gist_embed, "embed_columns", lambda model, _features: found[model])
    loss = SimpleNamespace(
        model="model", guide="guide", must_retokenize=False, gather_across_devices=False, temperature=0.1,
        similarity_fct=torch.nn.CosineSimilarity(dim=-1), cross_entropy_loss=torch.nn.CrossEntropyLoss(), **settings,
    )  # fmt: skip
    loss.sim_matrix = lambda x, y: gist_embed.GISTEmbedLoss.sim_matrix(loss, x, y)
    return gist_embed.GISTEmbedLoss.forward(loss, [{} for _ in sets], torch.zeros(0))


@pytest.mark.proves(reference=GIST, fact="reference")
@pytest.mark.parametrize("anchors_too", [False, True])
@pytest.mark.parametrize("negatives", [False, True])
@pytest.mark.parametrize(("margin", "relative"), [(0.0, False), (0.2, False), (0.3, True)])
def test_in_batch_negatives_with_a_guide_equal_sentence_transformers(
    margin: float, relative: bool, negatives: bool, anchors_too: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = [drawn(9, seed=k).requires_grad_() for k in range(3 if negatives else 2)]
    guides = [drawn(9, 3, seed=10)]
    guides += [guides[0] + 0.8 * drawn(9, 3, seed=11 + k) for k in range(len(z) - 1)]
    strategy = "relative" if relative else "absolute"
    settings = {"margin": margin, "margin_strategy": strategy}
    expected = gist_loss(z, guides, monkeypatch, contrast_anchors=anchors_too, contrast_positives=False, **settings)
    a = Embeddings.of(z[0], facts={"teacher": guides[0]})
    positives = Embeddings.of(z[1], view=1, facts={"teacher": guides[1]})
    others = [Embeddings.of(z[2], id=torch.arange(20, 29), view=1, facts={"teacher": guides[2]})] if negatives else []
    c = Embeddings.cat([positives, *([a] if anchors_too else []), *others])
    rule = without(same_sample, above_positive(margin=margin, relative=relative))
    told = own_positive(a, c, rule=same_sample)
    found = infonce(told, c, rule=rule, temperature=0.1).loss
    dropped = same_sample(a, c).repel.sum() - rule(told, c).repel.sum()
    assert dropped > 3
    assert_same(found, expected, z)


@pytest.mark.proves(row=102, fact="closed-form")
def test_suspects_by_another_model_weigh_nothing() -> None:
    """The instance weights of arXiv:2205.00656: alpha_ij = 0 where sim_C(h_i, h_j) >= phi, else 1."""
    z, teacher = [drawn(8, seed=k).requires_grad_() for k in (0, 1)], normalize(drawn(8, 3, seed=2), dim=1)
    teacher[5] = teacher[2]  # a planted duplicate
    cosine = normalize(z[0], dim=1) @ normalize(z[1], dim=1).T / 0.05
    alpha = (teacher @ teacher.T < 0.8).double()
    own = cosine.diagonal()
    expected = (torch.log(own.exp() + (alpha * cosine.exp()).sum(1)) - own).sum() / 8
    a, c = (Embeddings.of(x, view=v, facts={"teacher": teacher}) for v, x in enumerate(z))
    rule = without(same_sample, suspected(least=0.8))
    assert rule(a, c).repel[5, 2] == 0
    assert rule(a, c).repel.sum() < 56 - 2
    assert_same(infonce(a, c, rule=rule).loss, expected, z)
    assert infonce(a, c, rule=without(same_sample, suspected(least=1.1))).loss.item() == infonce(a, c).loss.item()


def test_the_bar_lies_below_the_own_positive() -> None:
    teacher = (
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([[0.8, 0.6], [0.9, -(0.19**0.5)], [0.0, 1.0], [0.75, 0.4375**0.5]]),
    )
    a = Embeddings.of(torch.zeros(1, 1), id=torch.tensor([1]), facts={"teacher": teacher[0]})
    c = Embeddings.of(torch.zeros(4, 1), id=torch.tensor([1, 2, 3, 4]), view=1, facts={"teacher": teacher[1]})
    a = own_positive(a, c, rule=same_sample)
    assert a.facts["own positive"].item() == pytest.approx(0.8)
    assert above_positive()(a, c)[0, 1:].tolist() == [True, False, False]
    assert above_positive(margin=0.06)(a, c)[0, 1:].tolist() == [True, False, True]
    assert above_positive(margin=0.06, relative=True)(a, c)[0, 1:].tolist() == [True, False, False]  # 0.752
    assert above_positive(margin=0.07, relative=True)(a, c)[0, 1:].tolist() == [True, False, True]  # 0.744


def test_a_relative_margin_lies_below_a_negative_positive_too() -> None:
    a = Embeddings.of(
        torch.zeros(1, 1), facts={"teacher": torch.tensor([[1.0, 0.0]]), "own positive": torch.tensor([-0.5])}
    )
    c = Embeddings.of(
        torch.zeros(1, 1), id=torch.tensor([7]), facts={"teacher": torch.tensor([[-0.55, (1 - 0.55**2) ** 0.5]])}
    )
    assert above_positive(margin=0.2, relative=True)(a, c).item() is True
    assert above_positive(margin=0.05, relative=True)(a, c).item() is False


def test_the_weakest_or_the_strongest_of_several_positives() -> None:
    relation = Relation.of([1, 1], [5, 6])
    teacher = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.99, 0.01]])
    a = Embeddings.of(torch.zeros(2, 1), id=torch.tensor([1, 2]), facts={"teacher": teacher[:1].expand(2, 2)})
    c = Embeddings.of(torch.zeros(3, 1), id=torch.tensor([5, 6, 7]), facts={"teacher": teacher[1:]})
    for against, expected in (("weakest", 0.6), ("strongest", 0.8)):
        told = own_positive(a, c, rule=listed(relation), against=against)
        assert told.facts["own positive"].tolist() == pytest.approx([expected, 1e9])
        assert not above_positive(margin=5.0)(told, c)[1].any()  # no positive: nothing is above it


@pytest.mark.parametrize("rule", [same_sample, listed(Relation.of([0, 1], [3, 3])), labelled(), alike()])
def test_own_positives_are_those_of_the_matrix(rule: Any) -> None:
    facts = {"teacher": drawn(6, 3, seed=1), "label": torch.tensor([0, 0, 1, 1, 2, 3])}
    a, c = (Embeddings.of(drawn(6, seed=v), view=v, facts=facts) for v in (0, 1))
    cosine, attract = normalize(facts["teacher"], dim=1) @ normalize(facts["teacher"], dim=1).T, rule(a, c).attract > 0
    found = own_positive(a, c, rule=rule, against="strongest").facts["own positive"]
    expected = cosine.masked_fill(~attract, -1e9).amax(1)
    assert torch.allclose(found, torch.where(attract.any(1), expected, 1e9))


@pytest.mark.proves(row=155, fact="closed-form")
def test_negatives_of_one_domain_only() -> None:
    """Pairs of two domains carry no gradient, and the loss is the mean of the losses inside each domain."""
    z, domain = [drawn(7, seed=k).requires_grad_() for k in (0, 1)], torch.tensor([0, 1, 0, 1, 0, 0, 1])
    a, c = (Embeddings.of(x, view=v, facts={"domain": domain}) for v, x in enumerate(z))
    logits = normalize(z[0], dim=1) @ normalize(z[1], dim=1).T / 0.05
    here = domain[:, None] == domain[None, :]
    expected = cross_entropy(logits.masked_fill(~here, -1e9), torch.arange(7))
    assert_same(infonce(a, c, rule=within(same_sample)).loss, expected, z)
    parts = [infonce(z[0][domain == d], z[1][domain == d]).loss * (domain == d).sum() for d in (0, 1)]
    assert expected.item() == pytest.approx(sum(p.item() for p in parts) / 7, rel=1e-9)


def test_within_knows_its_tiles_by_keys() -> None:
    domain = torch.tensor([3, 1, 3, 2])
    a, c = (Embeddings.of(torch.zeros(4, 1), view=v, facts={"domain": domain, "label": domain}) for v in (0, 1))
    rule = within(same_sample)
    assert rule.elsewhere == (0.0, 0.0)
    left, right = rule.keys(a, c)  # type: ignore[attr-defined]
    assert torch.equal(left, right)
    assert len(set(left.tolist())) == 3
    linked = within(listed(Relation.of([1], [3])))
    keys = linked.keys(a, c)[0]  # type: ignore[attr-defined]
    assert keys[1] == keys[3]
    assert keys[1] != keys[0]
    assert linked(a, c).attract[1, 3] == 1
    assert linked(a, c).repel.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert within(alike()).elsewhere is None


def test_filters_add_up_and_never_touch_positives() -> None:
    facts = {"teacher": torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), "cluster": torch.tensor([0, -1, 0])}
    a, c = (Embeddings.of(torch.zeros(3, 1), view=v, facts=facts) for v in (0, 1))
    both = without(same_sample, suspected(least=0.5), equal("cluster"))
    assert both(a, c).repel.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert both(a, c).attract.tolist() == torch.eye(3).tolist()
    assert without(same_sample, unequal("cluster"))(a, c).repel.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert without(same_sample)(a, c).repel.tolist() == same_sample(a, c).repel.tolist()


def test_what_lies_on_the_bar_and_what_has_no_cluster() -> None:
    """A suspect reaches the bar; a pair as similar as the own positive is no more similar. Both exact along the axes."""
    facts = {"teacher": torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), "cluster": torch.tensor([-1, -1, -1])}
    a, c = (Embeddings.of(torch.zeros(3, 1), view=v, facts=facts) for v in (0, 1))
    assert without(same_sample, suspected(least=1.0))(a, c).repel.tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    told = own_positive(a, c, rule=same_sample)
    assert without(same_sample, above_positive())(told, c).repel.tolist() == same_sample(a, c).repel.tolist()
    assert without(same_sample, equal("cluster"))(a, c).repel.tolist() == same_sample(a, c).repel.tolist()
    listing = listed(Relation.of([0, 0, 1], [1, 2, 2], [0.0, 0.0, 0.0]), others=0.0)
    for found in (suspected(least=1.0), above_positive(), equal("cluster")):
        listed_form = without(listing, found)(told, c).repel
        assert torch.equal(listed_form, torch.where(found(told, c), 0.0, listing(told, c).repel))


def test_a_list_stays_a_list() -> None:
    relation = Relation.of([0, 0, 1], [11, 12, 12], [1.0, 0.0, 0.0])
    facts = {"teacher": torch.tensor([[1.0, 0.0], [0.0, 1.0]])}
    a = Embeddings.of(torch.zeros(2, 1), facts=facts)
    c = Embeddings.of(torch.zeros(2, 1), id=torch.tensor([11, 12]), facts=facts)
    rule = without(listed(relation, negative_weight=2.0, others=0.0), suspected(least=0.5))
    assert rule.elsewhere == (0.0, 0.0)
    assert rule.edges(a, c).repel.tolist() == [0, 2, 0]  # type: ignore[attr-defined]
    assert rule.edges(a, c).attract.tolist() == [1, 0, 0]  # type: ignore[attr-defined]
    assert without(listed(relation), suspected(least=0.5)).elsewhere is None


def test_bad_arguments_are_refused() -> None:
    e = Embeddings.of(torch.zeros(2, 1), facts={"teacher": torch.eye(2)})
    with pytest.raises(KeyError, match="own_positive"):
        above_positive()(e, e)
    with pytest.raises(ValueError, match=r"at least 0, got -0\.1"):
        above_positive(margin=-0.1)


def test_what_is_no_filter_is_refused() -> None:
    """The check of shapes comes first here; it is not there in use, where a class passes for what it makes."""
    for wrong in (labelled(), suspected, same_sample):
        with pytest.raises(TypeError, match="filters"):
            without(same_sample, wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="wanted filters, such as"):
        without(same_sample, type(equal("label")))  # type: ignore[arg-type]
