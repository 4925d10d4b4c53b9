"""Synonyms of WordNet, read from its own files where they are installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from counterpoint.errors import Refusal

PLACE = "/usr/share/wordnet"  # of Debian's package wordnet-base
KINDS = ("noun", "verb", "adj", "adv")


def wordnet(folder: str | Path = PLACE) -> Mapping[str, tuple[str, ...]]:
    """Words in lower case -> other words that share a meaning with them, in alphabetical order; no phrases.

    Args:
        folder: with data.noun, data.verb, data.adj and data.adv of WordNet 3.

    Raises:
        Refusal: for a folder without them.

    References:
        Miller 1995, WordNet: a lexical database for English; the files as in its manual page wndb(5).
    """
    files = [Path(folder) / f"data.{kind}" for kind in KINDS]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        remedy = "apt-get install wordnet-base, or name the folder of its files"
        raise Refusal("the files of WordNet", f"no file {missing}", remedy=remedy)
    found: dict[str, set[str]] = {}
    for file in files:
        for line in file.read_text(encoding="latin-1").splitlines():
            words = _members(line)
            for word in words:
                found.setdefault(word, set()).update(words)
    return {word: tuple(sorted(others - {word})) for word, others in found.items() if len(others) > 1}


def _members(line: str) -> set[str]:
    """The words of one meaning: after offset, file, kind and their number in hexadecimal, each followed by a number."""
    if line.startswith("  "):  # the licence, at the top of each file
        return set()
    fields = line.split(" ")
    members = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
    return {word.split("(")[0].lower() for word in members if "_" not in word}
