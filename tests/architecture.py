"""Rules of the house that a machine can read: who imports whom, where state and row means may live."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "counterpoint"
LEAVES = {"errors", "bundled", "types", "papers", "_ops"}
ABOVE = {"data", "views", "encoders", "pairs", "objectives"}
MAY_IMPORT = {
    "errors": set(),
    "bundled": set(),
    "papers": set(),
    "interrupts": set(),
    "types": {"_ops"},
    "_ops": {"types"},
    **dict.fromkeys(ABOVE, LEAVES),
    **dict.fromkeys(("training", "evaluation", "inference"), LEAVES | ABOVE),
}
# A view of text names the rows it makes, and identity is made at the data border.
ALLOWED = {("views", "data"): {"counterpoint.data.identity"}}
EVERYTHING = {"recipes", "verbs", "cli", "testing", "__init__", "__main__"}


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.Module) -> Iterator[str]:
    """Every name of ours that a module imports, at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("counterpoint"))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("counterpoint"):
            deeper = node.module.count(".") == 0
            yield from (f"{node.module}.{a.name}" for a in node.names) if deeper else [node.module]


def broken_layers(path: Path, source: str) -> list[str]:
    """The imports of a module that its room may not make."""
    here = room(path)
    if here in EVERYTHING:
        return []
    assert here in MAY_IMPORT, f"{here} has no place in the layer law"
    found = []
    for name in imported(ast.parse(source)):
        there = name.split(".")[1]
        if there != here and there not in MAY_IMPORT[here] and name not in ALLOWED.get((here, there), set()):
            found.append(f"{here} imports {name}")
    return found


def test_rooms_import_only_what_lies_below_them() -> None:
    assert [line for path in modules() for line in broken_layers(path, path.read_text())] == []


def test_the_layer_law_can_be_broken() -> None:
    source = "def f():\n    from counterpoint.training.loop import train\n"
    assert broken_layers(PACKAGE / "objectives" / "x.py", source) == ["objectives imports counterpoint.training.loop"]


def test_recipes_are_functions() -> None:
    for path in (PACKAGE / "recipes").glob("*.py"):
        assert [n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ClassDef)] == []


def row_means(source: str) -> list[int]:
    """Lines that average: `.mean(` or `torch.mean(`."""
    calls = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    return [call.lineno for call in calls if call.func.attr == "mean"]


@pytest.mark.parametrize("name", ["objectives", "pairs", "recipes", "views"])
def test_no_mean_over_rows_outside_ops(name: str) -> None:
    assert [(p.name, line) for p in (PACKAGE / name).glob("*.py") for line in row_means(p.read_text())] == []
    assert row_means("loss = x.mean()") == [1]


def test_nothing_evaluates_text_or_unpickles() -> None:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("eval", "exec", "compile"), f"{path}:{node.lineno}"
            assert not (isinstance(node, ast.Name) and node.id == "pickle"), f"{path}:{node.lineno}"


def test_files_and_functions_stay_small() -> None:
    for path in modules():
        text = path.read_text()
        assert text.count("\n") <= 400, f"{path} is longer than 400 lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                size = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                assert size <= 60, f"{path}:{node.lineno} {node.name} has {size} lines"


def test_every_public_thing_says_what_it_is() -> None:
    for path in modules():
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{path} has no docstring"
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name} has no docstring"


@pytest.mark.parametrize("code", ["import counterpoint", "import counterpoint.cli", "import counterpoint.verbs.check",
    "import counterpoint.verbs.lists"])  # fmt: skip
def test_light_imports_leave_torch_alone(code: str) -> None:
    heavy = "torch transformers sentence_transformers polars scipy sklearn plotly"
    heavy = heavy if "verbs" not in code else "torch transformers sentence_transformers plotly"
    check = f"{code}; import sys; print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
