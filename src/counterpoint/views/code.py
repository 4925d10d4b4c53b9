"""Edits of Python code that keep what it does, and one that hides tokens behind their kinds.

They are edits as those of `views.text`. Code is only parsed, never run. What is no Python stays as it is, and so does what an
edit would leave as no Python, and code that looks at names while it runs (`locals`, `exec`...).
"""

from __future__ import annotations

import ast
import io
import keyword
import symtable
import tokenize
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from counterpoint.views.scopes import Function, bound_in, fresh_names, lost_in, plain_assignment, renamable, written_by
from counterpoint.views.text import Edit, enough

REFLECTIVE = frozenset(
    {"locals", "globals", "vars", "dir", "eval", "exec", "_getframe", "currentframe", "f_locals", "__code__", "__doc__"}
    | {"signature", "getsource", "getfullargspec", "get_type_hints", "__annotations__", "__dict__"}
)
SEPARATORS = frozenset("()[]{},:;.@")
DEAD = ("{name} = 0", "if False:\n    {name} = 0", "for {name} in ():\n    pass", "while False:\n    {name} = 0")
CHANGED = (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError)  # all that the parsers may raise


class Piece(NamedTuple):
    """A part of a line, by characters, and what is to stand there."""

    line: int
    start: int
    end: int
    new: str


def _tree_of(text: str) -> ast.Module | None:
    """The code parsed; None where it is no Python, or Python whose lines are counted in another way."""
    if "\r" in text or "\f" in text:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that the code's authors chose
            return ast.parse(text)
    except CHANGED:
        return None


def _edit(change: Callable[[str, ast.Module, Sequence[float]], str], *, reflective: bool = False) -> Edit:
    """A change of Python as an edit of any text."""

    def edit(text: str, numbers: Sequence[float]) -> str:
        tree = _tree_of(text)
        if tree is None or (not reflective and _looks_at_names(tree)):
            return text
        made = change(text, tree, numbers)
        return made if _tree_of(made) is not None else text

    return edit


def _looks_at_names(tree: ast.Module) -> bool:
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    names |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    return bool(names & REFLECTIVE)


def _put(text: str, pieces: Sequence[Piece]) -> str:
    lines = text.split("\n")
    for piece in sorted(pieces, reverse=True):
        line = lines[piece.line]
        lines[piece.line] = line[: piece.start] + piece.new + line[piece.end :]
    return "\n".join(lines)


def renamed(rate: float = 1.0, *, names: Sequence[str] = ()) -> Edit:
    """Local variables and arguments get other names, everywhere alike.

    Only names that are local to functions wherever they stand are taken. Arguments stay that are taken by keyword in the
    text or may only be given so; who calls the code from elsewhere has to do it by position.

    Args:
        rate: how likely a name is changed, in [0, 1].
        names: what they may be called; those used already are left out. When they are used up: v0, v1...

    References:
        Liu et al. 2023, arXiv:2301.09072 (ContraBERT, its first operators).

    >>> print(renamed()("def add(a, b):\\n    c = a + b\\n    return c", [0.5]))
    def add(v0, v1):
        v2 = v0 + v1
        return v2
    """

    def change(text: str, tree: ast.Module, numbers: Sequence[float]) -> str:
        found = renamable(tree, symtable.symtable(text, "text", "exec"))
        fresh = fresh_names(tree, names)
        draws = enough(numbers, len(found))
        others = {name: next(fresh) for name, u in zip(found, draws, strict=True) if u < rate}
        places = (
            (node, node.id if isinstance(node, ast.Name) else node.arg)
            for node in ast.walk(tree)
            if isinstance(node, ast.Name | ast.arg)
        )
        lines = text.split("\n")
        return _put(text, [_piece(lines, node, name, others[name]) for node, name in places if name in others])

    return _edit(change)


def _piece(lines: Sequence[str], node: ast.Name | ast.arg, name: str, new: str) -> Piece:
    """Where a name stands: parsers count in bytes."""
    line = node.lineno - 1
    start = len(lines[line].encode()[: node.col_offset].decode())
    return Piece(line, start, start + len(name), new)


def reordered_statements(rate: float = 1.0) -> Edit:
    """Statements beside each other change places where that cannot make a difference.

    Taken are assignments in functions of constants and of names that are bound for sure, to names that the other statement
    neither reads nor writes: nothing else can be proven from the text alone.

    Args:
        rate: how likely two of them change places, in [0, 1].

    References:
        Liu et al. 2023, arXiv:2301.09072 (ContraBERT).

    >>> print(reordered_statements()("def f(x):\\n    a = 1\\n    b = x\\n    return a + b", [0.5]))
    def f(x):
        b = x
        a = 1
        return a + b
    """

    def change(text: str, tree: ast.Module, numbers: Sequence[float]) -> str:
        lines, pairs = text.split("\n"), list(_exchangeable(tree))
        last: ast.stmt | None = None
        for (a, b), u in zip(pairs, enough(numbers, len(pairs)), strict=True):
            if u < rate and a is not last and _alone(text, a) and _alone(text, b):
                above, below = (slice(n.lineno - 1, n.end_lineno) for n in (a, b))
                between = slice(above.stop, below.start)
                lines[above.start : below.stop] = lines[below] + lines[between] + lines[above]
                last = b
        return "\n".join(lines)

    return _edit(change)


def _exchangeable(tree: ast.Module) -> Iterator[tuple[ast.stmt, ast.stmt]]:
    """Neighbours of which neither reads or writes what the other writes, and neither can fail."""
    for function in _functions(tree):
        bound, lost = bound_in(function), lost_in(function)
        for a, b in pairwise(function.body):
            one = plain_assignment(a, bound)
            bound |= written_by(a) - lost
            two = plain_assignment(b, bound)
            if one and two and not (one.writes & (two.reads | two.writes)) and not (two.writes & one.reads):
                yield a, b


def _functions(tree: ast.Module) -> Iterator[Function]:
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def _alone(text: str, node: ast.stmt) -> bool:
    """Whether a statement has its lines for itself."""
    lines = text.split("\n")
    first, last = lines[node.lineno - 1].encode(), lines[(node.end_lineno or 0) - 1].encode()
    after = last[node.end_col_offset :].strip()
    return not first[: node.col_offset].strip() and (not after or after.startswith(b"#")) and not last.endswith(b"\\")


def without_comments() -> Edit:
    """Comments and docstrings go; a body of nothing else becomes `pass`.

    Code that reads a `__doc__` keeps its docstrings. The random numbers say nothing here.

    >>> print(without_comments()("def f(x):\\n    'Doubles.'\\n    return 2 * x  # twice", []))
    def f(x):
        return 2 * x
    """

    def change(text: str, tree: ast.Module, _numbers: Sequence[float]) -> str:
        lines, gone = text.split("\n"), set()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                line, start = token.start[0] - 1, token.start[1]
                lines[line] = lines[line][:start].rstrip()
                gone |= set() if lines[line] else {line}
        for body in [] if _looks_at_names(tree) else _documented(tree):
            node = body[0]
            if _alone(text, node):
                first, end = node.lineno - 1, node.end_lineno or 0
                gone |= set(range(first, end))
                if len(body) == 1:
                    lines[first] = lines[first][: len(lines[first]) - len(lines[first].lstrip())] + "pass"
                    gone.discard(first)
        return "\n".join(line for i, line in enumerate(lines) if i not in gone)

    return _edit(change, reflective=True)


def _documented(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node, clean=False) is not None:
            yield node.body


def with_dead_code(count: int = 1) -> Edit:
    """Statements that change nothing are put into functions: a variable that nobody reads, a branch that is never taken.

    Args:
        count: how many, at least 0.

    References:
        Liu et al. 2023, arXiv:2301.09072 (ContraBERT).

    >>> print(with_dead_code()("def f(x):\\n    return x", [0.0, 0.3]))
    def f(x):
        if False:
            v0 = 0
        return x
    """
    if count < 0:
        raise ValueError(f"wanted a number of statements of at least 0, got {count}")

    def change(text: str, tree: ast.Module, numbers: Sequence[float]) -> str:
        lines, names = text.split("\n"), fresh_names(tree, ())
        places = sorted({(n.lineno - 1, n.col_offset) for f in _functions(tree) for n in _starts(f, lines)})
        draws = enough(numbers, 2 * count)
        chosen = [(places[int(u * len(places))], v) for u, v in zip(*[iter(draws)] * 2, strict=True) if places]
        for (line, column), v in sorted(chosen, reverse=True):
            dead = DEAD[int(v * len(DEAD))].format(name=next(names)).split("\n")
            lines[line:line] = [lines[line][:column] + row for row in dead]
        return "\n".join(lines)

    return _edit(change)


def _starts(function: Function, lines: Sequence[str]) -> Iterator[ast.stmt]:
    """Statements of a body before which another may stand: not a docstring, not behind something in its line."""
    documented = ast.get_docstring(function, clean=False) is not None
    for node in function.body[documented:]:
        if not getattr(node, "decorator_list", ()) and not lines[node.lineno - 1].encode()[: node.col_offset].strip():
            yield node


def masked_tokens(rate: float, *, mask: str | None = None, one_kind: bool = False) -> Edit:
    """Each token is by chance replaced by the name of its kind, or by a mask: what is left is no Python any more.

    Kinds are keyword, identifier, number, string, operator and separator; comments and layout stay.

    Args:
        rate: how likely a token is replaced, in [0, 1].
        mask: stands for a token, such as "[MASK]"; None: the name of its kind does.
        one_kind: only tokens of one kind, which is drawn among those of the code, are replaced.

    References:
        Shi et al. 2023, arXiv:2204.03293 (CoCoSoDa): dynamic replacement and masking, and both of a specified type.

    >>> masked_tokens(0.5)("a = f(1)", [0.4, 0.6, 0.4, 0.9, 0.1, 0.9]), masked_tokens(1.0, one_kind=True)("x = y", [0.0])
    ('identifier = identifier(number)', 'identifier = identifier')
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"wanted a rate from 0 to 1, got {rate}")

    def edit(text: str, numbers: Sequence[float]) -> str:
        if _tree_of(text) is None:
            return text
        found = [(token, kind) for token in _tokens(text) if (kind := kind_of(token)) is not None]
        first, *draws = enough(numbers, 1 + len(found)) if one_kind else [0.0, *enough(numbers, len(found))]
        kinds = list(dict.fromkeys(kind for _, kind in found))
        only = kinds[int(first * len(kinds))] if one_kind and kinds else None
        taken = [(t, k) for (t, k), u in zip(found, draws, strict=True) if u < rate and only in (None, k)]
        return _over(text, [(token, kind if mask is None else mask) for token, kind in taken])

    return edit


def _tokens(text: str) -> list[tokenize.TokenInfo]:
    try:
        return list(tokenize.generate_tokens(io.StringIO(text).readline))
    except CHANGED:
        return []


def kind_of(token: tokenize.TokenInfo) -> str | None:
    """The kind of a token; None for comments and layout.

    >>> [kind_of(token) for token in tokenize.generate_tokens(io.StringIO("if x: 1").readline)][:4]
    ['keyword', 'identifier', 'separator', 'number']
    """
    if token.type == tokenize.NAME:
        return "keyword" if keyword.iskeyword(token.string) else "identifier"
    if token.type == tokenize.OP:
        return "separator" if token.string in SEPARATORS else "operator"
    return {tokenize.NUMBER: "number", tokenize.STRING: "string"}.get(token.type)


def _over(text: str, replaced: Sequence[tuple[tokenize.TokenInfo, str]]) -> str:
    """The text with other words over some tokens; a string may go over several lines."""
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    for token, new in reversed(replaced):
        (row, column), (last, end) = token.start, token.end
        text = text[: starts[row - 1] + column] + new + text[starts[last - 1] + end :]
    return text
