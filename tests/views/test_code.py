"""Edits of code keep what it does: originals and variants are run on the same inputs."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from counterpoint.views.code import masked_tokens, renamed, reordered_statements, with_dead_code, without_comments
from counterpoint.views.text import Edit, chained

# A function each, called f, and what it is called with.
FUNCTIONS: dict[str, tuple[str, list[tuple]]] = {
    "closure": ("""
def f(n):
    base = 3
    total = 0
    def add(k):
        nonlocal total
        total += k * base
        return total
    return [add(i) for i in range(n)]
""", [(4,), (0,)]),
    "comprehension": ("""
def f(xs, x=2):
    '''Twice, é.'''
    best = max(x for x in xs)  # ü
    ys = {x: [y for y in xs if y < x] for x in xs}
    return best, x, ys, (lambda x: x + best)(1)
""", [([3, 1, 2],), ([1], 5)]),
    "errors": ("""
def f(x):
    kind = None
    value = x
    try:
        value = 1 / x
    except ZeroDivisionError as error:
        kind = type(error).__name__
    else:
        kind = 'fine'
    finally:
        done = True
    return kind, value, done
""", [(2,), (0,)]),
    "f-strings": ("""
def f(name, width):
    line = f'{name!r:>{width}} {width=}'
    other = line.upper()
    return other
""", [("a", 5)]),
    "keywords": ("""
def f(a, b):
    def g(x, *, y=1, **rest):
        return x, y, sorted(rest)
    first = g(a, y=b, z=3)
    second = g(x=b)
    return first, second
""", [(1, 2)]),
    "class": ("""
def f(seed):
    step = seed
    class Walk:
        start = step
        def __init__(self, start):
            self.at = start + step
        def go(self, by):
            step = by
            self.at += step
            return self.at
    walk = Walk(2)
    return walk.go(3), Walk.start
""", [(5,)]),
    "unpacking": ("""
def f(pairs):
    out = []
    for i, (a, *b) in enumerate(pairs):
        while (n := len(b)) > 1:
            b = b[:-1]
        out.append((i, a, b, n))
    del pairs
    return out
""", [([(1, 2, 3), (4, 5)],)]),
    "match": ("""
def f(thing):
    found = 'none'
    match thing:
        case {'a': a, **rest}:
            found = a, rest
        case [x, *_]:
            found = x
        case other if other == 3:
            found = other
    return found
""", [({"a": 1, "b": 2},), ([7],), (3,), (4,)]),
    "globals": ("""
total = 1
def f(x):
    global total
    before = total
    total = x
    after = total
    return before, after
""", [(5,), (6,)]),
    "generator": ("""
def f(n):
    a = 0
    b = 1
    def fib():
        nonlocal a, b
        while a < n:
            yield a
            a, b = b, a + b
    return list(fib())
""", [(30,)]),
    "deleted": ("""
def f(x):
    a = x
    del a
    try:
        b = 1
        c = a
    except NameError:
        b = 2
    d = b
    e = 3
    return b, d, e
""", [(1,)]),
    "lost": ("""
def f(x):
    seen = x
    def g():
        kept = x
        del kept
        seen.append(1)
        gone = kept
        return gone
    try:
        return g()
    except UnboundLocalError:
        return seen
""", [([],)]),
    "imports": ("""
def f(x):
    import math as m
    from math import floor
    y = x
    z = m.pi
    return floor(y * z)
""", [(2.5,)]),
    "one line": ("""def f(x): y = x; z = 2; return (y,
    z)""", [(1,)]),
    "decorated": ("""
def f(x):
    import inspect
    def named(g):
        names = g.__name__
        return lambda v: g(**{'v': v})
    @named
    def h(v):
        return v + 1
    return h(x)
""", [(1,)]),
    "by name": ("""
def f(x):
    from functools import wraps
    def by(names):
        def wrap(g):
            return lambda *given: g(*given) + len(names)
        return wrap
    @by("v")
    def h(v):
        w = v
        return w + 1
    return h(x)
""", [(1,)]),
    "elif": ("""
def f(x):
    # sign
    a = 1
    # of x
    b = -1
    if x > 0:
        return a
    elif x < 0:
        return b
    return 0
""", [(3,), (-3,), (0,)]),
    "docstring alone": ("""
def f(x):
    '''Nothing.'''
""", [(1,)]),
    "strings": ("""
def f(x):
    text = '''# no comment
    a = 1'''
    b = x  # a comment
    return text, b
""", [(1,)]),
    "swaps": ("""
def f(a, b):
    c = a
    a = b
    b = c
    d = (a, b)
    e = d
    g = [a]
    h = g
    g = b
    return a, b, c, d, e, g, h
""", [(1, 2)]),
}  # fmt: skip
DRAWS = [[k / 7, (k * 3 % 7) / 7, (k * 5 % 7 + 0.5) / 7.5] for k in range(7)]
EDITS: dict[str, Edit] = {
    "renamed": renamed(), "half renamed": renamed(0.5, names=["total", "x", "value", "count"]),
    "reordered": reordered_statements(), "half reordered": reordered_statements(0.5), "comments": without_comments(),
    "dead": with_dead_code(), "more dead": with_dead_code(4),
    "all": chained(with_dead_code(2), renamed(0.8), without_comments(), reordered_statements()),
}  # fmt: skip


def outcome(code: str, name: str, inputs: list[tuple]) -> list[Any]:
    """What a function of some code gives for each input: a value, or the error it raises."""
    space: dict[str, Any] = {}
    exec(code, space)
    found = []
    for given in inputs:
        try:
            found.append(space[name](*given))
        except Exception as error:
            found.append((type(error), str(error)))
    return found


@pytest.mark.parametrize("edit", EDITS)
def test_variants_do_what_the_code_did(edit: str) -> None:
    differ = 0
    for code, inputs in FUNCTIONS.values():
        expected = outcome(code, "f", inputs)
        for draws in DRAWS:
            made = EDITS[edit](code, draws)
            assert outcome(made, "f", inputs) == expected, made
            differ += made != code
    assert differ >= 20


MODULES: dict[str, tuple[Callable[[dict], Any], ...]] = {
    "bisect": (lambda m: [m["bisect_left"]([1, 3, 3, 9], x) for x in range(10)],),
    "heapq": (lambda m: list(m["merge"]([1, 5], [2, 6], [0])), lambda m: m["nlargest"](3, [4, 1, 8, 2])),
    "textwrap": (lambda m: m["wrap"]("the quick brown fox-trot  jumps over it", 9), lambda m: m["dedent"]("  a\n   b\n  c")),
    "colorsys": (lambda m: m["rgb_to_hsv"](0.2, 0.4, 0.6),),
    "shlex": (lambda m: m["split"]("a 'b c' \"d\\\" e\" # f", True), lambda m: m["quote"]("it's")),
    "string": (lambda m: m["capwords"]("a bc d"), lambda m: m["Template"]("$a ${b}").substitute(a=1, b=2)),
    "posixpath": (lambda m: m["normpath"]("a//b/../c"), lambda m: m["relpath"]("/a/b", "/a/c/d"), lambda m: m["basename"]("a/b")),
    "difflib": (lambda m: m["get_close_matches"]("appel", ["ape", "apple", "peach"]),
        lambda m: list(m["unified_diff"](["a", "b"], ["a", "c"]))),
    "statistics": (lambda m: m["quantiles"]([1, 3, 4, 9, 12.5], n=3), lambda m: m["NormalDist"](1, 2).cdf(0.5)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_whole_modules_of_the_standard_library_go_on_working(name: str) -> None:
    code = Path(str(import_module(name).__file__)).read_text(encoding="utf-8")
    for edit in ("renamed", "reordered", "comments", "more dead", "all"):
        made = EDITS[edit](code, [0.31, 0.62, 0.05, 0.87])
        spaces: list[dict[str, Any]] = []
        for source in (code, made):
            space: dict[str, Any] = {"__name__": name}
            exec(source, space)
            spaces.append(space)
        for ask in MODULES[name]:
            assert ask(spaces[0]) == ask(spaces[1]), edit


def test_renaming_is_complete_consistent_and_of_locals_alone() -> None:
    code = "import os\n\ndef f(a, b, *c, d=1):\n    e = [g for g in b if g]\n    os.a = a\n    return h(a.e, e, d, c)\n"
    assert renamed()(code, [0.0]) == (
        "import os\n\ndef f(v0, v1, *v2, d=1):\n    v3 = [v4 for v4 in v1 if v4]\n    os.a = v0\n    return h(v0.e, v3, d, v2)\n"
    )
    assert renamed(names=["b", "os", "first", "h", "2x"])(code, [0.0]).startswith("import os\n\ndef f(first, v0, *v1")
    wide = 'def f(a):\n    return "\u00fc\u4e2d" + a'  # the parser counts bytes
    assert renamed()(wide, [0.0]) == wide.replace("(a)", "(v0)").replace("+ a", "+ v0")
    assert renamed(0.5)(code, [0.1, 0.9] * 3).startswith("import os\n\ndef f(v0, b, *v1")


def test_statements_that_touch_each_other_or_may_fail_stay() -> None:
    for body in ("a = x\n    b = a", "a = x\n    a = 1", "b = a\n    a = x", "a = y\n    b = 1", "a = x.y\n    b = 1",
                 "a = g()\n    b = g()", "a = x + 1\n    b = 2", "a += 1\n    b = 2", "a[0] = x\n    b = 2"):  # fmt: skip
        code = f"def f(x):\n    {body}\n    return b"
        assert reordered_statements()(code, [0.0]) == code, body
    assert reordered_statements()("class A:\n    b = 1\n    a = 2", [0.0]) == "class A:\n    b = 1\n    a = 2"
    swapped = reordered_statements()(
        "def f(x):\n    a = x  # one\n    # two\n    b = [1,\n        x]\n    c = 3\n", [0.0]
    )
    assert swapped == "def f(x):\n    b = [1,\n        x]\n    # two\n    a = x  # one\n    c = 3\n"


def test_comments_go_and_nothing_else() -> None:
    for code, _ in FUNCTIONS.values():
        made = without_comments()(code, [])
        kinds = [t.type for t in tokenize.generate_tokens(io.StringIO(made).readline)]
        assert tokenize.COMMENT not in kinds
        trees = [ast.parse(c) for c in (code, made)]
        for tree in trees:
            for node in ast.walk(tree):
                documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
                if documented:
                    node.body[:1] = [] if len(node.body) > 1 else [ast.Pass()]  # type: ignore[attr-defined]
        assert ast.dump(trees[0]) == ast.dump(trees[1])
    assert without_comments()("'''Of a module.'''\n# one\nx = 1  # two\n", []) == "x = 1\n"
    kept = "def f():\n    'Said.'\n    return f.__doc__"
    assert without_comments()(kept, []) == kept


def test_dead_code_is_there_and_is_new() -> None:
    code = "def f(x):\n    '''Said.'''\n    v0 = x\n    return v0"
    made = {with_dead_code()(code, [0.0, k / 4]) for k in range(4)}
    assert len(made) == 4
    for one in made:
        assert ast.get_docstring(ast.parse(one).body[0]) == "Said."  # type: ignore[arg-type]
        assert "v1" in one
    assert with_dead_code(0)(code, [0.5]) == code
    longer = with_dead_code(5)(code, [0.1, 0.3, 0.9, 0.4, 0.6])
    assert len({n.id for n in ast.walk(ast.parse(longer)) if isinstance(n, ast.Name)}) == 7  # x, v0 and five of its own
    with pytest.raises(ValueError, match="at least 0"):
        with_dead_code(-1)


def test_tokens_are_hidden_by_their_kind() -> None:
    code = "def f(x):  # of x\n    '''two\n    lines'''\n    return x + 10\n"
    everything = masked_tokens(1.0)(code, [0.0])
    assert everything == (
        "keyword identifierseparatoridentifierseparatorseparator  # of x\n    string\n"
        "    keyword identifier operator number\n"
    )
    assert masked_tokens(1.0, mask="_")(code, [0.0]).count("_") == 11
    assert masked_tokens(0.0)(code, [0.0]) == code
    kinds = {masked_tokens(1.0, one_kind=True)(code, [k / 12, 0.0]) for k in range(12)}
    assert len(kinds) == 6
    assert code.replace("10", "number") in kinds
    assert code.replace("+", "operator") in kinds
    some = masked_tokens(0.5, mask="_")(code, [0.1, 0.9] * 6)
    assert some == "_ f_x_:  # of x\n    _\n    return _ + _\n"
    with pytest.raises(ValueError, match="rate"):
        masked_tokens(1.5)


@pytest.mark.parametrize("edit", [*EDITS.values(), masked_tokens(1.0), masked_tokens(1.0, one_kind=True)])
def test_what_is_no_python_stays(edit: Edit) -> None:
    for text in ("", "How do I sort a list?", "def f(:", "x = (", "if x:\n  a\n b", "a\0b", "(" * 300):
        assert edit(text, [0.3, 0.6]) == text


@pytest.mark.parametrize("edit", ["renamed", "reordered", "dead"])
def test_code_that_looks_at_its_names_stays(edit: str) -> None:
    code = "def f(x):\n    a = 1\n    b = 2\n    return locals()"
    assert EDITS[edit](code, [0.0]) == code


def test_at_a_rate_of_zero_nothing_changes() -> None:
    for code, _ in FUNCTIONS.values():
        for edit in (renamed(0.0), reordered_statements(0.0), with_dead_code(0), masked_tokens(0.0)):
            assert edit(code, [0.0, 0.5]) == code
