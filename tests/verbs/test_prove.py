"""`prove`: our recipes keep every contract; recipes that are broken in one way each are caught by the right line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import counterpoint
from counterpoint import testing
from counterpoint.cli import app
from counterpoint.recipes import text
from counterpoint.training import contracts
from counterpoint.verbs.prove import Proved, prove, prove_objective
from counterpoint.verbs.recipes import arguments_of, recipes
from counterpoint.verbs.small import small_encoder, small_rows

OURS = sorted(recipes())
OF_FOUR = ("pairs", "supcon", "moco", "scarf")
PROCESSES, CACHING, ROWS, FINITE, CHECKPOINT = range(5)

RECIPES = '''
from dataclasses import replace
import torch
from torch import nn
from counterpoint.recipes.text import pairs, supcon
from counterpoint.training.method import Method
from counterpoint.types import Outcome


def sound(encoder, train, *, temperature: float = 0.05):
    return pairs(encoder, train, temperature=temperature)


def own_mean(encoder, train, *, world: bool = True):
    """Lengths, averaged over the rows of this process; divided by the processes, as data-parallel habit has it."""
    def objective(modules, sets):
        from counterpoint._ops.world import count
        rows = sets["anchor"].z.square().sum(1)
        loss = rows.mean() / (count() if world else 1)
        return Outcome({"loss": loss}, {"loss": 1.0}, {})
    return replace(pairs(encoder, train), objective=objective)


def mixes(encoder, train):
    """Batch norm after the encoder, inside encode."""
    method = pairs(encoder, train)
    def encode(modules, views):
        return {k: replace(e, z=modules["norm"](e.z.float())) for k, e in method.encode(modules, views).items()}
    return replace(method, modules=nn.ModuleDict({**method.modules, "norm": nn.BatchNorm1d(encoder.width)}), encode=encode)


def centred(encoder, train):
    """The mean of a batch taken off inside encode."""
    method = pairs(encoder, train)
    def encode(modules, views):
        return {k: replace(e, z=e.z - e.z.mean(0)) for k, e in method.encode(modules, views).items()}
    return replace(method, encode=encode)


def silent(encoder, train):
    """A head that is made and never used."""
    method = pairs(encoder, train)
    return replace(method, modules=nn.ModuleDict({**method.modules, "head": nn.Linear(4, 4)}))


def zeroed(encoder, train):
    """A head whose output counts for nothing: its gradient is there, and zero."""
    method = pairs(encoder, train)
    def encode(modules, views):
        return {k: replace(e, z=e.z + 0 * modules["head"](e.z)) for k, e in method.encode(modules, views).items()}
    head = nn.Linear(encoder.width, encoder.width)
    return replace(method, modules=nn.ModuleDict({**method.modules, "head": head}), encode=encode)


def detached(encoder, train):
    method = pairs(encoder, train)
    def encode(modules, views):
        sets = method.encode(modules, views)
        return {k: replace(e, z=modules["head"](e.z.detach())) for k, e in sets.items()}
    return replace(method, modules=nn.ModuleDict({**method.modules, "head": nn.Linear(encoder.width, 8)}), encode=encode)


def infinite(encoder, train):
    method = pairs(encoder, train)
    def objective(modules, sets):
        outcome = method.objective(modules, sets)
        return outcome._replace(terms={k: v / torch.zeros(()) for k, v in outcome.terms.items()})
    return replace(method, objective=objective)


def forgetful(encoder, train):
    """A running mean that is kept in the closure."""
    method, seen = pairs(encoder, train), []
    def objective(modules, sets):
        outcome = method.objective(modules, sets)
        scale = 1.0 + len(seen)
        return outcome._replace(terms={k: v * scale for k, v in outcome.terms.items()})
    def after(modules, sets, outcome):
        seen.append(outcome.loss.detach())
    return replace(method, objective=objective, after=after)


def raises(encoder, train):
    method = pairs(encoder, train)
    def objective(modules, sets):
        raise KeyError("nothing here")
    return replace(method, objective=objective)


def local_candidates(encoder, train):
    """Each process compares its rows with its own candidates only."""
    from counterpoint._ops.world import alone
    method = pairs(encoder, train)
    def objective(modules, sets):
        with alone():
            return method.objective(modules, sets)
    return replace(method, objective=objective)


def not_a_method(encoder, train):
    return encoder


def plain_loss(anchors, candidates):
    rows = (anchors.z[:1] - candidates.z[:1]).square().sum(1)
    return Outcome({"loss": rows.mean()}, {"loss": 1.0}, {})
'''


@pytest.fixture
def mine(tmp_path: Path) -> Callable[[str], str]:
    path = tmp_path / "mine.py"
    path.write_text(RECIPES)
    return lambda name: f"{path}:{name}"


def broken(found: tuple[Proved, ...]) -> dict[int, str]:
    return {number: contract.problem for number, contract in enumerate(found) if contract.problem is not None}


@pytest.mark.parametrize("name", OURS)
def test_our_recipes_keep_every_contract(name: str) -> None:
    """Four processes find nothing in a recipe that two do not, but for rows that lie on the third: a few will do."""
    assert broken(prove(name, processes=(2, 4) if name in OF_FOUR else (2,), quiet=True)) == {}


@pytest.mark.parametrize("name", [*text.__all__[:2], "supcon"])
def test_on_arrays_too(name: str) -> None:
    assert broken(prove(name, kind="arrays", processes=(2,), quiet=True)) == {}


def test_a_sound_recipe_of_ones_own_passes(mine: Callable[[str], str]) -> None:
    assert broken(prove(mine("sound"), settings={"temperature": "0.2"}, quiet=True)) == {}


@pytest.mark.parametrize(
    ("name", "settings", "line", "said"),
    [
        ("own_mean", {}, PROCESSES, "the loss of step 1 on process 0 of 2 differs by"),
        ("own_mean", {"world": False}, PROCESSES, "the loss of step 1 on process 0 of 2 differs by"),
        ("local_candidates", {}, PROCESSES, "the loss of step 1 on process 0 of 2 differs by"),
        ("mixes", {}, CACHING, "batch norm in 'norm'"),
        ("mixes", {}, ROWS, "row 0 of 'anchor', encoded alone, fails: ValueError: Expected more than 1 value"),
        ("centred", {}, ROWS, "the vector of row 0 of 'anchor', encoded alone, differs by"),
        ("centred", {}, CACHING, "differs by"),
        ("silent", {}, FINITE, "no gradient reaches 'head.weight', 'head.bias' in 2 steps in fp32"),
        ("zeroed", {}, FINITE, "no gradient reaches 'head.weight', 'head.bias' in 2 steps in fp32"),
        ("detached", {}, FINITE, "no gradient reaches 'encoder."),
        ("infinite", {}, FINITE, "the loss of step 1 in fp32 is inf"),
        ("forgetful", {}, CHECKPOINT, "the loss of the step after a checkpoint differs by"),
        ("raises", {}, PROCESSES, "KeyError: 'nothing here'"),
    ],
)
def test_what_is_broken_is_caught_by_the_right_line(
    name: str, settings: dict[str, Any], line: int, said: str, mine: Callable[[str], str]
) -> None:
    problems = broken(prove(mine(name), settings=settings, processes=(2,), quiet=True))
    assert said in problems[line], problems
    alone = {"own_mean", "local_candidates", "silent", "zeroed", "detached", "forgetful"}
    assert name not in alone or set(problems) == {line}, problems


def made(name: str, kind: str, folder: Path) -> tuple[Callable[[], Any], Any]:
    import numpy as np

    rows = small_rows(kind, 12)
    encoder = small_encoder(kind, rows, folder / "tiny")
    recipe = getattr(text, name)
    return lambda: recipe(encoder(), rows, **arguments_of(recipe, {})), rows.take(np.arange(12))


def test_the_contracts_are_public(tmp_path: Path) -> None:
    make, batch = made("pairs", "arrays", tmp_path)
    for name in testing.__all__:
        if name.startswith("assert_method"):
            getattr(testing, name)(make, batch)


def test_shares_are_uneven_and_cover_the_batch() -> None:
    batch = {"id": torch.arange(12), "text": list(range(12)), "role": "anchor"}
    for count in (1, 2, 3, 4):
        shares = [contracts.own_share(batch, rank, count) for rank in range(count)]
        assert [i for share in shares for i in share["text"]] == list(range(12))
        assert count == 1 or len({len(share["id"]) for share in shares}) > 1
    with pytest.raises(ValueError, match="at least 21 rows for 6 processes, got 12"):
        contracts.own_share(batch, 0, 6)


def test_a_gradient_that_one_process_lacks_is_seen(tmp_path: Path) -> None:
    """The comparison itself: a gradient off by a part in 10,000, one that is missing, a loss off by as much."""
    one = contracts.Update(torch.tensor(2.0), {"w": torch.tensor([1.0, -4.0]), "b": None})
    agree = lambda other: contracts._agree("here", other, one, relative=1e-6)  # noqa: E731
    agree(contracts.Update(torch.tensor(2.0), {"w": torch.tensor([1.0, -4.0 + 1e-6]), "b": torch.zeros(1)}))
    for loss, w, b in (
        (2.0002, -4.0, None),
        (2.0, -4.0004, None),
        (2.0, -4.0, torch.ones(1)),
        (float("nan"), -4.0, None),
    ):
        with pytest.raises(AssertionError, match="here differs by"):
            agree(contracts.Update(torch.tensor(loss), {"w": torch.tensor([1.0, w]), "b": b}))
    with pytest.raises(AssertionError, match="gradient of 'w'"):
        agree(contracts.Update(torch.tensor(2.0), {"w": None, "b": None}))


def test_dropout_is_off_and_products_are_double(tmp_path: Path) -> None:
    make, batch = made("simcse", "text", tmp_path)
    method = contracts.doubled(make())
    method.modules.train()
    sets = method.encode(method.modules, method.views(batch, torch.Generator()))
    assert torch.equal(sets["first"].z, sets["second"].z)
    assert sets["first"].z.dtype == torch.float64
    assert {p.dtype for p in method.modules.parameters()} == {torch.float64}


def test_objectives_too(mine: Callable[[str], str]) -> None:
    assert prove_objective("counterpoint.objectives.sigmoid:siglip", processes=(2,), quiet=True)[0].kept
    (found,) = prove_objective(mine("plain_loss"), processes=(2,), quiet=True)
    assert "the loss on process" in str(found.problem)


def test_the_command_and_its_exit_codes(mine: Callable[[str], str]) -> None:
    run = CliRunner().invoke
    good = run(app, ["prove", "scarf", "--set", "rate=0.5", "--processes", "2"])
    assert good.exit_code == 0, good.output
    assert good.output.count("kept") == 5
    bad = run(app, ["prove", mine("silent"), "--processes", "2"])
    assert bad.exit_code == 3
    assert [line.split()[0] for line in bad.output.splitlines() if line[:1].isalpha()] == ["kept"] * 3 + [
        "broken",
        "kept",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a recipe or an --objective, got neither"),
        (["pairs", "--objective", "x:y"], "got both"),
        (["pairz"], "did you mean 'pairs'"),
        (["pairs", "--set", "x=1"], "an argument of pairs"),
        (["pairs", "--processes", "1"], "from 2 to 16 processes, got 1"),
        (["scarf", "--kind", "text"], "wanted arrays for scarf, got 'text'"),
        (["cross_encoder", "--kind", "arrays"], "wanted text for cross_encoder"),
        (["pairs", "--kind", "sound"], "a kind: text, arrays, got 'sound'"),
        (["nowhere.py:x"], "no such file"),
        (["--objective", "counterpoint.nowhere:x"], "a module with an objective"),
        (["--objective", "counterpoint.objectives.softmax:nothing"], "module:function of an objective"),
        (["--objective", "counterpoint.objectives.softmax"], "module:function of an objective"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["prove", *words])
    assert isinstance(result.exception, counterpoint.Refusal)
    assert said in str(result.exception)


def test_a_recipe_that_returns_something_else_is_refused(mine: Callable[[str], str]) -> None:
    with pytest.raises(counterpoint.Refusal, match="a recipe that returns a Method"):
        prove(mine("not_a_method"), quiet=True)
