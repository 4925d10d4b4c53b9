"""Health: readings against hand counts, findings on runs that are broken on purpose, its price, and that it changes nothing."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from counterpoint.data.orders import endless, shuffled
from counterpoint.encoders.text import autocast
from counterpoint.objectives.judged import ranked
from counterpoint.objectives.rerank import binary, scored_pairs
from counterpoint.objectives.softmax import infonce
from counterpoint.objectives.spread import alignment
from counterpoint.pairs.labels import labelled
from counterpoint.pairs.listed import listed
from counterpoint.training.health import STREAKS, Health
from counterpoint.training.loop import Schedule, optimizer_for
from counterpoint.training.method import Contrast, Method, step
from counterpoint.training.readings import COLUMNS, from_notes, read, temperature_of
from counterpoint.training.sample import evenly, matched, sample
from counterpoint.training.symptoms import SYMPTOMS, Limits, Seen, examine, finding
from counterpoint.types import Batch, Embeddings, Outcome, Relation, same_sample

DIGITS = torch.tensor(load_digits().data / 16 - 0.5, dtype=torch.float32)
FP32 = autocast("cpu", "fp32")


def digits_method(
    objective: object | None = None, *, temperature: float = 0.1, dropout: float = 0.1, deep: int = 0
) -> Method:
    """An MLP on digits under two noisy views."""
    torch.manual_seed(0)
    more = [part for _ in range(deep) for part in (nn.Linear(64, 64), nn.ReLU())]
    encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, 32))
    encoder = nn.Sequential(*more, *encoder)

    def views(batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        noisy = [batch["x"] + 0.2 * torch.randn(batch["x"].shape, generator=generator) for _ in range(2)]
        return {
            n: {"x": x, "id": batch["id"], "view": v}
            for v, (n, x) in enumerate(zip(("first", "second"), noisy, strict=True))
        }

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        return {n: Embeddings.of(modules["encoder"](b["x"]), id=b["id"], view=b["view"]) for n, b in views.items()}

    chosen = objective or Contrast(("first",), ("second",), same_sample, partial(infonce, temperature=temperature))
    return Method(nn.ModuleDict({"encoder": encoder}), views, encode, chosen, lambda m: m["encoder"])


def run(
    method: Method,
    health: Health | None,
    *,
    steps: int = 120,
    lr: float = 1e-3,
    batch: int = 64,
    take: Callable[[torch.Tensor], Batch] = lambda at: {"x": DIGITS[at], "id": at},
    seconds: float = 10.0,
) -> list[float]:
    """The loop in small: every step is said to take ten seconds, so health may read at each."""
    kept: dict[str, Embeddings] = {}

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        kept.update(method.encode(modules, views))
        return dict(kept)

    torch.manual_seed(0)
    optimizer, generator = optimizer_for(method, Schedule(steps=steps, lr=lr)), torch.Generator().manual_seed(0)
    method.modules.train()
    losses = []
    for number, at in zip(range(1, steps + 1), endless(shuffled(len(DIGITS), batch=batch, seed=0)), strict=False):
        done = step(
            replace(method, encode=encode),
            [take(torch.from_numpy(at))],
            optimizer,
            generator=generator,
            autocast=FP32,
            clip=1.0,
        )
        losses.append(done.loss)
        if health is not None:
            health.observe(step=number, sets=kept, outcome=done.outcome, norm=done.norm, seconds=seconds)
    return losses


def codes(health: Health) -> list[str]:
    return [f.code for f in health.findings]


class Clock:
    """Time that passes when it is told to; reading it costs `tick`."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


def watched(method: Method, **settings: object) -> Health:
    return Health(method, clock=Clock(1e-4), **settings)  # its own time is next to nothing: it reads at every step


def test_a_run_that_learns_has_nothing_to_say() -> None:
    method = digits_method()
    health = watched(method)
    losses = run(method, health)
    assert losses[-1] < 0.5 * losses[0]
    assert codes(health) == []
    assert health.history["step"] == list(range(1, 121))
    assert health.history["gap"][-1] > health.history["gap"][0] + 0.1
    assert all(math.isfinite(x) for name, column in health.history.items() for x in column), (
        "every number is known here"
    )


def only_positives(a: Embeddings, c: Embeddings, *, rule: object) -> Outcome:
    return alignment(a, c, rule=rule)


def test_attraction_alone_collapses() -> None:
    method = digits_method(Contrast(("first",), ("second",), same_sample, only_positives))
    health = watched(method)
    run(method, health, lr=1e-2)
    assert "collapse" in codes(health)
    found = next(f for f in health.findings if f.code == "collapse")
    assert found.level == "warn"
    width, (limit, steps) = health.history["width"], Limits().width
    assert all(x < limit for x in width[found.step - steps : found.step])
    assert width[found.step - steps - 1] >= limit
    assert found.value == width[found.step - 1]
    assert "add negatives" in str(found)


def test_scored_pairs_have_no_vectors_to_judge() -> None:
    """Of a cross-encoder nobody can say that its anchors have no positive, or that its rows have collapsed."""
    query, positive = torch.arange(8) // 4, torch.arange(8) % 4 == 0
    pairs = scored_pairs(torch.randn(8, generator=torch.Generator().manual_seed(0)), query=query, positive=positive)
    method = Method(nn.ModuleDict(), dict, dict, lambda _, sets: binary(sets["pair"]), dict)
    health = Health(method)
    for number in range(1, 60):
        assert not health.observe(step=number, sets={"pair": pairs}, outcome=binary(pairs), norm=1.0, seconds=10.0)
    assert len(health.history["step"]) > 10


def test_a_temperature_too_low() -> None:
    health = watched(method := digits_method(temperature=1e-4))
    run(method, health, steps=3)
    assert codes(health) == ["temperature"]
    assert health.findings[0].step == 1
    for warm in (0.01, 0.05, 1.0):
        health = watched(method := digits_method(temperature=warm))
        run(method, health, steps=3)
        assert codes(health) == []


def test_one_text_in_all_rows() -> None:
    health = watched(method := digits_method())
    run(method, health, take=lambda at: {"x": DIGITS[at * 0], "id": at * 0}, steps=30)
    assert {"duplicates", "no-negatives"} <= set(codes(health))
    assert not {"collapse", "narrow"} & set(codes(health)), "the data are at fault, not the model"


def test_a_learning_rate_far_too_high() -> None:
    """A shallow MLP learns at any rate, since cosines know no scale; a deep one is torn apart."""
    found = {}
    for lr in (1e-3, 0.3):
        health = watched(method := digits_method(deep=4))
        run(method, health, lr=lr, steps=120)
        found[lr] = codes(health)
    assert found[1e-3] == []
    assert {"collapse", "narrow"} & set(found[0.3])


def test_guessing_for_long() -> None:
    def blind(a: Embeddings, c: Embeddings, *, rule: object) -> Outcome:
        return infonce(replace(a, z=a.z * 0 + 1), replace(c, z=c.z * 0 + 1), rule=rule)

    health = watched(method := digits_method(Contrast(("first",), ("second",), same_sample, blind)))
    run(method, health, steps=130)
    assert [f.step for f in health.findings if f.code == "chance"] == [100]
    assert [f.step for f in health.findings if f.code == "dead"] == [20]


def nothing(a: Embeddings, c: Embeddings, *, rule: object) -> Outcome:
    return Outcome({"nothing": (a.z * 0).sum()}, {"nothing": 1.0}, {})


def test_a_frozen_model_is_dead_after_twenty_steps_and_stops_only_where_asked() -> None:
    for on_sick, level in (("warn", "warn"), ("stop", "stop")):
        method = digits_method(Contrast(("first",), ("second",), same_sample, nothing))
        health = watched(method, on_sick=on_sick)
        run(method, health, steps=25)
        assert [(f.step, f.level) for f in health.findings if f.code == "dead"] == [(20, level)]


def test_a_gradient_that_explodes_and_one_spike_that_does_not() -> None:
    method = digits_method()
    outcome = Outcome({"x": torch.tensor(1.0)}, {"x": 1.0}, {})

    def norms(values: list[float], steps: int = 5) -> list[int]:
        health = Health(method, limits=Limits(exploding=(10.0, steps)))
        for number, norm in enumerate(values, start=1):
            health.observe(step=number, sets={}, outcome=outcome, norm=norm, seconds=1.0)
        return [f.step for f in health.findings if f.code == "exploding"]

    assert norms([1.0] * 60 + [11.0] * 10) == [65]
    assert norms([1.0] * 60 + [11.0] * 4 + [1.0] + [11.0] * 4) == []
    assert norms([1.0] * 60 + [9.0] * 40) == []
    assert norms([1.0] * 60 + [11.0] * 50, steps=40) == [100]  # and what is far too large never becomes the usual
    assert norms([20.0] * 5 + [1.0] * 60) == []  # large before anything is usual


def test_nan_is_said_once_and_ends_a_run_when_it_stays() -> None:
    health, bad = Health(digits_method()), Outcome({"x": torch.tensor(math.nan)}, {"x": 1.0}, {})
    good = Outcome({"x": torch.tensor(1.0)}, {"x": 1.0}, {})
    found = [
        [(f.code, f.level) for f in health.observe(step=n, sets={}, outcome=o, norm=1.0, seconds=1.0)]
        for n, o in enumerate([good, bad, good, bad, bad, bad, bad, bad, bad])
    ]
    assert found == [[], [("not-finite", "warn")], [], [], [], [], [], [("broken", "stop")], []]


def test_embeddings_that_are_not_finite_are_read_without_an_error() -> None:
    method = digits_method()
    sets = {n: Embeddings.of(torch.full((4, 2), math.nan), view=v) for v, n in enumerate(("first", "second"))}
    known = read(method, sets, Outcome({"x": torch.tensor(math.nan)}, {"x": 1.0}, {}), norm=math.nan, rows=4)
    assert math.isnan(known["rank"])
    assert set(known) == set(COLUMNS)


def reading(**values: float) -> Seen:
    return Seen(
        values.pop("step", 1000), values, {"gap": 0.3}, dict.fromkeys(STREAKS, 0) | {"collapsed": 20, "narrow": 20}
    )


@pytest.mark.parametrize(("values", "code"), [
    ({"width": 0.05}, "collapse"), ({"width": 0.5}, None), ({"width": 0.05, "duplicates": 0.9}, "duplicates"),
    ({"rank": 5.0, "rank_most": 64.0, "width": 0.9}, "narrow"), ({"rank": 7.0, "rank_most": 64.0, "width": 0.9}, None),
    ({"rank": 5.0, "rank_most": 64.0, "width": 0.05}, "collapse"),
    ({"no_positive": 0.6}, "no-positives"), ({"no_positive": 0.4}, None),
    ({"negatives": 0.0}, "no-negatives"), ({"negatives": 1.0}, None), ({"duplicates": 0.4}, None),
    ({"temperature": 0.0099}, "temperature"), ({"temperature": 0.01}, None),
    ({"beaten": 0.6, "gap": 0.3}, "stuck"), ({"beaten": 0.6, "gap": 0.31}, None), ({"beaten": 0.4, "gap": 0.1}, None),
    ({"beaten": 0.6, "gap": 0.3, "step": 100}, None), ({}, None),
])  # fmt: skip
def test_each_limit_from_both_sides(values: dict[str, float], code: str | None) -> None:
    found = examine(reading(**values), Limits(), known={}, on_sick="warn")
    assert [f.code for f in found] == ([code] if code else [])
    assert examine(reading(**values), Limits(), known={f.code: f for f in found}, on_sick="warn") == []


def test_readings_that_are_low_have_to_stay_low(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read every fifth step, and at every step in between nothing: steps count, not readings."""
    widths = iter([0.05, 0.05, 0.5] + [0.05] * 10)
    monkeypatch.setattr(
        "counterpoint.training.health.read", lambda *a, **k: dict.fromkeys(COLUMNS, math.nan) | {"width": next(widths)}
    )
    health, outcome = Health(digits_method(), clock=Clock(1e-4)), Outcome({"x": torch.tensor(1.0)}, {"x": 1.0}, {})
    for number in range(1, 60):
        health.observe(step=number, sets={}, outcome=outcome, norm=1.0, seconds=10.0 if number % 5 == 1 else 0.0)
        health.allowance.credit = 0.0
    assert health.history["step"][:4] == [1, 6, 11, 16]
    assert [(f.code, f.step) for f in health.findings] == [("collapse", 36)]  # low since 16, one step by then


def test_every_symptom_says_what_and_what_to_do() -> None:
    for symptom in SYMPTOMS:
        said = str(finding(symptom.code, 7, 0.5))
        assert said.startswith("step 7: ")
        assert "{" not in said
    with pytest.raises(ValueError, match="wanted a symptom"):
        finding("flu", 1, 0.0)


def test_a_reading_by_hand() -> None:
    """Three anchors; the third has no positive; the second is beaten by a negative."""
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    a = Embeddings.of(z, id=torch.tensor([1, 2, 3]))
    c = Embeddings.of(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 2.0]]), id=torch.tensor([11, 12, 13]))
    rule = listed(Relation.of([1, 2], [11, 12]))
    contrast = Contrast(("a",), ("c",), rule, partial(infonce, temperature=0.1))
    method = Method(nn.ModuleDict(), dict, dict, contrast, dict)
    sets = {"a": a, "c": c}
    outcome = contrast(method.modules, sets)
    for notes in (outcome.notes, {}):  # what the objective noted, and what the sample says where it noted nothing
        known = read(method, sets, outcome._replace(notes=notes), norm=2.0, rows=8)
        assert known["positive"] == pytest.approx((1 + 0.8) / 2)
        assert known["no_positive"] == pytest.approx(1 / 3)
        assert known["beaten"] == pytest.approx(1 / 2)
        assert known["saturated"] == 0  # of the first: 1 / (1 + exp(-4) + exp(-10)) = 0.982
        assert known["alignment"] == pytest.approx((0 + 2 - 2 * 0.8) / 2, abs=1e-6)
        assert known["temperature"] == 0.1
        assert (known["rank_most"], known["gradient"], known["duplicates"]) == (2, 2.0, 0)
    first, second, third = (0.6 + 0) / 2, (0 + 1) / 2, (1 / 2**0.5 + 1.4 / 2**0.5 + 1 / 2**0.5) / 3
    assert read(method, sets, outcome, norm=2.0, rows=8)["negative"] == pytest.approx((first + second + third) / 3)
    unnoted = read(method, sets, outcome._replace(notes={}), norm=2.0, rows=8)
    assert unnoted["negative"] == pytest.approx((first + second) / 2)  # of anchors that have a positive


def test_a_pair_that_is_ignored_beats_nobody() -> None:
    """The anchor's own text among the candidates is nearer than its positive, and no negative."""
    a = Embeddings.of(torch.tensor([[1.0, 0.0]]), id=torch.tensor([1]))
    c = Embeddings.of(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), id=torch.tensor([1, 11, 12]))
    contrast = Contrast(("a",), ("c",), listed(Relation.of([1], [11])), partial(infonce, temperature=0.01))
    method = Method(nn.ModuleDict(), dict, dict, contrast, dict)
    known = read(method, {"a": a, "c": c}, contrast(method.modules, {"a": a, "c": c}), norm=1.0, rows=8)
    assert (known["beaten"], known["saturated"], known["negatives"]) == (0, 1, 1)


def test_saturated_counts_from_99_percent() -> None:
    def share(temperature: float) -> float:
        contrast = Contrast(("a",), ("c",), same_sample, partial(infonce, temperature=temperature))
        method = Method(nn.ModuleDict(), dict, dict, contrast, dict)
        sets = {"a": Embeddings.of(torch.eye(2)), "c": Embeddings.of(torch.eye(2), view=1)}
        return read(method, sets, contrast(method.modules, sets), norm=1.0, rows=8)["saturated"]

    edge = 1 / math.log(0.99 / 0.01)  # where 1 / (1 + exp(-1 / t)) is 0.99
    assert (share(edge * 0.999), share(edge * 1.001)) == (1, 0)


def test_the_sample_finds_the_positive_wherever_it_stands() -> None:
    n = 1000
    a = Embeddings.of(torch.randn(n, 4, generator=torch.Generator().manual_seed(0)))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    c = replace(Embeddings.of(a.z.clone(), view=1), z=a.z[order], id=a.id[order])
    found = sample(Contrast(("a",), ("c",), same_sample, infonce), {"a": a, "c": c}, 50)
    assert found is not None
    assert len(found.anchors) == 50
    assert 50 <= len(found.candidates) <= 100
    x, y = matched(found)
    assert torch.equal(x, y)
    assert len(x) == 50
    assert (found.pairs.repel.sum(1) == len(found.candidates) - 1).all()


def test_the_sample_of_labels_of_one_set_and_of_nothing() -> None:
    rows = Embeddings.of(torch.eye(6), facts={"label": torch.tensor([0, 0, 1, 1, 2, 2])})
    found = sample(Contrast(("x",), ("x",), labelled("label"), infonce), {"x": rows}, 10)
    assert found is not None
    assert found.partner.tolist() == [1, 0, 3, 2, 5, 4]
    alone = sample(lambda modules, sets: None, {"x": rows}, 10)
    assert alone is not None
    assert alone.partner.tolist() == [-1] * 6
    assert sample(None, {}, 10) is None
    assert evenly(5, 5).tolist() == [0, 1, 2, 3, 4]


def test_where_a_temperature_is_found() -> None:
    nothing = Outcome({}, {}, {})
    method = digits_method(temperature=0.07)
    assert temperature_of(method, nothing) == 0.07
    assert math.isnan(temperature_of(digits_method(lambda modules, sets: nothing), nothing))
    for name, stored in (("temperature", 0.3), ("log_temperature", math.log(0.3)), ("logit_scale", -math.log(0.3))):
        learned = digits_method()
        learned.modules["encoder"].register_parameter(name, nn.Parameter(torch.tensor(stored)))
        assert temperature_of(learned, nothing) == pytest.approx(0.3, rel=1e-5)
        noted = nothing._replace(notes={"temperature": torch.tensor([0.1, 0.3])})
        assert temperature_of(learned, noted) == pytest.approx(0.2)


@pytest.mark.parametrize("step_seconds", [0.01, 0.1, 2.0])
@pytest.mark.parametrize("cost", [0.001, 0.005, 0.05])
def test_its_share_of_the_time_stays_under_two_percent(
    step_seconds: float, cost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(1e-5)

    def slow(*args: object, **kwargs: object) -> dict[str, float]:
        clock.now += cost
        return dict.fromkeys(COLUMNS, 1.0)

    monkeypatch.setattr("counterpoint.training.health.read", slow)
    health, outcome = Health(digits_method(), clock=clock), Outcome({"x": torch.tensor(1.0)}, {"x": 1.0}, {})
    spent, readings = 0.0, 0
    for number in range(1, 3001):
        before = clock.now
        health.observe(step=number, sets={}, outcome=outcome, norm=1.0, seconds=step_seconds)
        took = clock.now - before
        spent, readings = spent + took, readings + (took > cost / 2)
        assert spent <= 0.02 * (number * step_seconds + spent) + 0.05, "but for the first reading"
    total = 3000 * step_seconds + spent
    assert spent / total < 0.011 + 0.05 / total
    assert health.taken() == pytest.approx(spent / total, abs=0.0011)  # of its own clock it sees all but the last tick
    assert readings > min(3000, 0.008 * total / cost) * 0.7, "and it reads as often as it may"


def test_a_dearer_reading_makes_the_interval_wider_and_no_credit_is_saved_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, cost = Clock(0.0), [0.01]

    def slow(*args: object, **kwargs: object) -> dict[str, float]:
        clock.now += cost[0]
        return dict.fromkeys(COLUMNS, 1.0)

    monkeypatch.setattr("counterpoint.training.health.read", slow)
    health, outcome = Health(digits_method(), clock=clock), Outcome({"x": torch.tensor(1.0)}, {"x": 1.0}, {})
    gaps = {}
    for value in (0.01, 0.1, 0.01):
        cost[0], before = value, len(health.history["step"])
        for number in range(4000):
            health.observe(step=len(gaps) * 4000 + number, sets={}, outcome=outcome, norm=1.0, seconds=0.1)
        gaps[len(gaps)] = 4000 / (len(health.history["step"]) - before)
    assert gaps[0] == pytest.approx(10, rel=0.1)
    assert gaps[1] == pytest.approx(100, rel=0.15)
    assert gaps[2] == pytest.approx(10, rel=0.3)
    for number in range(100):
        health.observe(step=20_000 + number, sets={}, outcome=outcome, norm=1.0, seconds=1000.0)
    before, at = health.allowance.spent, health.allowance.total
    for number in range(100):
        health.observe(step=30_000 + number, sets={}, outcome=outcome, norm=1.0, seconds=0.01)
    assert health.allowance.spent - before <= 0.01 * (health.allowance.total - at) + 2 * 0.011


def test_a_run_too_short_for_a_reading_has_one_at_its_end() -> None:
    method = digits_method()
    health, sets = Health(method), {"first": Embeddings.of(torch.eye(3)), "second": Embeddings.of(torch.eye(3), view=1)}
    outcome = method.objective(method.modules, sets)
    for number in (1, 2, 3):
        health.observe(step=number, sets=sets, outcome=outcome, norm=1.0, seconds=0.001, last=number == 3)
    assert health.history["step"] == [3]
    assert health.note() == "gap 1.00, rank 3.0 of 3"
    assert Health(method).note() == ""


def test_the_record_stays_small_and_even() -> None:
    health = Health(digits_method(), records=10)
    for number in range(1, 500):
        health._record(number, dict.fromkeys(COLUMNS, float(number)))
    steps = health.history["step"]
    assert 10 <= len(steps) < 20
    assert len({b - a for a, b in itertools.pairwise(steps)}) == 1
    assert steps[0] == 1
    assert health.history["loss"] == steps


def test_weights_and_random_numbers_are_the_same_with_and_without_it() -> None:
    results = []
    for share in (None, 0.01, 0.5):
        method = digits_method(dropout=0.5)
        health = None if share is None else Health(method, share=share, clock=Clock(1e-4))
        losses = run(method, health, steps=40)
        results.append((losses, copy.deepcopy(method.modules.state_dict()), torch.get_rng_state()))
        assert health is None or health.history["step"]
    for losses, weights, state in results[1:]:
        assert losses == results[0][0]
        assert all(torch.equal(weights[name], tensor) for name, tensor in results[0][1].items())
        assert torch.equal(state, results[0][2])


def test_its_state_goes_through_tensors_and_it_goes_on_as_if_nothing_had_happened() -> None:
    method = digits_method(Contrast(("first",), ("second",), same_sample, only_positives))
    health = Health(method, clock=Clock(1e-4), records=20)
    run(method, health, lr=1e-2, steps=60)
    assert health.findings
    state = {name: tensor.clone() for name, tensor in health.state_dict().items()}
    assert all(isinstance(x, torch.Tensor) for x in state.values())
    other = Health(method, clock=Clock(1e-4), records=20)
    other.load_state_dict(state)
    assert json.dumps(other.record()) == json.dumps(health.record())
    sets = {n: Embeddings.of(torch.eye(4), view=v) for v, n in enumerate(("first", "second"))}
    outcome = method.objective(method.modules, sets)
    for number in range(61, 120):
        for one in (health, other):
            one.observe(step=number, sets=sets, outcome=outcome, norm=0.0, seconds=0.05)
    assert json.dumps(other.history) == json.dumps(health.history)
    assert other.findings == health.findings
    assert other.taken() == pytest.approx(health.taken())
    assert len(health.history["step"]) > 20
    assert {n: t.tolist() for n, t in other.state_dict().items()}.keys() == state.keys()
    fresh = Health(method)
    fresh.load_state_dict(Health(method).state_dict())
    assert fresh.record() == Health(method).record()


def test_the_record_is_json_without_nan() -> None:
    health = watched(method := digits_method(Contrast(("first",), ("second",), same_sample, only_positives)))
    run(method, health, steps=5)
    record = health.record()
    assert "temperature" not in record["columns"], "a column of nothing is left out"
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_notes_of_terms_with_unlike_rows_are_not_mixed_up() -> None:
    """`ranked` notes the number of negatives of two anchors, `infonce` three things of six: it is the one that is read."""
    a, c = Embeddings.of(torch.eye(6)[:2]), Embeddings.of(torch.eye(6), id=torch.arange(6) + 10)
    order = ranked(a, c, rule=listed(Relation.of([0, 0, 1, 1], [10, 11, 12, 13], value=[2.0, 1.0, 2.0, 1.0])))
    contrast = infonce(c, Embeddings.of(torch.eye(6), id=c.id, view=1))
    both = Outcome.of(order=(1.0, order), contrast=(1.0, contrast))
    assert from_notes(both.notes) == from_notes(contrast.notes)
    assert from_notes(both.notes)["negatives"] == 5
