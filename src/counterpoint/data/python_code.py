"""Pairs of (docstring, function) from the source files of the running interpreter: real data without a download.

Files are only read and parsed; nothing is ever imported or run.
"""

from __future__ import annotations

import ast
import gc
import heapq
import os
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from importlib.util import decode_source
from pathlib import Path
from typing import NamedTuple

import polars as pl

from counterpoint.errors import Refusal

COLUMNS = ("package", "path", "name", "docstring", "code")
SKIPPED = frozenset(
    {"__pycache__", "site-packages", "dist-packages", "test", "tests", "testsuite", "idlelib", "lib2to3", "turtledemo"}
    | {"_vendor", "vendor", "vendored", "_vendored", "extern", "externals", "third_party", "_distutils"}
)  # names of folders
TESTS = re.compile(r"(test|tests|conftest|test_.*|.*_test)\.py")
BUDGET = 40_000_000  # characters parsed in all: about 4 seconds on one core
OPENING = 1_500  # characters whose parsing takes as long as opening a file
LARGEST = 400_000  # characters in a file; larger ones are generated tables
SPARSE = 3_000  # characters a docstring; files with fewer docstrings take longer to parse than they give
LONGEST = 4_000  # characters of code in a pair
WORDS = (3, 60)  # fewest and most words of a docstring
SHORTEST = 15  # characters of a docstring
FEWEST_LINES = 2  # of a body; shorter ones are accessors and stubs, alike in all packages
HELD_OUT = 20  # packages in test, at least, where there are as many: resampling fewer says little
MOST_TEST, MOST_DEV = 0.3, 0.1  # of all rows stand in packages of test or dev; the rest is for training

# A line that ends the prose of a docstring: a field, a directive, an example, an underline, a section title.
FIELD = re.compile(
    r"\s*([:@](param|arg|type|returns?|rtype|raises?|keyword|ivar|var)\b|\.\. |>>>|[-=~]{3,}\s*$|"
    r"(args|arguments|parameters|params|returns?|yields|raises|examples?|notes?|usage)\s*:{0,2}\s*$)",
    re.IGNORECASE,
)
SIGNATURE = re.compile(r"[\w.]+\(.*\)(\s*(->|=).*)?")  # a docstring that only repeats how the function is called

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Pair(NamedTuple):
    """A function: its qualified name, the first paragraph of its docstring, and its code without the docstring."""

    name: str
    docstring: str
    code: str


class File(NamedTuple):
    """A source file and its path below the root, which is the same on every machine."""

    path: Path
    relative: str


def default_roots() -> list[Path]:
    """The folders of the standard library and of the installed packages of the running interpreter.

    >>> (default_roots()[0] / "ast.py").exists()
    True
    """
    return list(dict.fromkeys(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")))


def mine_functions(
    roots: Sequence[Path] | None = None,
    *,
    most: int = 20_000,
    per_package: int = 600,
    seed: int = 0,
    tick: Callable[[float], None] = lambda share: None,
) -> pl.DataFrame:
    """Pairs of a docstring and the function it describes, from installed Python packages.

    Packages take turns by how much of each was read, so small ones are read whole and large ones do not take all the
    time. A hash of the seed decides the order of files and of functions. No docstring and no code comes twice, where
    case of the docstring and whitespace do not count.

    Args:
        roots: folders that hold top-level packages and modules; by default those of the running interpreter.
        most: pairs in all.
        per_package: pairs of one top-level package.
        seed: of the choice of files and functions.
        tick: is told the share of the work that is done, from 0 to 1.

    Returns:
        A frame with package, path (below its root), name (qualified), docstring (first paragraph, on one line) and code
        (dedented, without the docstring).

    Raises:
        Refusal: not one pair was found.

    >>> mine_functions(default_roots()[:1], most=20).shape
    (20, 5)
    """
    roots = default_roots() if roots is None else roots
    files = _files_of(roots, seed)
    total = sum(map(len, files.values()))
    with _uncollected():
        rows = _take_turns(files, most=most, per_package=per_package, seed=seed, tick=tick)
    tick(1.0)
    if not rows:
        raise Refusal(
            "Python functions with docstrings",
            f"none in {total} files",
            where=", ".join(map(str, roots)),
            remedy="name folders that hold Python packages with their source",
        )
    return pl.DataFrame(sorted(rows), schema=dict.fromkeys(COLUMNS, pl.String), orient="row")


def split_by_package(frame: pl.DataFrame, *, test: int = 1000, dev: int = 300, seed: int = 0) -> pl.DataFrame:
    """Train, dev and test of mined functions, each with packages of its own.

    Test and dev take small packages, in an order that a hash of the seed decides, and larger ones only where those do
    not suffice. All packages of a part give alike many rows until it is full; what is left of them is dropped, since
    in train it would leak.

    Args:
        frame: pairs with package, path and name, as `mine_functions` returns them.
        test: rows of test, where the packages have as many.
        dev: rows of dev, likewise.
        seed: of the choice of packages and rows.

    Returns:
        The rows that are kept, in their order, with the column "split".

    Raises:
        Refusal: fewer packages than parts.

    >>> rows = [{"package": p, "path": f"{p}.py", "name": n} for p in "abcdef" for n in "xy"]
    >>> split_by_package(pl.DataFrame(rows), test=2, dev=1)["split"].value_counts().sort("split").rows()
    [('dev', 1), ('test', 2), ('train', 8)]
    """
    sizes = dict(frame["package"].value_counts().iter_rows())
    if len(sizes) < 3:
        raise Refusal(
            "functions of at least 3 packages, to keep train, dev and test apart",
            len(sizes),
            remedy="mine the standard library too, or raise the number of pairs",
        )
    places = [_rank(seed, path, name) for path, name in frame.select("path", "name").iter_rows()]
    frame = frame.with_row_index("row").with_columns(place=pl.Series(places, dtype=pl.Binary))
    parts = []
    for part, wanted, share in (("test", test, MOST_TEST), ("dev", dev, MOST_DEV)):
        chosen = _packages_for(wanted, sizes, most=share * len(frame), seed=seed)
        sizes = {package: size for package, size in sizes.items() if package not in chosen}
        rows = frame.filter(pl.col("package").is_in(chosen)).sort("place", "row")
        rows = rows.with_columns(turn=pl.int_range(pl.len()).over("package")).sort("turn", "place", "row").drop("turn")
        parts.append(rows.head(wanted).with_columns(split=pl.lit(part)))
    train = frame.filter(pl.col("package").is_in(list(sizes))).with_columns(split=pl.lit("train"))
    return pl.concat([train, *parts]).sort("row").drop("row", "place")


def _packages_for(wanted: int, sizes: Mapping[str, int], *, most: float, seed: int) -> list[str]:
    """Packages that give `wanted` rows together: those that fit whole in a random order, then ever larger ones."""
    fair = max(wanted // HELD_OUT, 1)
    order = sorted(sizes, key=lambda package: (max(sizes[package], fair), _rank(seed, package)))
    chosen: list[str] = []
    given = lost = 0
    for package in order[: len(order) // 2]:
        if given >= wanted or (chosen and lost + sizes[package] > most):
            break
        chosen.append(package)
        given, lost = given + min(sizes[package], fair), lost + sizes[package]
    return chosen


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the cycle collector: syntax trees have no cycles, and it takes a third of the time to look for them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _take_turns(
    files: dict[str, list[File]], *, most: int, per_package: int, seed: int, tick: Callable[[float], None]
) -> list[tuple[str, ...]]:
    """Rows from the files, always from the package of which the least was read; files are used up."""
    total, opened, spent = sum(map(len, files.values())), 0, 0
    turns = [(0, _rank(seed, package), package) for package in files]
    heapq.heapify(turns)
    rows: list[tuple[str, ...]] = []
    taken: Counter[str] = Counter()
    seen: set[str] = set()
    while turns and len(rows) < most and spent < BUDGET:
        read, place, package = heapq.heappop(turns)
        file = files[package].pop()
        source = _source_of(file.path)
        for pair in sorted(_pairs_of(source), key=lambda p: _rank(seed, file.relative, p.name)):
            keys = {pair.docstring.casefold().rstrip("."), "".join(pair.code.split())}
            if len(rows) < most and taken[package] < per_package and not keys & seen:
                seen |= keys
                taken[package] += 1
                rows.append((package, file.relative, *pair))
        opened, spent = opened + 1, spent + OPENING + len(source)
        if files[package] and taken[package] < per_package:
            heapq.heappush(turns, (read + OPENING + len(source), place, package))
        tick(min(1.0, max(opened / total, spent / BUDGET, len(rows) / most)))
    return rows


def _rank(seed: int, *words: str) -> bytes:
    """A place in an order that looks random and is the same on every machine."""
    return blake2b("\0".join((str(seed), *words)).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _files_of(roots: Sequence[Path], seed: int) -> dict[str, list[File]]:
    """The source files of each top-level package, to be popped from the end."""
    files: dict[str, list[File]] = {}
    for root in dict.fromkeys(Path(root).resolve() for root in roots):
        for folder, inside, names in os.walk(root):
            inside[:] = sorted(name for name in inside if name.isidentifier() and name not in SKIPPED)
            for name in sorted(names):
                if name.endswith(".py") and name[:-3].isidentifier() and not TESTS.fullmatch(name):
                    path = Path(folder, name)
                    relative = path.relative_to(root)
                    package = relative.parts[0].removesuffix(".py")
                    files.setdefault(package, []).append(File(path, relative.as_posix()))
    for found in files.values():
        found.sort(key=lambda file: _rank(seed, file.relative), reverse=True)
    return files


def _source_of(path: Path) -> str:
    """The text of a file; empty where there is nothing to find or it cannot be read."""
    try:
        content = path.read_bytes()
        docstrings = max(content.count(quotes) // 2 for quotes in (b'"""', b"'''"))
        if not docstrings or len(content) > min(LARGEST, SPARSE * docstrings):
            return ""
        return decode_source(content)
    except (OSError, SyntaxError, ValueError, LookupError):  # no permission, no such encoding, other bytes than it has
        return ""


def _parse(source: str) -> ast.Module | None:
    """The tree of a source, or None where it is not Python of this version."""
    with warnings.catch_warnings(action="ignore"):  # of escapes that will be errors one day
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: too deeply nested
            return None


def _pairs_of(source: str) -> Iterator[Pair]:
    tree = _parse(source) if source else None
    lines = source.split("\n")
    for name, node in _functions(tree, "") if tree else ():
        docstring = _prose(ast.get_docstring(node) or "")
        if docstring:
            code = _without_docstring(node, lines)
            if code and _complete(code) and docstring not in " ".join(code.split()):
                yield Pair(name, docstring, code)


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    """Functions and methods with their qualified names; one inside another function belongs to that one's code."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            if _wanted(child):
                yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.If | ast.Try | ast.TryStar | ast.With | ast.ExceptHandler):
            yield from _functions(child, prefix)


def _wanted(node: Function) -> bool:
    """Neither a special method nor a test, nor one of the many faces of a function or property."""
    if node.name.startswith("test") or (node.name.startswith("__") and node.name.endswith("__")):
        return False
    faces = {d.attr if isinstance(d, ast.Attribute) else getattr(d, "id", "") for d in node.decorator_list}
    return not faces & {"overload", "setter", "deleter"}


def _prose(docstring: str) -> str:
    """The first paragraph on one line; empty where it does not say in words what the function does."""
    lines: list[str] = []
    for line in docstring.strip().split("\n"):
        if not line.strip() or FIELD.match(line):
            break
        lines.append(line)
    words = " ".join(lines).split()
    text = " ".join(words)
    fits = WORDS[0] <= len(words) <= WORDS[1] and len(text) >= SHORTEST and text.isprintable()
    return text if fits and ">>>" not in text and not SIGNATURE.fullmatch(text) else ""


def _without_docstring(node: Function, lines: list[str]) -> str:
    """The dedented source of a function less the statement of its docstring; empty where little or much is left."""
    docstring = node.body[0]
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
    begin, end = docstring.lineno - 1, docstring.end_lineno or docstring.lineno
    before = _columns(lines[begin], None, docstring.col_offset)
    after = _columns(lines[end - 1], docstring.end_col_offset, None).strip().removeprefix(";").lstrip()
    body = lines[end : node.end_lineno]
    if before.strip() or after:
        body = [before + after, *body]
    else:
        while body and not body[0].strip():
            body = body[1:]
    written = sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in body)
    indent = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
    code = "\n".join(line.removeprefix(indent) for line in (*lines[first:begin], *body))
    return code if written >= FEWEST_LINES and len(code) <= LONGEST else ""


def _columns(line: str, start: int | None, stop: int | None) -> str:
    """A part of a line by the columns of a syntax tree, which count bytes."""
    return line.encode()[start:stop].decode()


def _complete(code: str) -> bool:
    """Whether a code is one function that parses and has no docstring, not even a second one."""
    tree = _parse(code)
    if tree is None or len(tree.body) != 1:
        return False
    node = tree.body[0]
    return isinstance(node, Function) and ast.get_docstring(node) is None
