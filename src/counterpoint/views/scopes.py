"""What Python code says of its names: which may be renamed, which are bound for sure, which are free to take."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

Function = ast.FunctionDef | ast.AsyncFunctionDef
SILENT = frozenset({"staticmethod", "classmethod", "property"})  # decorators that do not read the names of arguments


class Assignment(NamedTuple):
    """The names that an assignment reads and writes."""

    reads: frozenset[str]
    writes: frozenset[str]


def fresh_names(tree: ast.AST, wanted: Sequence[str]) -> Iterator[str]:
    """Names that the code does not have: those wanted, then v0, v1...

    >>> names = fresh_names(ast.parse("v0 = total"), ["total", "sum_of"])
    >>> next(names), next(names)
    ('sum_of', 'v1')
    """
    used = set(_words(tree))
    yield from (name for name in dict.fromkeys(wanted) if name not in used and name.isidentifier())
    used |= set(wanted)
    yield from (name for name in map("v{}".format, count()) if name not in used)


def _words(tree: ast.AST) -> Iterator[str]:
    """Everything in the code that is, or may be, a name."""
    for node in ast.walk(tree):
        for _, value in ast.iter_fields(node):
            yield from (v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str))


def renamable(tree: ast.Module, table: symtable.SymbolTable) -> list[str]:
    """Names that are local to functions wherever they stand, in the order in which they come.

    A name of which one place is not known to a character (in an f-string, behind `as`, in a pattern) is none of them.

    >>> code = "import os\\ndef f(a, b):\\n    c = os.sep\\n    return [d for d in b if g(a=c)]"
    >>> renamable(ast.parse(code), symtable.symtable(code, "text", "exec"))
    ['b', 'c', 'd']
    """
    local: set[str] = set()
    others = set(_elsewhere(tree))
    for scope in _scopes(table):
        for symbol in scope.get_symbols():
            inside = scope.get_type() == "function" and (symbol.is_local() or symbol.is_free())
            captured = scope.get_type() == "class" and symbol.is_free()
            plain = not (symbol.is_imported() or symbol.is_namespace() or symbol.is_declared_global())
            (local if (inside or captured) and plain else others).add(symbol.get_name())
    order = ((n.lineno, n.col_offset, n.id if isinstance(n, ast.Name) else n.arg) for n in ast.walk(tree)
             if isinstance(n, ast.Name | ast.arg))  # fmt: skip
    return [n for n in dict.fromkeys(name for *_, name in sorted(order)) if n in local - others and n[:2] != "__"]


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _scopes(child)


def _elsewhere(tree: ast.Module) -> Iterator[str]:
    """Names that stand where the parser does not say at which character, and arguments that are named by a caller."""
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    by_any_name = any(k.arg is None for call in calls for k in call.keywords)
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr():
                yield from (n.id for n in ast.walk(node) if isinstance(n, ast.Name))
                yield from (n.arg for n in ast.walk(node) if isinstance(n, ast.arg))
            case ast.ExceptHandler(name=str(name)) | ast.keyword(arg=str(name)):
                yield name
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                yield from names
            case ast.FunctionDef() | ast.AsyncFunctionDef() if (
                not {ast.unparse(d) for d in node.decorator_list} <= SILENT
            ):
                yield from (a.arg for a in arguments_of(node))
            case ast.arguments():
                yield from (a.arg for a in (node.args + node.kwonlyargs if by_any_name else node.kwonlyargs))
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                yield name


def bound_in(function: Function) -> frozenset[str]:
    """The arguments of a function that keep a value for sure.

    >>> sorted(bound_in(ast.parse("def f(a, *b, c=1):\\n    del a").body[0]))
    ['b', 'c']
    """
    return frozenset(a.arg for a in arguments_of(function)) - lost_in(function)


def arguments_of(function: Function) -> list[ast.arg]:
    """All arguments of a function."""
    args = function.args
    return [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]


def written_by(node: ast.stmt) -> frozenset[str]:
    """The names that have a value after an assignment, whatever it was."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    return frozenset(t.id for t in targets if isinstance(t, ast.Name))


def lost_in(function: Function) -> set[str]:
    """Names that may lose their value: by `del`, at the end of an `except ... as`, or as somebody else's."""
    lost = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Del)}
    lost |= {n.name for n in ast.walk(function) if isinstance(n, ast.ExceptHandler) and n.name}
    return lost | {name for n in ast.walk(function) if isinstance(n, ast.Global | ast.Nonlocal) for name in n.names}


def plain_assignment(node: ast.stmt, bound: frozenset[str]) -> Assignment | None:
    """What an assignment reads and writes, where it can neither fail nor run any other code; else None.

    Args:
        node: a statement.
        bound: names that have a value.

    >>> plain_assignment(ast.parse("a = (x, 1)").body[0], frozenset("x"))
    Assignment(reads=frozenset({'x'}), writes=frozenset({'a'}))
    >>> plain_assignment(ast.parse("a = x.b").body[0], frozenset("x")) is None
    True
    """
    if not isinstance(node, ast.Assign) or not all(isinstance(t, ast.Name) for t in node.targets):
        return None
    parts = list(ast.walk(node.value))
    if not all(isinstance(n, ast.Constant | ast.Name | ast.Tuple | ast.List | ast.Load) for n in parts):
        return None
    reads = frozenset(n.id for n in parts if isinstance(n, ast.Name))
    return Assignment(reads, written_by(node)) if reads <= bound else None
