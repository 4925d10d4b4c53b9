"""Pairs of docstring and code from a small tree of tricky functions, and from the real standard library."""

from __future__ import annotations

import ast
import gc
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest

from counterpoint.data import python_code
from counterpoint.data.python_code import default_roots, mine_functions, split_by_package
from counterpoint.errors import Refusal

# name -> (a file that holds it, the docstring and the code that must come of it)
TRICKY = {
    "plain": (
        'def plain(a):\n    """Add one to\n    the   number.\n\n    More words.\n    """\n\n'
        "    b = a + 1  # kept\n    return b\n",
        "Add one to the number.",
        "def plain(a):\n    b = a + 1  # kept\n    return b",
    ),
    "Outer.Inner.method": (
        "class Outer:\n    class Inner:\n        @property\n        @cached\n        async def method(self):\n"
        '            """Fetch the value lazily."""\n            x = await self.y\n\n            return x\n',
        "Fetch the value lazily.",
        "@property\n@cached\nasync def method(self):\n    x = await self.y\n\n    return x",
    ),
    "signature": (
        'def signature(\n    a: int,\n    b: str = "x",\n) -> None:\n    # before\n    # the docstring\n'
        '    r"""Match \\d digits in it."""  # noqa\n    c = a\n    print(c)\n',
        "Match \\d digits in it.",
        'def signature(\n    a: int,\n    b: str = "x",\n) -> None:\n    # before\n    # the docstring\n'
        "    # noqa\n    c = a\n    print(c)",
    ),
    "one_line": (
        'def one_line(): "Return a small table."; return {\n    1: 2,\n}\n',
        "Return a small table.",
        "def one_line(): return {\n    1: 2,\n}",
    ),
    "same_line": (
        'def same_line(a):\n    """Double the number\n    in place."""; a *= 2\n    return a\n',
        "Double the number in place.",
        "def same_line(a):\n    a *= 2\n    return a",
    ),
    "semicolon": (
        'def semicolon(a):\n    """Halve the number in place.""";\n    a /= 2\n    return a\n',
        "Halve the number in place.",
        "def semicolon(a):\n    a /= 2\n    return a",
    ),
    "tight": (
        'def tight(a):\n    """Keep the comment after it."""# tight\n    a -= 1\n    return a\n',
        "Keep the comment after it.",
        "def tight(a):\n    # tight\n    a -= 1\n    return a",
    ),
    "joined": (
        'def joined(a):\n    (\n        "Join two "\n        "strings here."\n    )\n    a += 1\n    return a\n',
        "Join two strings here.",
        "def joined(a):\n    a += 1\n    return a",
    ),
    "umlaut": (
        'def umlaut(ä="ö"): "Größe in Ämtern prüfen."; return [\n    "ü",\n]\n',
        "Größe in Ämtern prüfen.",
        'def umlaut(ä="ö"): return [\n    "ü",\n]',
    ),
    "outer": (
        'def outer(f):\n    """Wrap a function twice."""\n\n    def inner():\n'
        '        """Call the wrapped function."""\n'
        "        y = f()\n        return y\n\n    return inner\n",
        "Wrap a function twice.",
        'def outer(f):\n    def inner():\n        """Call the wrapped function."""\n        y = f()\n'
        "        return y\n\n    return inner",
    ),
    "C.tabbed": (
        'class C:\n\tdef tabbed(self):\n\t\t"""Indent with a tab."""\n\t\tx = """a\nb"""\n\t\treturn x\n',
        "Indent with a tab.",
        'def tabbed(self):\n\tx = """a\nb"""\n\treturn x',
    ),
    "branch": (
        "try:\n    import x\nexcept ImportError:\n    if True:\n        def branch(a):\n"
        '            """Stand in for x."""\n'
        "            a += 2\n            return a\n",
        "Stand in for x.",
        "def branch(a):\n    a += 2\n    return a",
    ),
    "fields": (
        'def fields(a):\n    """Say what it does.\n    :param a: a number\n    """\n    a += 3\n    return a\n',
        "Say what it does.",
        "def fields(a):\n    a += 3\n    return a",
    ),
    "escape": (
        'def escape(a):\n    """Match \\d without the r."""\n    b = "\\d"\n    return a + b\n',
        "Match \\d without the r.",
        'def escape(a):\n    b = "\\d"\n    return a + b',
    ),
}

BODY = "    x = 'a string'\n    return x\n"
# name -> a function of which no pair may come
REFUSED = {
    "only": 'def only():\n    """Do nothing at all here."""\n',
    "accessor": 'def accessor(self):\n    """Return the only value."""\n    return self.x\n',
    "commented": 'def commented(self):\n    """Return the other value."""\n    # a comment\n    return self.y\n',
    "__call__": 'def __call__(self):\n    """Call the special method."""\n' + BODY,
    "test_it": 'def test_it():\n    """Test the function well."""\n' + BODY,
    "binary": 'def binary():\n    b"""No docstring but bytes."""\n' + BODY,
    "formatted": 'def formatted(a):\n    f"""No docstring but {a} format."""\n' + BODY,
    "overloaded": '@typing.overload\ndef overloaded():\n    """One of many faces."""\n' + BODY,
    "set_x": '@x.setter\ndef set_x(self, x):\n    """Set the value of x."""\n' + BODY,
    "short": 'def short():\n    """A b c."""\n' + BODY,
    "two": 'def two():\n    """Internationalization internationally."""\n' + BODY,
    "endless": f'def endless():\n    """{"word " * 61}"""\n' + BODY,
    "field": 'def field():\n    """:param a: the only thing said"""\n' + BODY,
    "example": 'def example():\n    """>>> example() is not None\n    True"""\n' + BODY,
    "inline": 'def inline():\n    """Call it like >>> inline() is None."""\n' + BODY,
    "called": 'def called(a, b, c):\n    """called(a, b, c) -> int"""\n' + BODY,
    "surrogate": 'def surrogate():\n    """Not a character: \\ud800 here."""\n' + BODY,
    "second": 'def second():\n    """The first of two."""\n    """The second of two."""\n' + BODY,
    "repeated": 'def repeated():\n    """Say this twice over."""\n    # Say this twice over.\n' + BODY,
    "long": 'def long():\n    """Hold very many lines."""\n' + "    x = 1\n" * 500,
    "nothing": "def nothing():\n" + BODY,
}


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def function(name: str, docstring: str) -> str:
    return f'def {name}():\n    """{docstring}"""\n    x = {docstring.split()!r}\n    return x\n'


def packages(root: Path, sizes: dict[str, int], *, per_file: int = 10) -> Path:
    files = {
        f"{package}/m{i // per_file}.py": "".join(
            function(f"f{j}", f"Do thing {j} of {package}.") for j in range(i, min(i + per_file, size))
        )
        for package, size in sizes.items()
        for i in range(0, size, per_file)
    }
    return write(root, files)


@pytest.mark.parametrize("name", TRICKY)
def test_a_tricky_function_loses_its_docstring_and_nothing_else(tmp_path: Path, name: str) -> None:
    source, docstring, code = TRICKY[name]
    # the prefilter wants triple quotes somewhere
    write(tmp_path, {"pack/sub/module.py": '""""""\n' + source})
    frame = mine_functions([tmp_path])
    assert frame.rows() == [("pack", "pack/sub/module.py", name, docstring, code)]


def test_all_tricky_functions_of_one_file_come_out(tmp_path: Path) -> None:
    write(tmp_path, {"module.py": "\n".join(source for source, _, _ in TRICKY.values())})
    frame = mine_functions([tmp_path])
    assert {row[2:] for row in frame.rows()} == {(name, d, c) for name, (_, d, c) in TRICKY.items()}
    assert set(frame["package"]) == {"module"}
    assert frame.columns == ["package", "path", "name", "docstring", "code"]


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_line_ends_of_other_systems_are_lines(tmp_path: Path, newline: str) -> None:
    source, docstring, code = TRICKY["plain"]
    write(tmp_path, {"a.py": "\ufeff" + source.replace("\n", newline)})
    assert mine_functions([tmp_path]).rows() == [("a", "a.py", "plain", docstring, code)]


@pytest.mark.parametrize("name", REFUSED)
def test_a_function_without_a_usable_pair_is_left_out(tmp_path: Path, name: str) -> None:
    write(tmp_path, {"a.py": REFUSED[name] + "\n" + function("kept", "Be the one that stays.")})
    assert mine_functions([tmp_path])["name"].to_list() == ["kept"]


def test_files_that_do_not_decode_or_parse_are_skipped_in_silence(tmp_path: Path) -> None:
    good = function("f", "Stay in spite of the others.")
    files: dict[str, str | bytes] = {
        "good.py": good,
        "latin.py": function("g", "Größe ohne Angabe.").encode("latin-1"),
        "declared.py": b"# -*- coding: latin-1 -*-\n" + function("h", "Größe mit Angabe.").encode("latin-1"),
        "unknown.py": b"# -*- coding: klingon -*-\n" + good.encode(),
        "broken.py": "def f(:\n" + good,
        "null.py": good + "\0",
        "deep.py": good + "x = " + "(" * 5000 + ")" * 5000,
        "empty.py": "",
        "sparse.py": good + "#" * (python_code.SPARSE + 1),
    }
    write(tmp_path, files)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        frame = mine_functions([tmp_path, tmp_path / "missing"])
    assert not said
    assert frame.select("path", "docstring").rows() == [
        ("declared.py", "Größe mit Angabe."),
        ("good.py", "Stay in spite of the others."),
    ]


def test_tests_copies_and_what_cannot_be_imported_are_skipped(tmp_path: Path) -> None:
    skipped = ["test", "p/tests", "idlelib", "lib2to3", "site-packages/q", "p/_vendor/q", "p/vendored", "s/_distutils"]
    skipped += ["p/__pycache__", ".venv/lib", "p-1.0.dist-info"]
    paths = [f"{folder}/m.py" for folder in skipped] + ["p/test_m.py", "p/m_test.py", "p/conftest.py", "p/a-b.py"]
    files: dict[str, str | bytes] = {
        path: function(f"f{i}", f"Do thing {i} of many.") for i, path in enumerate([*paths, "_p/testing.py"])
    }
    frame = mine_functions([write(tmp_path, files)])
    assert frame.select("package", "path").rows() == [("_p", "_p/testing.py")]


def test_nothing_is_imported(tmp_path: Path) -> None:
    root = write(tmp_path, {"a.py": "raise SystemExit\n" + function("f", "Stand below a raise.")})
    assert len(mine_functions([root])) == 1


def test_no_docstring_and_no_code_comes_twice_in_different_packages(tmp_path: Path) -> None:
    code = 'def f(a):\n    """{}"""\n    b = [a, {}]\n    return b\n'
    files: dict[str, str | bytes] = {
        "a/m.py": code.format("Make a list of it.", 1),
        "b/m.py": code.format("Make a list of it.", 2),  # the docstring again
        "c/m.py": code.format("make a list of it", 3),  # but for case and the full stop
        "d/m.py": code.format("Quite another sentence.", 1),  # the code again
        "e/m.py": code.format("A third sentence now.", 1).replace("[a, 1]", "[ a,1 ]"),  # but for whitespace
        "f/m.py": code.format("The fourth, all new.", 4),
    }
    write(tmp_path, files)
    for seed in range(5):
        frame = mine_functions([tmp_path], seed=seed)
        assert frame["docstring"].str.to_lowercase().str.strip_chars(".").is_unique().all()
        assert frame["code"].str.replace_all(r"\s", "").is_unique().all()
        assert "f" in frame["package"].to_list()
        assert 2 <= len(frame) <= 4


def test_the_seed_and_the_tree_decide_everything(tmp_path: Path) -> None:
    sizes = {"a": 40, "b": 40, "c": 3}
    one, other = packages(tmp_path / "one", sizes), packages(tmp_path / "other", dict(reversed(sizes.items())))
    first = mine_functions([one], most=30, seed=1)
    assert first.equals(mine_functions([other], most=30, seed=1))
    assert first.equals(mine_functions([one, one], most=30, seed=1))
    assert not first.equals(mine_functions([one], most=30, seed=2))
    split = split_by_package(first, test=4, dev=2, seed=1)
    assert split.equals(split_by_package(first, test=4, dev=2, seed=1))


def test_the_seed_chooses_files_and_functions(tmp_path: Path) -> None:
    root = packages(tmp_path, {"a": 100})
    files = {tuple(mine_functions([root], most=30, seed=seed)["path"].unique().sort()) for seed in range(5)}
    assert len(files) > 1
    root = packages(tmp_path / "one", {"b": 10})
    functions = {tuple(mine_functions([root], per_package=3, seed=seed)["name"]) for seed in range(5)}
    assert len(functions) > 1


def test_a_large_package_leaves_room_for_small_ones(tmp_path: Path) -> None:
    root = packages(tmp_path, {"large": 300, "middle": 30, "small": 5})
    for seed in range(5):
        counts = dict(mine_functions([root], most=60, seed=seed)["package"].value_counts().iter_rows())
        assert counts["small"] == 5
        assert sum(counts.values()) == 60
        assert counts["middle"] >= 20
        assert counts["large"] >= 20
    capped = dict(mine_functions([root], per_package=7)["package"].value_counts().iter_rows())
    assert capped == {"large": 7, "middle": 7, "small": 5}


def test_a_turn_goes_to_the_package_of_which_the_least_was_read(tmp_path: Path) -> None:
    packages(tmp_path, {"many": 300})
    packages(tmp_path, {"few": 90}, per_file=30)
    for seed in range(5):
        counts = dict(mine_functions([tmp_path], most=100, seed=seed)["package"].value_counts().iter_rows())
        assert counts["few"] >= 50


def test_progress_rises_to_one(tmp_path: Path) -> None:
    shares: list[float] = []
    root = packages(tmp_path, {"a": 40, "b": 20})
    mine_functions([root, root / "a" / ".."], tick=shares.append)
    assert shares == sorted(shares)
    assert len(shares) == 6 + 1  # once a file, though the folder is named twice, and at the end
    assert min(shares) > 0
    assert shares[-1] == 1.0


def test_the_budget_ends_the_work(tmp_path: Path) -> None:
    root = packages(tmp_path, {"a": 100})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(python_code, "BUDGET", 2 * python_code.OPENING)
        assert len(mine_functions([root])) == 20


def test_the_cycle_collector_is_left_as_it_was(tmp_path: Path) -> None:
    def interrupt(share: float) -> None:
        assert not gc.isenabled()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine_functions([packages(tmp_path, {"a": 10})], tick=interrupt)
    assert gc.isenabled()


def test_no_pair_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=re.escape("functions with docstrings, got none in 0 files")):
        mine_functions([tmp_path / "missing"])
    write(tmp_path, {"a.py": "x = 1\n"})
    with pytest.raises(Refusal, match="none in 1 files"):
        mine_functions([tmp_path])


def made(sizes: dict[str, int]) -> pl.DataFrame:
    rows = [{"package": p, "path": f"{p}.py", "name": f"f{i}"} for p, n in sizes.items() for i in range(n)]
    return pl.DataFrame(rows)


def parts(frame: pl.DataFrame) -> dict[str, dict[str, int]]:
    counts = frame.group_by("split", "package").len()
    return {part: dict(counts.filter(split=part).drop("split").iter_rows()) for part in ("train", "dev", "test")}


@pytest.mark.parametrize("seed", range(5))
def test_no_package_stands_in_two_parts_and_sizes_hold(seed: int) -> None:
    sizes = {f"p{i}": 1 + 3 * i for i in range(80)} | {"giant": 3000}
    frame = made(sizes)
    split = split_by_package(frame, test=500, dev=90, seed=seed)
    found = parts(split)
    assert not found["train"].keys() & found["test"].keys()
    assert not found["train"].keys() & found["dev"].keys()
    assert not found["dev"].keys() & found["test"].keys()
    assert {part: sum(rows.values()) for part, rows in found.items() if part != "train"} == {"dev": 90, "test": 500}
    assert len(found["test"]) >= 20
    assert max(found["test"].values()) <= 26  # an equal share is 25
    assert all(found["train"][p] == sizes[p] for p in found["train"])
    assert found["train"]["giant"] == 3000
    places = {row: i for i, row in enumerate(frame.rows())}
    kept = [places[row] for row in split.drop("split").rows()]
    assert kept == sorted(set(kept))


def test_the_seed_chooses_packages_and_rows() -> None:
    frame = made({f"p{i}": 60 for i in range(100)})
    one, other = (split_by_package(frame, seed=seed) for seed in (0, 1))
    assert parts(one)["test"].keys() != parts(other)["test"].keys()
    assert sum(parts(one)["test"].values()) == 1000


def test_few_packages_still_leave_rows_to_train_on() -> None:
    found = parts(split_by_package(made({"a": 100, "b": 100, "c": 100}), test=1000, dev=300))
    assert {part: len(rows) for part, rows in found.items()} == {"train": 1, "dev": 1, "test": 1}
    assert parts(split_by_package(made({"a": 1, "b": 1, "c": 100})))["train"] == {"c": 100}
    found = parts(split_by_package(made(dict.fromkeys("abcdefghij", 1000)), test=1000, dev=300))
    assert len(found["train"]) == 6
    assert sum(found["test"].values()) == 1000
    assert max(found["test"].values()) - min(found["test"].values()) <= 1
    assert not parts(split_by_package(made(dict.fromkeys("abcdef", 10)), test=5, dev=0))["dev"]


def test_fewer_packages_than_parts_are_refused() -> None:
    with pytest.raises(Refusal, match="at least 3 packages"):
        split_by_package(made({"a": 10, "b": 10}))


def test_real_functions_parse_and_hold_their_docstring_no_more() -> None:
    frame = mine_functions(default_roots()[:1], most=2000)
    assert frame["docstring"].is_unique().all()
    assert frame["package"].n_unique() > 50
    for row in frame.sample(200, seed=0).iter_rows(named=True):
        with warnings.catch_warnings(action="ignore"):
            (node,) = ast.parse(row["code"]).body
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        assert ast.get_docstring(node) is None
        assert node.name == row["name"].rpartition(".")[2]
        assert row["docstring"] not in row["code"]
        assert row["docstring"] == " ".join(row["docstring"].split())
        assert (default_roots()[0] / row["path"]).is_file()
