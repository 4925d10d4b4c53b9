"""Run every example on the real data it is about, and keep what it printed.

make proof NAME=examples DATA=path/to/data
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from counterpoint.training.machine import describe

HOME = Path(__file__).parents[1] / "examples"
FILES = {
    "code_search": "code_search/py_docstring_code.parquet",
    "hard_negatives": "debian_descriptions/packages_en.parquet",
    "few_shot_intents": "text_cls/banking77.tsv.gz",
    "translations": "parallel/multi30k_task1.tsv.gz",
    "near_duplicates": "debian_descriptions/packages_en.parquet",
}


def printed(name: str, path: Path) -> dict[str, object]:
    """What one example prints, and its seconds; a gzipped table is unpacked first."""
    with tempfile.TemporaryDirectory() as scratch:
        if path.suffix == ".gz":
            unpacked = Path(scratch) / path.stem
            unpacked.write_bytes(gzip.decompress(path.read_bytes()))
            path = unpacked
        started = time.monotonic()
        command = [sys.executable, str(HOME / f"{name}.py"), str(path)]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=True)
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    return {"example": name, "seconds": round(time.monotonic() - started, 1), "printed": lines}


def main() -> None:
    """All examples, one after another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(FILES), default=list(FILES))
    given = parser.parse_args()
    found = []
    for name in given.only:
        found.append(printed(name, given.data / FILES[name]))
        print(json.dumps(found[-1], indent=1), file=sys.stderr, flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False)
    report = {"schema": 1, "commit": commit.stdout.strip() or "unknown", "machine": describe(), "examples": found}
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
