"""Token sets: what they hold, that padding and neighbours never matter, that a projection is saved and found again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from counterpoint._ops.neighbours import neighbours
from counterpoint._ops.scores import maxsim
from counterpoint.encoders.folder import save
from counterpoint.encoders.pairs import pair_head_of, read_once
from counterpoint.encoders.propositions import embed_parts
from counterpoint.encoders.text import load
from counterpoint.encoders.tokens import (
    TokenSets,
    embed_tokens,
    has_tokens,
    nearest_sets,
    places,
    projection_of,
    token_sets,
    token_sets_of_parts,
    token_states,
)
from counterpoint.encoders.units import rank_units
from counterpoint.objectives.transport import rcmd
from counterpoint.types import Embeddings
from counterpoint.views.units import sentences

TEXTS = ["q1 q2 q3 w1", "q4", "d1 d2 d3 d4 d5 d6 w2 w3 w4"]


def scores(x: TokenSets, y: TokenSets) -> torch.Tensor:
    """MaxSim by plain loops over the tokens that are there."""
    return torch.tensor(
        [
            [sum(float((t @ c[cm].T).max().detach()) for t in a[am]) for c, cm in zip(y.z, y.mask, strict=True)]
            for a, am in zip(x.z, x.mask, strict=True)
        ]
    )


def test_sets_are_unit_states_padded_with_absent_zeros_and_cut(tiny: Path) -> None:
    encoder = load(str(tiny)).eval()
    z, mask = token_sets(encoder, TEXTS, tokens=8)
    assert mask.sum(1).tolist() == [6, 3, 8]  # with the first and the last token; the longest one has 11
    assert torch.equal(z.norm(dim=-1) > 0.5, mask)
    assert torch.allclose(z.norm(dim=-1)[mask], torch.ones(int(mask.sum())), atol=1e-5)
    features = encoder.model.preprocess([TEXTS[0]])
    states = encoder.model[0](features)["token_embeddings"][0]
    assert torch.allclose(z[0, :6], torch.nn.functional.normalize(states, dim=-1), atol=1e-5)
    words, without = token_sets(encoder, TEXTS, tokens=8, special=False)
    assert without.sum(1).tolist() == [4, 1, 8]
    assert torch.allclose(words[0, :4], z[0, 1:5], atol=1e-5)


def test_padding_and_neighbours_never_matter(tiny: Path) -> None:
    encoder = load(str(tiny)).eval()
    alone, beside, wide = (
        token_sets(encoder, [TEXTS[1]], tokens=8),
        token_sets(encoder, TEXTS, tokens=8),
        token_sets(encoder, TEXTS, tokens=20),
    )
    assert torch.allclose(alone.z[0], beside.z[1], atol=1e-5)
    noise = TokenSets(wide.z + 9.0 * (~wide.mask)[..., None], wide.mask)  # whatever stands where no token is
    for score in (maxsim(mask="mask"), rcmd(mask="mask")):
        of = lambda s, score=score: score.of((s.z, s.mask), (s.z, s.mask), "fp32")  # noqa: E731
        assert torch.allclose(of(wide), of(noise), atol=1e-5)
        if score == maxsim(mask="mask"):
            assert torch.allclose(of(wide), scores(wide, wide), atol=1e-4)


def test_left_padding_is_no_other(tiny: Path) -> None:
    encoder = load(str(tiny)).eval()
    right = token_sets(encoder, TEXTS, tokens=8)
    encoder.model.tokenizer.padding_side = "left"
    features = encoder.model.preprocess(TEXTS)
    assert not bool(features["attention_mask"][:, 0].all())
    left = token_sets(encoder, TEXTS, tokens=8)
    assert torch.equal(left.mask, right.mask)


def test_the_projection_is_saved_and_found_again(tiny: Path, tmp_path: Path) -> None:
    encoder = load(str(tiny)).eval()
    assert not has_tokens(encoder)
    torch.manual_seed(1)
    projection_of(encoder, 5, bias=True)
    head = pair_head_of(encoder, "compare", hidden=7)
    before, pooled = token_sets(encoder, TEXTS, tokens=8), encoder(TEXTS)
    assert before.z.shape == (3, 8, 5)
    save(encoder, tmp_path / "saved")
    again = load(str(tmp_path / "saved")).eval()
    assert has_tokens(again)
    assert torch.equal(token_sets(again, TEXTS, tokens=8).z, before.z)
    assert torch.equal(again(TEXTS), pooled)
    assert torch.equal(pair_head_of(again)(pooled, pooled.flip(0)), head(pooled, pooled.flip(0)))


def test_nearest_sets_are_those_of_all_scores(tiny: Path) -> None:
    encoder = load(str(tiny))
    corpus = embed_tokens(encoder, [f"d{i} d{i + 1} w{i} " + "w1 " * (i % 3) for i in range(9)], tokens=8)
    queries = embed_tokens(encoder, TEXTS, tokens=8)
    found = nearest_sets(queries, corpus, 3)
    wanted = scores(queries, corpus).topk(3, 1)
    assert torch.equal(found.index, wanted.indices)
    assert torch.allclose(found.score, wanted.values, atol=1e-4)
    rows = [Embeddings.of(s.z, facts={"mask": s.mask}) for s in (queries, corpus)]
    small = neighbours(*rows, 3, score=maxsim(mask="mask"), memory=2000)  # tiles of a few pairs
    assert torch.equal(small.index, wanted.indices)
    other = nearest_sets(queries, corpus, 9, score=rcmd(mask="mask"))
    assert bool((other.score[:, :-1] >= other.score[:, 1:]).all())
    assert float(other.score.max()) <= 1.0 + 1e-5


def test_places_follow_the_characters_and_the_prompt(tiny: Path) -> None:
    encoder = load(str(tiny), prompts={"positive": "w7 w8 "})
    parts = [[[(0, 2)], [(3, 8)], []], [[(0, 2), (6, 8)]]]
    found = places(encoder, ["q1 q2 q3", "q4 q5 q6"], parts)
    assert found[0, :, :5].int().tolist() == [[0, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]
    assert found[1, 0, :5].int().tolist() == [0, 1, 0, 1, 0]
    behind = places(encoder, ["q1 q2 q3"], [[[(0, 2)]]], "positive")
    assert behind[0, 0].int().tolist() == [0, 0, 0, 1, 0, 0, 0]


@pytest.mark.proves(row=149, fact="closed-form")
def test_units_are_ranked_by_one_encoding_as_by_masks(tiny: Path) -> None:
    encoder = load(str(tiny)).eval()
    text, query = "d1 w1. q2 d3. w5 w6 d9.", "q2 w5"
    parts = [[piece] for piece in sentences(text)]
    assert len(parts) == 3
    found = rank_units(encoder, query, text, parts, tokens=16)
    (whole, where), asked = (
        token_sets_of_parts(encoder, [text], [parts], tokens=16),
        token_sets(encoder, [query], tokens=16),
    )
    for p in range(3):
        one = TokenSets(whole.z, where[:, p])
        assert found[p].item() == pytest.approx(scores(asked, one).item(), abs=1e-4)
    assert rank_units(encoder, query, text, [[(0, len(text))]], tokens=16).item() < scores(asked, whole).item() + 1e-4
    word = rank_units(encoder, query, text, [[(0, 2)]], tokens=16)  # a part of one token: the sum of its products
    assert word.item() == pytest.approx((asked.z[0][asked.mask[0]] @ whole.z[0, 1]).sum().item(), abs=1e-4)


@pytest.mark.proves(row=145, fact="closed-form")
def test_the_whole_text_as_a_proposition_is_its_pooled_vector(tiny: Path) -> None:
    encoder = load(str(tiny)).eval()
    assert torch.allclose(embed_parts(encoder, TEXTS, [[[]]] * 3)[:, 0], encoder(TEXTS), atol=1e-5)
    text = "q1 q2 q3 w1"
    two = embed_parts(encoder, [text], [[[(0, 2)], [(6, 11)]]])[0]
    states = encoder.model[0](encoder.model.preprocess([text]))["token_embeddings"][0]
    assert torch.allclose(two, torch.stack([states[1], states[3:5].mean(0)]), atol=1e-5)


def test_texts_are_read_once_and_given_to_all(tiny: Path) -> None:
    encoder = load(str(tiny)).train()  # with dropout, so that two readings would differ
    found = read_once(encoder, ["q1", "q2", "q1"])
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


def test_a_token_belongs_to_a_part_only_with_a_character_of_its_own(tiny: Path) -> None:
    encoder = load(str(tiny))
    touching = places(encoder, ["q1.q2"], [[[(0, 2)], [(2, 3)], [(3, 5)]]])[0]  # three tokens without a gap
    assert touching[:, 1:4].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_padding_on_the_left_leaves_the_states_where_they_belong(tiny: Path) -> None:
    encoder = load(str(tiny)).eval()
    model, ids = encoder.model, torch.tensor([[0, 0, 2, 7, 3], [2, 7, 8, 9, 3]])
    features = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    states, kept, mask = token_states(model, dict(features), tokens=4)
    whole = model[0](dict(features))["token_embeddings"]
    assert torch.allclose(states[0, :3], whole[0, 2:], atol=1e-6)
    assert not states[0, 3].any()
    assert torch.allclose(states[1], whole[1, :4], atol=1e-6)
    assert kept.tolist() == [[2, 7, 3, 0], [2, 7, 8, 9]]
    assert mask.sum(1).tolist() == [3, 4]


@torch.no_grad()
def test_units_and_parts_are_read_behind_their_prompts(tiny: Path) -> None:
    encoder = load(str(tiny), prompts={"anchor": "w9 ", "positive": "w8 w7 "}).eval()
    plain = load(str(tiny)).eval()
    text, parts = "d1 w1. q2 d3.", [[(0, 6)], [(7, 13)]]
    found = rank_units(encoder, "q2", text, parts, tokens=16, marker="w6 ")
    asked, behind = token_sets(plain, ["w9 w6 q2"], tokens=16), "w8 w7 " + text
    moved = [[(a + 6, b + 6) for a, b in part] for part in parts]
    whole, where = token_sets_of_parts(plain, [behind], [moved], tokens=16)
    wanted = [scores(asked, TokenSets(whole.z, where[:, p])).item() for p in range(2)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-4)
    vectors = embed_parts(encoder, [text], [parts], "positive")
    assert torch.allclose(vectors, embed_parts(plain, [behind], [moved]), atol=1e-5)


def test_a_saved_dot_head_is_found_again(tiny: Path, tmp_path: Path) -> None:
    encoder = load(str(tiny)).eval()
    head = pair_head_of(encoder, "dot")
    with torch.no_grad():
        head.layers[0].bias.fill_(0.5)
    save(encoder, tmp_path / "saved")
    u, v = encoder(TEXTS), encoder(TEXTS[::-1])
    assert torch.allclose(pair_head_of(load(str(tmp_path / "saved")))(u, v), (u * v).sum(1) + 0.5, atol=1e-5)
