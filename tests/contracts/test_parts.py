"""Contracts over all parts that the generated index knows: processes, caching, tiles, memory.

An objective of (anchors, candidates) is found and called as it is. Whatever needs more has a `Case` in a module
`cases_<family>` beside this one, under the name of its function; so does a rule, a state or a wrapper.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn

import counterpoint.objectives
import tests.contracts
from counterpoint import papers
from counterpoint._ops.sweep import sweeping
from counterpoint.encoders.text import autocast
from counterpoint.pairs.labels import labelled
from counterpoint.testing import assert_processes_agree
from counterpoint.training.method import Method, gradients
from counterpoint.types import Batch, Embeddings, Outcome
from tests.contracts.case import Case, Cases
from tests.objectives.contract import assert_tiles_equal_dense

ROWS = 8_192  # a matrix of them takes 0.27 GB in fp32
MOST = 0.2e9  # bytes that a sweep of them may add
TILES = 2**24  # bytes that a sweep is asked to stay below; a loss of several sweeps takes that several times
ROOMS = ("objectives", "pairs", "encoders")
ELSEWHERE = {
    "mine_negatives": "a search before training (tests/pairs/test_mining.py)",
    "distil": "a table made of a model, without a loss (tests/encoders/test_static.py)",
    "LatentAttention": "a pooling, row by row (tests/encoders/test_reshaped.py)",
    "bidirectional": "another mask of attention, row by row (tests/encoders/test_reshaped.py)",
    "AtMask": "a pooling, row by row (tests/encoders/test_prompted.py)",
    "Prefix": "a part of an encoder, row by row (tests/encoders/test_prompted.py)",
    "PromptedTransformer": "an encoder, row by row (tests/encoders/test_prompted.py)",
    "prefixed": "an adapter, not a part of a loss (tests/encoders/test_prompted.py)",
    "lora": "an adapter, not a part of a loss (tests/encoders/test_adapt.py)",
    "binary": "a loss of one row a pair, which compares nothing (tests/objectives/test_rerank.py)",
    "listwise": "a loss of one row a pair, which compares nothing (tests/objectives/test_rerank.py)",
}


def objectives() -> dict[str, Any]:
    """Every public function of the room that takes anchors, needs no more than candidates, and gives an outcome."""
    found = {}
    for module in pkgutil.iter_modules(counterpoint.objectives.__path__):
        members = inspect.getmembers(
            importlib.import_module(f"counterpoint.objectives.{module.name}"), inspect.isfunction
        )
        for name, function in members:
            signature = inspect.signature(function)
            more = [p for n, p in signature.parameters.items() if n not in ("anchors", "candidates")]
            takes = next(iter(signature.parameters), "")
            enough = all(p.default is not inspect.Parameter.empty for p in more)
            if takes == "anchors" and enough and signature.return_annotation == "Outcome" and name[0] != "_":
                found[name] = function
    return found


def as_they_are(name: str, function: Any) -> Cases:
    """The objective as it is, and with what else it takes: both directions, a learnable temperature."""
    takes = inspect.signature(function).parameters
    one = (lambda loss: loss) if "candidates" in takes else (lambda loss: lambda a, _c: loss(a))
    rule = {"rule": labelled()} if "rule" in takes else {}
    found = {name: Case(one(partial(function, **rule)))}
    both = {"directions": "both"} if "directions" in takes else {}
    if both:
        found[f"{name}, both"] = Case(one(partial(function, **rule, **both)))
    if "Temperature" in str(takes["temperature"].annotation if "temperature" in takes else ""):
        t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        found[f"{name}, learnable"] = Case(one(partial(function, **rule, **both, temperature=t)), (t,))
    return found


def all_cases() -> Cases:
    """Those that are told, then those that are found."""
    told: Cases = {}
    for module in pkgutil.iter_modules(tests.contracts.__path__):
        if module.name.startswith("cases_"):
            told |= importlib.import_module(f"tests.contracts.{module.name}").CASES
    known = {name.split(",")[0] for name in told}
    found = [as_they_are(name, function) for name, function in objectives().items() if name not in known]
    return told | {name: case for cases in found for name, case in cases.items()}


CASES = all_cases()
SWEPT = [name for name, case in CASES.items() if case.sweeps and not name.endswith(", learnable")]
MARGINS = {"contrastive", "triplet", "lifted", "generalized_lifted", "n_pair", "circle", "multi_similarity"}
SOFTMAX = [
    name for name in SWEPT if name not in MARGINS and "," not in name
]  # margins: the same sweep, three times as long


def indexed() -> Iterator[str]:
    """The functions of the index that are parts."""
    index = papers.index()
    for entry in [*index["systems"], *index["beyond"]]:
        for function in entry["functions"]:
            room, name = function.split(".")[1], function.rsplit(".", 1)[1]
            if room in ROOMS:
                yield name


def test_every_part_of_the_index_has_a_case() -> None:
    known = {name.split(",")[0] for name in CASES} | set(ELSEWHERE)
    assert sorted(set(indexed()) - known) == []


@pytest.mark.parametrize("name", sorted(CASES))
def test_processes_agree(name: str) -> None:
    case = CASES[name]
    processes = (2, 4) if "," not in name else (2,)
    assert_processes_agree(case.loss, learnable=case.learnable, processes=processes, replicated=case.replicated)


@pytest.mark.parametrize("name", sorted(SWEPT))
@pytest.mark.parametrize(("n", "m", "seed"), [(13, 17, 0), (9, 9, 1), (2, 5, 2)])
def test_tiles_equal_dense(name: str, n: int, m: int, seed: int) -> None:
    assert_tiles_equal_dense(CASES[name].loss, n=n, m=m, seed=seed)


@pytest.mark.parametrize("name", sorted(CASES))
def test_cached_is_plain(name: str) -> None:
    case, found = CASES[name], []
    for micro in (None, 3):
        method, batch = tiny_method(case), tiny_batch()
        for leaf in case.learnable:
            leaf.grad = None
        _, outcome = gradients(
            method, batch, generator=torch.Generator(), autocast=autocast("cpu", "fp32"), micro=micro
        )
        leaves = [*method.modules.parameters(), *case.learnable]
        found.append([outcome.loss.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad for p in leaves)])
    for plain, cached in zip(*found, strict=True):
        assert torch.allclose(plain, cached, rtol=1e-6, atol=1e-9)


def tiny_method(case: Case) -> Method:
    """One linear layer for both sides, and the case as objective."""
    torch.manual_seed(0)
    encoder = nn.Linear(5, 6).double()

    def encode(modules: nn.ModuleDict, views: dict[str, Batch]) -> dict[str, Embeddings]:
        return {
            name: Embeddings.of(
                modules["encoder"](b["x"]), id=b["id"], view=int(name == "second"), facts={"label": b["label"]}
            )
            for name, b in views.items()
        }

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        return case.loss(sets["first"], sets["second"])

    return Method(nn.ModuleDict({"encoder": encoder}), lambda b, _g: dict(b), encode, objective, lambda m: m["encoder"])


def tiny_batch() -> dict[str, Any]:
    """Ten rows of each side, some of equal id, some of equal label."""
    generator = torch.Generator().manual_seed(0)

    def side() -> Batch:
        return {
            "x": torch.randn(10, 5, generator=generator, dtype=torch.float64),
            "id": torch.randint(7, (10,), generator=generator),
            "label": torch.randint(3, (10,), generator=generator),
        }

    return {"first": side(), "second": side()}


@contextmanager
def watched() -> Iterator[list[int]]:
    """The most memory that this process takes, beyond what it has now, read every few milliseconds."""
    process, done, most = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def watch() -> None:
        while not done.is_set():
            most[0] = max(most[0], process.memory_info().rss - before)
            time.sleep(0.003)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("name", sorted(SOFTMAX))
def test_no_matrix_of_all_pairs_is_held(name: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def side(view: int) -> tuple[Tensor, Embeddings]:
        z = torch.randn(ROWS, 4, generator=generator).requires_grad_()
        label = torch.arange(ROWS) // 4
        return z, Embeddings.of(z, view=view, facts={"label": label})

    (za, a), (zc, c) = side(0), side(1)
    with watched() as most, sweeping(precision="fp32", memory=TILES):
        loss = CASES[name].loss(a, c).loss
        torch.autograd.grad(loss, (za, zc), allow_unused=True)
    assert most[0] < MOST, f"{most[0] / 1e9:.2f} GB beside {ROWS} rows; a matrix of all pairs takes 0.27 GB"


def test_a_matrix_of_all_pairs_would_be_seen() -> None:
    with watched() as most:
        whole = torch.ones(ROWS, ROWS)
        time.sleep(0.02)
    assert most[0] > MOST
    del whole
