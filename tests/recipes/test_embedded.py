"""ConSERT's views: each changes what its paper says of the matrix that enters the transformer, and nothing else."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from counterpoint.data.batches import Rows
from counterpoint.encoders import embedded
from counterpoint.encoders.text import TextEncoder, autocast, load
from counterpoint.errors import Refusal
from counterpoint.objectives.softmax import infonce
from counterpoint.recipes.embedded import consert, encoded, twice_drawn
from counterpoint.types import Embeddings

from ..conftest import toy_rows

TEXTS = ["q1 q2 w3", "q4", "q5 q6 w7 w8 q9 q10 q11 q12"]
DATA = Rows.of(pl.DataFrame({"anchor": TEXTS + [row["query"] for row in toy_rows(9)]}))


def calm(folder: Path, pooling: str = "mean") -> TextEncoder:
    encoder = load(str(folder))
    encoder.set_dropout(0.0)
    encoder.model[1].pooling_mode = pooling
    return encoder


def batch_of(encoder: TextEncoder, seed: int = 0) -> dict:
    views = twice_drawn(embedded.draws_for(encoder))(DATA.take(np.arange(3)), torch.Generator().manual_seed(seed))
    return dict(views["first"])


def matrices(encoder: TextEncoder, batch: dict, edit: embedded.Edit) -> tuple[dict[str, Tensor], Tensor]:
    """What the layers get without and with an edit, [texts, tokens, coordinates], and which are tokens."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []

    def spied(states: Tensor, mask: Tensor, draws: Tensor) -> Tensor:
        after = edit(states, mask, draws)
        found.append((states, after, mask))
        return after

    encoded(encoder, batch, embedded.changed(spied))
    ((before, after, mask),) = found  # one pass
    return {"before": before, "after": after}, mask


def test_features_are_cut_off_in_whole_columns_others_for_each_text(tiny: Path) -> None:
    encoder = calm(tiny)
    states, _ = matrices(encoder, batch_of(encoder), embedded.feature_cutoff(0.2))
    zero = states["after"] == 0
    assert zero.all(1).sum(1).tolist() == [6, 6, 6]  # floor(0.2 * 32), in all tokens
    assert zero.sum() == zero.all(1).sum() * zero.shape[1]  # and nowhere else
    assert len({tuple(row.tolist()) for row in zero.all(1)}) == 3
    assert torch.equal(states["after"][~zero], states["before"][~zero])


def test_tokens_are_cut_off_in_whole_rows_and_padding_does_not_count(tiny: Path) -> None:
    encoder = calm(tiny)
    states, mask = matrices(encoder, batch_of(encoder), embedded.token_cutoff(0.4))
    zero = (states["after"] == 0).all(2)
    lengths = mask.sum(1)
    assert sorted(lengths.tolist()) == [3, 5, 10]  # [CLS] and [SEP] too
    assert torch.equal((zero & mask).sum(1), (0.4 * lengths).long())
    assert not bool((zero & ~mask).any())
    assert torch.equal(states["after"][~zero], states["before"][~zero])


def test_numbers_that_are_dropped_leave_the_others_as_they_are(tiny: Path) -> None:
    encoder = calm(tiny)
    states, mask = matrices(encoder, batch_of(encoder), embedded.element_cutoff(0.2))
    zero = states["after"] == 0
    assert float(zero[mask].float().mean()) == pytest.approx(0.2, abs=0.03)
    assert torch.equal(states["after"][~zero], states["before"][~zero])


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_that_leaves_nothing_is_refused(rate: float) -> None:
    for edit in (embedded.feature_cutoff, embedded.token_cutoff, embedded.element_cutoff):
        with pytest.raises(ValueError, match="a rate from 0 to below 1"):
            edit(rate)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_shuffled_tokens_are_shuffled_position_ids(tiny: Path, pooling: str) -> None:
    """The authors shuffle the position ids of a text's tokens: yym6472/ConSERT, transformers/modeling_bert.py."""
    encoder = calm(tiny, pooling)
    batch, moved = batch_of(encoder), []

    def by_positions(model: object, features: dict) -> dict[str, Tensor]:
        order = embedded.orders(features.pop("draws"), features["attention_mask"].bool())
        moved.append(
            (order.sort(1).values == torch.arange(order.shape[1])).all() and (order != order[0].sort()[0]).any()
        )
        # the token that comes to place p gets position p
        return embedded.unchanged(model, {**features, "position_ids": order.argsort(1)})  # type: ignore[arg-type]

    ours, theirs = (encoded(encoder, batch, one).z for one in (embedded.shuffled, by_positions))
    assert moved == [True]
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert not torch.allclose(ours, encoder(batch["text"]), atol=1e-3)


def test_the_adversarial_step_has_its_length_and_leaves_the_other_view(tiny: Path) -> None:
    encoder = calm(tiny)
    batch, seen = batch_of(encoder), []
    hook = embedded.entrance(encoder.model).register_forward_hook(lambda _m, _i, output: seen.append(output))
    plain, other = encoder(batch["text"]), encoded(encoder, batch, embedded.shuffled).z
    seen.clear()
    with torch.no_grad():  # the first pass of gradient caching asks for no gradient
        attacked = encoded(encoder, batch, embedded.adversarial(0.05)).z
    hook.remove()
    closer = torch.cosine_similarity(plain, other) - torch.cosine_similarity(attacked, other)
    assert bool((closer > 1e-6).all())
    changed = []

    def spy(_m: object, inputs: tuple, _o: object) -> None:
        changed.append(inputs[0])

    first = encoder.model[0].auto_model.encoder.layer[0].register_forward_hook(spy)
    encoded(encoder, batch, embedded.adversarial(0.05))
    first.remove()
    _, before, after = changed  # of the other view, of the own one, of the own one after the step
    step = (after - before).norm(dim=2)
    tokens = torch.arange(10) < torch.tensor([3, 5, 10])[:, None]  # shortest first; padding stays where it is
    assert torch.allclose(step, 0.05 * tokens, atol=1e-5)


def test_gradients_reach_all_weights_through_an_adversarial_view_in_bf16(tiny: Path) -> None:
    method = consert(load(str(tiny)), DATA, second="adversarial")
    with autocast("cpu", "bf16"):
        sets = method.encode(method.modules, method.views(DATA.take(np.arange(6)), torch.Generator()))
    method.objective(method.modules, sets).loss.backward()
    silent = [n for n, p in method.modules.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert [name for name in silent if "pooler" not in name and "key.bias" not in name] == []


@pytest.mark.parametrize("view", ["shuffle", "token_cutoff", "feature_cutoff", "dropout", "adversarial"])
def test_a_view_belongs_to_the_text_not_to_its_batch(tiny: Path, view: str) -> None:
    method = consert(load(str(tiny)), DATA, first=view, second="none")  # type: ignore[arg-type]
    taken = [np.arange(3), np.array([2])]
    sets = [
        method.encode(method.modules, method.views(DATA.take(at), torch.Generator().manual_seed(5))) for at in taken
    ]
    assert torch.allclose(sets[0]["first"].z[2], sets[1]["first"].z[0], atol=1e-6)
    assert not torch.allclose(sets[0]["first"].z, sets[0]["second"].z, atol=1e-5)


def test_without_edits_the_views_are_equal_and_a_step_of_nothing_is_no_step(tiny: Path) -> None:
    settings = [{"first": "feature_cutoff", "rate": 0.0}, {"first": "token_cutoff", "rate": 0.0},
                {"first": "dropout", "rate": 0.0}, {"first": "adversarial", "norm": 0.0}]  # fmt: skip
    for chosen in settings:
        method = consert(load(str(tiny)), DATA, second="none", **chosen)  # type: ignore[arg-type]
        sets = method.encode(method.modules, method.views(DATA.take(np.arange(4)), torch.Generator()))
        assert torch.allclose(sets["first"].z, sets["second"].z, atol=1e-6)
    with pytest.raises(Refusal, match="two views that differ"):
        consert(load(str(tiny)), DATA, first="none", second="none")


def authors(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """yym6472/ConSERT, sentence_transformers/losses/AdvCLSoftmaxLoss.py: each side against the other and itself, summed."""
    one, two, at = normalize(first), normalize(second), torch.arange(len(first))
    itself = torch.eye(len(first)) * 1e9
    crossed, ones, twos = one @ two.T / temperature, one @ one.T / temperature, two @ two.T / temperature
    return cross_entropy(torch.cat([crossed, ones - itself], 1), at) + cross_entropy(
        torch.cat([crossed.T, twos - itself], 1), at
    )


@pytest.mark.proves(row=164, fact="reference")
def test_its_loss_is_half_that_of_the_authors(tiny: Path) -> None:
    method = consert(load(str(tiny)), DATA)
    sets = method.encode(method.modules, method.views(DATA.take(np.arange(8)), torch.Generator().manual_seed(1)))
    z = [sets[name].z.detach() for name in ("first", "second")]
    loss = method.objective(method.modules, sets).loss
    assert loss.item() == pytest.approx(authors(*z, 0.1).item() / 2, rel=1e-5)
    one_way = infonce(sets["first"], sets["second"], temperature=0.1).loss
    assert abs(loss.item() - one_way.item()) > 0.1  # SimCSE has half of its negatives


@pytest.mark.proves(row=164, fact="closed-form")
def test_two_texts_at_right_angles() -> None:
    both = Embeddings.cat([Embeddings.of(torch.eye(2), view=v) for v in (0, 1)])
    nt_xent = partial(infonce, temperature=1.0)
    assert float(nt_xent(both, both).loss) == pytest.approx(np.log(1 + 2 * np.exp(-1)), rel=1e-6)


def test_its_own_dropout_is_taken_out(tiny: Path) -> None:
    encoder = load(str(tiny))
    consert(encoder, DATA)
    assert encoder.dropout == 0
    consert(encoder, DATA, dropout=0.1)
    assert encoder.dropout == 0.1
