"""Several data files as one table that knows which row came from which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from counterpoint.data.roles import Samples, listed
from counterpoint.errors import Refusal

FILES = 3  # that a name for all of them spells out


def stem_of(path: Path) -> str:
    """The name of a file without its endings.

    >>> stem_of(Path("data/clicks.csv.gz"))
    'clicks'
    """
    name = path.name.removesuffix(".gz")
    return name.rpartition(".")[0] or name


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each file: its name without the ending, with as many folders before it as tell it from the others.

    Raises:
        Refusal: the same file twice.

    >>> names_of([Path("a/train.csv"), Path("b/train.csv"), Path("more.csv")])
    ['a/train', 'b/train', 'more']
    """
    resolved = [path.resolve() for path in paths]
    doubled = next((p for p, count in Counter(resolved).items() if count > 1), None)
    if doubled is not None:
        raise Refusal("different data files", f"'{paths[resolved.index(doubled)]}' twice", remedy="name it once; --source-weight "
            "makes its rows count more")  # fmt: skip
    names = [stem_of(path) for path in resolved]
    depth = 1
    while (again := {name for name, count in Counter(names).items() if count > 1}) and depth < 50:
        for i, path in enumerate(resolved):
            if names[i] in again and depth < len(path.parts) - 1:
                names[i] = "/".join([*path.parts[-1 - depth : -1], stem_of(path)])
        depth += 1
    return [path.name for path in resolved] if len(set(names)) < len(names) else names  # a.csv beside a.tsv


def together(parts: Sequence[Samples], names: Sequence[str]) -> Samples:
    """One table of several: the rows one file after another, numbered through, with the role "source".

    The source of a row is the name of its file, unless the files have a column for it.

    Args:
        parts: the files, their columns already in their roles; a role may have another column in each.
        names: of the files.

    Raises:
        Refusal: files with different roles, or a role with cells that cannot stand in one column.

    >>> from counterpoint.data.roles import assign
    >>> a, b = (assign(pl.DataFrame({c: [c], "doc": ["y"]})) for c in ("query", "question"))
    >>> together([a, b], ["a", "b"]).frame.select("row", "source").rows()
    [(0, 'a'), (1, 'b')]
    """
    first = parts[0]
    for part in parts[1:]:
        missing = [r for r in first.columns if not part.has(r)] or [r for r in part.columns if not first.has(r)]
        if missing:
            has, lacks = (first, part) if first.has(missing[0]) else (part, first)
            raise Refusal(
                "the same roles in all files",
                f"a {missing[0]} in {has.source} (column '{has.columns[missing[0]]}') and none in {lacks.source}",
                where=f"columns of {lacks.source}: {listed([*lacks.columns.values(), *lacks.unused])}",
                remedy=f"name its column with --{missing[0]}, or leave it out with --ignore '{has.columns[missing[0]]}'",
            )
    columns = {role: _column(role, parts) for role in first.columns}
    frames, start = [], 0
    for part, name in zip(parts, names, strict=True):
        frame = part.frame.with_columns(row=pl.col("row") + start)
        frames.append(frame if part.has("source") else frame.with_columns(source=pl.lit(name)))
        start += len(frame)
    unused = dict.fromkeys(column for part in parts for column in part.unused)
    label = " + ".join(part.source for part in parts[:FILES])
    label += f" and {len(parts) - FILES} more" if len(parts) > FILES else ""
    order = frames[0].columns
    frame = pl.concat([f.select(order) for f in frames], how="vertical_relaxed")
    return Samples(frame, {**columns, "source": columns.get("source", "the file")}, tuple(unused), label)


def _column(role: str, parts: Sequence[Samples]) -> str:
    """The column of a role, or its columns where files have different ones."""
    kinds = {part.frame[role].dtype for part in parts}
    if len(kinds) > 1 and not all(kind.is_numeric() for kind in kinds):
        came = " and ".join(f"{part.frame[role].dtype} in {part.source}" for part in parts[:FILES])
        raise Refusal(f"the same kind of {role} in all files", came)
    return " | ".join(dict.fromkeys(part.columns[role] for part in parts))
