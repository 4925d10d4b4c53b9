"""Faults against closed forms and plain loops; planted ones are named first; a healthy space has none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from counterpoint.evaluation import faults, mends
from counterpoint.evaluation.diagnosis import FAULTS, Finding, _follows, _rank, diagnose
from counterpoint.evaluation.intervals import Interval
from counterpoint.evaluation.space import NEAR, Look, Space, by_chance, look, served, unit
from counterpoint.types import Embeddings, Relation

N, D = 800, 48
ROW = torch.arange(N)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def topics(seed: int = 0, count: int = 100) -> Tensor:
    """Rows around so many topics, as embeddings of texts lie."""
    return drawn(count, D, seed=seed)[ROW % count] + 0.7 * drawn(N, D, seed=seed + 1)


def pairs(a: Tensor | None = None, c: Tensor | None = None, **known: object) -> Space:
    a = topics() if a is None else a
    c = a + 0.5 * drawn(len(a), D, seed=9) if c is None else c
    n = torch.arange(len(a))
    length = torch.linspace(3, 90, len(a))[torch.randperm(len(a), generator=torch.Generator().manual_seed(4))]
    ids = torch.arange(len(c)) + 10_000
    relation = Relation.of(n, ids[: len(a)])
    known = {"relation": relation, "temperature": 0.1, **known}
    anchors = Embeddings.of(a, id=n, facts={"length": length})
    return Space.of(anchors, Embeddings.of(c, id=ids), **known)


def labelled(z: Tensor | None = None, **facts: Tensor) -> Space:
    """Classes of 20 topics; the finer ones are the topics."""
    z = topics() if z is None else z
    known = {"label": ROW % 5, "fine": ROW % 100, **facts}
    return Space.of(Embeddings.of(z, id=facts.pop("id", ROW), facts={n: f for n, f in known.items() if n != "id"}))


def test_cone_is_the_mean_cosine_of_all_unrelated_pairs() -> None:
    space = pairs(topics() + 2)
    assert faults.cone(look(space)) == pytest.approx(float((space.anchors.z @ space.others.z.T).mean()), abs=1e-6)
    one = labelled(topics() + 2)
    all_but_self = (one.anchors.z @ one.anchors.z.T).fill_diagonal_(0).sum() / (N * (N - 1))
    assert faults.cone(look(one)) == pytest.approx(float(all_but_self), abs=1e-6)


@pytest.mark.parametrize("used", [3, 12, D])
def test_dimensions_of_an_even_subspace_are_its_share(used: int) -> None:
    axes = torch.eye(D)[:used].repeat(20, 1)
    z = torch.cat([axes, -axes])
    space = Space.of(Embeddings.of(z))
    assert faults.dimensions(look(space)) == pytest.approx(used / min(len(z) - 1, D), abs=1e-5)


def test_dimensions_of_fewer_rows_than_dimensions_count_against_the_rows() -> None:
    assert faults.dimensions(look(Space.of(Embeddings.of(torch.eye(100)[:60])))) == pytest.approx(1, abs=1e-5)


def test_dimensions_of_classes_that_are_points_count_against_the_classes() -> None:
    label = ROW % 5
    z = torch.eye(D)[label] + 0.001 * drawn(N, D)
    space = Space.of(Embeddings.of(z, facts={"label": label}))
    assert faults.dimensions(look(space)) == pytest.approx(1, abs=0.05)  # 4 of the 4 that 5 points can take
    assert faults.dimensions(look(Space.of(Embeddings.of(z)))) < 0.1


def test_length_is_eta_squared_by_plain_loops() -> None:
    space = pairs()
    z, words = space.anchors.z.double(), space.anchors.facts["length"]
    groups: dict[int, list[int]] = {}
    for i in range(N):
        groups.setdefault(int(sum(w < words[i] for w in words)) * 10 // N, []).append(i)
    middle = z.mean(0)
    between = sum(len(g) * float((z[g].mean(0) - middle).square().sum()) for g in groups.values())
    share = between / float((z - middle).square().sum()) - (len(groups) - 1) / (N - 1)
    assert faults.length(look(space)) == pytest.approx(share, abs=1e-6)
    assert abs(share) < 0.01  # the lengths here say nothing


def test_length_that_decides_all_is_found_on_either_side() -> None:
    words = (ROW % 10).float()
    told = Embeddings.of(torch.eye(D)[ROW % 10], facts={"length": words})
    plain = Embeddings.of(topics(), facts={"length": words})
    for sides in ((told, plain), (plain, told)):
        assert faults.length(look(Space.of(*sides))) == pytest.approx(1 - 9 / (N - 1), abs=1e-6)


def test_gap_is_all_of_a_constant_offset_and_none_of_an_even_one() -> None:
    a = drawn(N, D)
    a[:, 0] = 0
    a = unit(a)
    c = a.clone()
    a[:, 0], c[:, 0] = 0.5, -0.5
    assert faults.gap(look(pairs(a, c))) == pytest.approx(1, abs=1e-6)
    assert faults.gap(look(pairs(drawn(N, D), drawn(N, D, seed=5)))) < 0.01
    assert faults.gap(look(pairs(a, a))) == 0


def test_hubs_count_who_finds_the_most_found() -> None:
    space = pairs(c=torch.cat([topics() + 0.5 * drawn(N, D, seed=9), drawn(300, D, seed=11)]))
    near = (space.anchors.z @ space.others.z.T).topk(10, 1).indices
    most = torch.bincount(near.flatten()).max()
    assert faults.hubs(look(space)) == pytest.approx(float(most) / N)


def test_by_chance_agrees_with_a_count_over_unrelated_rows() -> None:
    x, y = unit(drawn(2000, D) + 0.5), unit(drawn(3000, D, seed=1) + 0.5)
    for score in (0.2, 0.3, 0.4):
        counted = float((x @ y.T >= score).float().sum(1).mean())
        assert float(by_chance(x, y, torch.tensor(score))) == pytest.approx(counted, rel=0.2)


def test_lost_is_one_half_for_pairs_that_have_nothing_in_common() -> None:
    assert faults.lost(look(pairs(drawn(N, D), drawn(N, D, seed=7)))) == pytest.approx(0.5, abs=0.05)
    assert faults.lost(look(pairs())) < 0.001


def suspects_by_loops(seen: Look) -> Tensor:
    space = seen.space
    a, c = unit(space.anchors.z - space.anchors.z.mean(0)), unit(space.others.z - space.others.z.mean(0))
    found = torch.zeros(seen.near.index.shape, dtype=torch.bool)
    copies = float(by_chance(c, c, torch.tensor(0.95)))
    for i in range(len(seen.at)):
        raw = space.others.z @ space.anchors.z[seen.at[i]]
        own = max(
            (raw[j].item(), j) for j in range(len(c)) if space.relation.positives(int(seen.asked.id[i])).get(j + 10_000)
        )
        p = own[1]
        s = float(a[seen.at[i]] @ c[p])
        unlisted = [k for k, j in enumerate(seen.near.index[i].tolist()) if j != p]
        index = seen.near.index[i]
        before = [k for k in unlisted if a[seen.at[i]] @ c[index[k]] >= s and c[p] @ c[index[k]] >= s]
        if len(before) < 3 or len(before) < 5 * float(by_chance(a, c, torch.tensor(s))):
            before = []
        copy = [k for k in unlisted if c[p] @ c[index[k]] >= 0.95]
        if len(copy) < 5 * copies:
            copy = []
        found[i, before + copy] = True
    return found


@pytest.mark.parametrize("tight", [0.15, 0.5])
def test_suspects_by_plain_loops(tight: float) -> None:
    topic = drawn(40, D, seed=2)[torch.arange(200) % 40]
    a, c = topic + tight * drawn(200, D, seed=3), topic + tight * drawn(200, D, seed=4)
    c[1] = c[0] + 0.01
    seen = look(pairs(a, c))
    expected = suspects_by_loops(seen)
    assert expected.any()
    assert (faults.suspects(seen) == expected).all()


def test_listed_positives_are_no_suspects() -> None:
    a = topics()
    space = pairs(a, torch.cat([a, a + 0.001 * drawn(N, D)]))
    assert faults.false_negatives(look(space)) > 0.9
    twice = Relation.of(torch.cat([ROW, ROW]), torch.arange(2 * N) + 10_000)
    assert faults.false_negatives(look(replace(space, relation=twice))) < 0.01
    held = replace(space.anchors, facts={"held": torch.ones(N, dtype=torch.int64)})
    assert math.isnan(faults.false_negatives(look(replace(space, anchors=held))))  # nobody trains on them


def test_copies_with_another_label_are_suspects() -> None:
    z = topics()
    z[1::2] = z[::2] + 0.001
    same = labelled(z, label=ROW // 2 % 5)
    other = labelled(z, label=ROW % 5)
    assert faults.false_negatives(look(same)) == 0
    assert faults.false_negatives(look(other)) > 0.99


def test_temperature_of_equal_negatives_is_an_even_share() -> None:
    eye = torch.eye(D)[:40]
    space = Space.of(Embeddings.of(eye), temperature=0.1, batch=20)
    assert faults.hot(look(space)) == pytest.approx(1, abs=1e-4)
    assert faults.cold(look(space)) == pytest.approx(1 / 19, abs=1e-4)
    assert math.isnan(faults.hot(look(replace(space, temperature=None))))
    whole = labelled()
    assert faults.cold(look(replace(whole, temperature=1e-4))) > 0.99
    assert faults.hot(look(replace(whole, temperature=100.0))) == pytest.approx(
        63 / (64 - 64 / 5), rel=0.05
    )  # rows of one label do not repel


def test_twins_are_found_by_content_and_by_closeness_over_the_split_alone() -> None:
    held = (ROW % 4 == 0).long()
    z, ids = topics(), ROW.clone()
    assert faults.twins(look(labelled(z, held=held))) == 0
    assert faults.twins(look(labelled(drawn(N, 2), held=held))) == 0  # in a plane everything is near something
    ids[:80:4] = ids[1:81:4]  # 20 of 200 held-out rows have the content of a row of train
    z[80:160:4] = z[81:161:4] + 0.001 * drawn(20, D)  # and 20 are nearly one
    z[160:240:4] = z[164:244:4]  # these are copies among held-out rows
    assert faults.twins(look(labelled(z, held=held, id=ids))) == pytest.approx(0.2)


def test_served_is_mrr_and_a_vote_by_plain_loops() -> None:
    space = pairs(topics(), topics() + 3 * drawn(N, D, seed=8))
    score = space.anchors.z @ space.others.z.T
    rank = (score > score.diag()[:, None]).sum(1) + 1
    expected = torch.where(rank <= 10, 1 / rank, 0.0)
    assert torch.allclose(served(look(space)), expected)
    assert 0.05 < float(expected.mean()) < 0.95
    one = labelled(drawn(N, D) + 0.3 * drawn(5, D, seed=6)[ROW % 5])
    cosine = (one.anchors.z @ one.anchors.z.T).fill_diagonal_(-2)
    right = []
    for i in range(N):
        votes = [0.0] * 5
        for j in cosine[i].topk(5).indices.tolist():
            votes[j % 5] += (float(cosine[i, j]) + 1) / 2
        right.append(float(np.argmax(votes) == i % 5))
    assert served(look(one)).tolist() == right
    assert 0.05 < np.mean(right) < 0.95


def test_the_positive_is_the_nearest_of_several() -> None:
    a = topics()
    twice = Relation.of(torch.cat([ROW, ROW]), torch.arange(2 * N) + 10_000)
    near, far = a + 0.1 * drawn(N, D, seed=3), a + 2 * drawn(N, D, seed=4)
    assert torch.equal(look(pairs(a, torch.cat([far, near]), relation=twice)).positive, ROW + N)


def test_copies_that_are_left_out_are_of_train() -> None:
    held = (ROW % 4 == 0).long()
    z = topics()
    z[0], z[8] = z[1] + 0.001, z[4] + 0.001  # a copy of a row of train, and two held-out rows that are copies
    seen = look(labelled(z, held=held))
    hidden = mends.with_copies_left_out(seen)
    assert [(i, int(seen.near.index[i, j])) for i, j in torch.nonzero(hidden).tolist()] == [(0, 1)]


def test_what_is_hidden_is_not_ranked() -> None:
    space = pairs(topics(), topics() + 3 * drawn(N, D, seed=8))
    seen = look(space)
    hidden = torch.zeros(N, NEAR, dtype=torch.bool)
    hidden[:, 0] = ~seen.right[:, 0]
    better = served(seen, hidden=hidden)
    assert bool((better >= served(seen)).all())
    assert float(better.mean()) > float(served(seen).mean())


def test_mends_take_away_their_fault_alone() -> None:
    a = topics()
    offset = 3 * unit(drawn(1, D, seed=5))
    wrong = pairs(a + offset, a - offset)
    assert faults.gap(look(wrong)) > 0.5 > 0.05 > faults.gap(look(mends.without_gap(wrong)))
    wrong = pairs(a + 2, a + 2 + 0.1 * drawn(N, D))
    assert faults.cone(look(wrong)) > 0.6 > 0.02 > abs(faults.cone(look(mends.without_cone(wrong))))
    words = wrong.anchors.facts["length"]
    told = pairs(a + (words[:, None] - 45) / 4 * unit(drawn(1, D, seed=6)))
    assert faults.length(look(told)) > 0.15 > 0.06 > faults.length(look(mends.without_length(told)))
    for mend in (mends.without_gap, mends.without_length):  # and leaves the middle where it was
        assert faults.cone(look(mend(wrong))) == pytest.approx(faults.cone(look(wrong)), abs=0.05)
    thin = pairs(a * torch.linspace(0, 3, D).exp())
    assert faults.dimensions(look(mends.with_even_dimensions(thin))) > 1.5 * faults.dimensions(look(thin))


def test_hubs_are_mended_by_ranking_with_csls() -> None:
    space = pairs(c=torch.cat([topics() + 0.5 * drawn(N, D, seed=9), topics().mean(0, keepdim=True)]))
    mended = mends.without_hubs(space, most=N)
    score = space.anchors.z @ space.others.z.T
    csls = score - score.topk(10, 0).values.mean(0) / 2
    order = (mended.anchors.z @ mended.others.z.T).argsort(1, descending=True)
    assert (order[:, 0] == csls.argmax(1)).all()
    assert torch.equal(csls.gather(1, order).argsort(1, descending=True)[:, :5], torch.arange(5).expand(N, 5))
    assert torch.allclose(torch.linalg.vector_norm(mended.others.z, dim=1), torch.ones(N + 1))


def planted() -> dict[str, Space]:
    """A space for each fault that vectors alone can show."""
    a, way = topics(), unit(drawn(1, D, seed=5))
    plane = torch.linalg.qr(drawn(D, 3, seed=6)).Q
    far = pairs().anchors.facts["length"][:, None]
    hub = pairs().others.z.clone()
    hub[:8] = unit(unit(a).mean(0, keepdim=True) + 0.02 * drawn(8, D))
    fine = drawn(5, D, seed=3)[ROW % 5] + 0.1 * drawn(N, D)
    held = (ROW % 4 == 0).long()
    copied = a.clone()
    copied[held > 0] = copied[torch.nonzero(held > 0)[:, 0] + 1] + 0.001
    few = a[ROW % 16] + 0.2 * drawn(N, D)
    return {
        "cone": pairs(a + 14 * way, a + 14 * way + 0.5 * drawn(N, D)),
        "collapse": pairs(a @ plane @ plane.T, a @ plane @ plane.T),
        "length": pairs(a + (far - 45) / 5 * way),
        "gap": pairs(a + 4 * way, a - 4 * way + 0.5 * drawn(N, D)),
        "false-negatives": pairs(few, few + 0.3 * drawn(N, D, seed=7)),
        "hot": pairs(temperature=10.0),
        "cold": pairs(temperature=0.001),
        "subclass-collapse": labelled(fine),
        "duplicates": labelled(copied, held=held),
        "unrelated": pairs(drawn(N, D), drawn(N, D, seed=8)),
    }


@pytest.mark.parametrize("code", [f.code for f in FAULTS if f.code != "hubs"])
def test_a_planted_fault_is_named_first(code: str) -> None:
    found = diagnose(planted()[code])
    assert [f.fault.code for f in found.findings][:1] == [code]
    assert found.findings[0].level == "severe"


def test_planted_hubs_are_named_first() -> None:
    """Without topics, since in tight groups nobody is near the middle."""
    way = unit(drawn(1, D, seed=5))
    a = unit(drawn(N, D)) + 0.75 * way
    c = a + 0.3 * drawn(N, D, seed=9)
    c[:2] = way
    found = diagnose(pairs(a, c)).findings
    assert found[0].fault.code == "hubs"
    assert found[0].effect is not None
    assert found[0].effect.low > 0


@pytest.mark.parametrize(
    "space", [pairs(), labelled(), labelled(held=(ROW % 4 == 0).long()), Space.of(Embeddings.of(drawn(60, 8)))]
)
def test_nothing_is_found_in_a_healthy_space(space: Space) -> None:
    assert diagnose(space).findings == ()


def test_what_follows_from_another_is_named_after_it() -> None:
    """Length along one direction makes hubs of long texts; without it they are gone."""
    a = topics(count=N)
    far = pairs().anchors.facts["length"][:, None]
    way = unit(drawn(1, D, seed=5))
    wrong = pairs(a + (far - 45) / 4 * way, a + 1.5 * drawn(N, D, seed=3) + (far.flip(0) - 45) / 4 * way)
    found = diagnose(wrong).findings
    codes = [f.fault.code for f in found]
    assert codes[:1] == ["length"]
    assert {f.fault.code: f.follows for f in found[1:]}.get("hubs") == ("length",)
    assert found[0].effect is not None
    assert found[0].effect.low > 0


def test_two_that_go_with_each_other_are_both_causes_and_an_outcome_is_none() -> None:
    cone, collapse, _, gap, hubs = FAULTS[:5]
    after = {"cone": {"collapse": "none", "hubs": "severe"}, "collapse": {"cone": "none"}, "hubs": {"cone": "none"}}
    assert _follows(cone, [cone, collapse, hubs], after) == ()
    assert _follows(collapse, [cone, collapse], {"cone": {"collapse": "none"}, "collapse": {"cone": "mild"}}) == (
        "cone",
    )
    hurts = Finding(gap, "severe", 0.6, Interval(0.1, 0.05, 0.15))
    beyond = Finding(cone, "severe", 0.99, Interval(0.0, -0.01, 0.01))
    assert sorted([beyond, hurts], key=_rank) == [hurts, beyond]  # what costs more is named first


def test_a_diagnosis_is_the_same_for_any_order_of_the_rows() -> None:
    space = planted()["length"]
    turn = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    turned = replace(space, anchors=space.anchors.rows(turn), candidates=space.others.rows(turn.flip(0)))
    one, two = diagnose(space), diagnose(turned)
    for code, value in one.readings.items():  # batches are drawn by place
        assert two.readings[code] == pytest.approx(value, rel=0.1 if code in ("hot", "cold") else 1e-4, abs=1e-6)


def test_what_the_data_do_not_allow_is_not_read() -> None:
    assert set(diagnose(Space.of(Embeddings.of(drawn(30, 8)))).readings) == {"cone"}
    few = pairs()
    some = torch.arange(49)
    assert math.isnan(
        faults.length(look(replace(few, anchors=few.anchors.rows(some), candidates=few.others.rows(some))))
    )
    assert "hubs" not in diagnose(Space.of(Embeddings.of(drawn(300, 8)))).readings


def test_levels_and_how_far_beyond() -> None:
    cone, rank = FAULTS[0], FAULTS[1]
    assert [cone.level(x) for x in (0.39, 0.4, 0.6, math.nan)] == ["none", "mild", "severe", "none"]
    assert [rank.level(x) for x in (0.16, 0.15, 0.08, math.nan)] == ["none", "mild", "severe", "none"]
    assert (cone.beyond(0.6), rank.beyond(0.08)) == (pytest.approx(1), pytest.approx(1))
