"""Contrastive losses, forward and backward, beside their peers: time, extra memory, share of the product rate."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from code_search import commit, load_json
from loss_table import median, table

SCHEMA = 1
LEAST = 64  # rows below which a method that does not fit is given up
STEP = 32  # rows by which the largest size that fits is found
FULL = 16384  # rows at which the other sizes are what they are called
LARGE, CORPUS = 131072, 100_000
WIDE = 8192  # rows of the larger product whose rate is measured


@dataclass(frozen=True)
class Section:
    """Methods that are compared; the first is what the others are divided by.

    Args:
        title: for people.
        methods: names in `loss_peers.METHODS`.
        rows: the size of the section from the size of the run.
        products: n m d operations that count as the work, of the method's n rows: 8 for a forward and a backward pass
            that makes the scores again, four times as many where both views stand on both sides.
        alike: whether all methods compute the same value.
    """

    title: str
    methods: tuple[str, ...]
    rows: Callable[[int], int] = lambda n: n
    products: int = 8
    alike: bool = True


SECTIONS: dict[str, Section] = {
    "symmetric": Section(
        "InfoNCE, both directions", ("ours-symmetric", "open-clip", "st-symmetric", "st-cached-1024", "st-cached-32")
    ),
    "forward": Section("InfoNCE, one direction", ("ours-forward", "st-forward", "info-nce-pytorch")),
    "ntxent": Section("NT-Xent, both views on both sides", ("ours-ntxent", "lightly"), products=32),
    "tiny": Section("InfoNCE, one direction, few rows", ("ours-forward", "pml-forward"), lambda n: min(n, 512)),
    "supcon": Section("SupCon, 100 classes, one set", ("ours-supcon", "pml-supcon")),
    "custom": Section("an objective of six lines", ("ours-custom", "dense-custom"), lambda n: max(1, n // 2)),
    "rules": Section(
        "pair rules",
        ("no-rule", "logsumexp", "identity", "listed", "labelled", "kernel", "two-products"),
        alike=False,
    ),
}
OTHERS = ("large", "neighbours")
PRECISIONS = ("fp32", "bf16")
CUBIC = ("pml-forward", "pml-ntxent")  # they hold every pair of pairs; the largest size that fits is looked for


@dataclass(frozen=True)
class Job:
    """What one process does."""

    kind: str
    methods: tuple[str, ...] = ()
    rows: int = 0
    width: int = 0
    precision: str = "fp32"
    seed: int = 0
    repeats: int = 1
    limit: int = 0  # bytes beside the inputs; 0: none
    corpus: int = 0
    alike: bool = True

    def cost(self) -> float:
        """A guess of seconds, for the time left; corrected by what has been seen."""
        pairs = {"neighbours": self.rows * self.corpus / 4}.get(self.kind, self.rows**2)
        each = sum(1 if "ours" in m or not self.alike else 8 if m.endswith("-32") else 4 for m in self.methods) or 1
        rounds = self.repeats + 2 if self.kind in ("time", "neighbours") else 1
        return 6 + rounds * each * 8 * pairs * self.width / (4e11 if self.precision == "fp32" else 1e12)


@dataclass
class Clock:
    """Guesses the time left from the jobs that are done."""

    planned: dict[Job, float]
    started: float = field(default_factory=time.monotonic)
    done: float = 0.0

    def say(self, job: Job) -> None:
        """One line before a job."""
        passed, ahead = time.monotonic() - self.started, sum(self.planned.values())
        left = ahead * passed / self.done if self.done > 30 else ahead
        what = " ".join([job.kind, *job.methods, *([job.precision, f"{job.rows} rows"] if job.rows else [])])
        print(f"[{passed / 60:5.1f} min, about {left / 60:.1f} left] {what}", file=sys.stderr, flush=True)

    def finish(self, job: Job) -> None:
        """After a job, planned or not."""
        self.planned.pop(job, None)
        self.done += job.cost()


class Failed(Exception):
    """A worker that did not answer; the text says why."""


def in_process(job: Job, clock: Clock) -> dict[str, Any]:
    """A job in a fresh process, which imports this checkout and inherits no setting of an allocator."""
    clock.say(job)
    clean = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD" and not k.startswith(("MALLOC_", "GLIBC_TUN"))}
    here = str(Path(__file__).parents[1] / "src")  # what is measured is the checkout whose commit is recorded
    clean["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [clean.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory(prefix="loss-") as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(asdict(job)))
        load = os.getloadavg()[0]
        worker = [sys.executable, str(Path(__file__).with_name("loss_measure.py")), str(path)]
        done = subprocess.run(worker, env=clean, stdout=sys.stderr, check=False)
        clock.finish(job)
        answer = path.with_name("answer.json")
        if done.returncode < 0 and job.limit:
            return {"fits": False, "why": f"ended by signal {-done.returncode}"}
        if done.returncode or not answer.exists():
            raise Failed(f"{job.kind} {' '.join(job.methods)} ended with {done.returncode}")
        found = load_json(answer)
    if "error" in found:
        raise Failed(found["error"])
    return found | {"load_before": round(load, 2)}


@dataclass
class Found:
    """What the run has seen so far."""

    results: list[dict[str, Any]] = field(default_factory=list)
    rates: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    largest: list[dict[str, Any]] = field(default_factory=list)
    large: list[dict[str, Any]] = field(default_factory=list)
    neighbours: dict[str, Any] | None = None

    def skip(self, section: str, job: Job, why: str) -> None:
        """Note what could not be measured."""
        print(f"    skipped: {why}", file=sys.stderr, flush=True)
        self.skipped.append(
            {"section": section, "methods": job.methods, "rows": job.rows, "precision": job.precision, "why": why}
        )


def planned(args: argparse.Namespace, limit: int) -> dict[str, list[Job]]:
    """The jobs that are known beforehand: the memory of each method, then the time of all of a section."""
    plan: dict[str, list[Job]] = {}
    common = {"width": args.width, "seed": args.seed, "repeats": args.repeats}
    for name in args.only:
        if name in SECTIONS:
            section = SECTIONS[name]
            base = Job("memory", (), section.rows(args.rows), limit=limit, alike=section.alike, **common)
            for precision in PRECISIONS:
                jobs = [replace(base, methods=(m,), precision=precision) for m in section.methods]
                time_all = replace(base, kind="time", methods=section.methods, precision=precision, limit=0)
                plan.setdefault(name, []).extend([*jobs, time_all])
    large, corpus = (max(1, whole * args.rows // FULL) for whole in (LARGE, CORPUS))
    if "large" in args.only:
        base = Job("large", ("ours-symmetric",), large, **common)
        plan["large"] = [replace(base, precision=precision) for precision in reversed(PRECISIONS)]
    if "neighbours" in args.only:
        plan["neighbours"] = [Job("neighbours", (), max(1, args.rows // 2), corpus=corpus, **common)]
    return plan


def fitting(name: str, job: Job, clock: Clock, found: Found) -> tuple[int, dict[str, Any]] | None:
    """The most rows, by halving, at which a method fits the memory, with what it took; None where it fails."""
    while True:
        try:
            answer = in_process(job, clock)
        except Failed as error:
            found.skip(name, job, str(error))
            return None
        if answer["fits"]:
            return job.rows, answer
        found.skip(name, job, f"it does not fit {job.limit / 1e9:.2g} GB beside its inputs")
        if job.rows // 2 < LEAST:
            return None
        job = replace(job, rows=job.rows // 2)


def run_section(name: str, jobs: Sequence[Job], clock: Clock, found: Found) -> None:
    """Memory of each method in a process of its own; then time, beside the first method at the same size."""
    section = SECTIONS[name]
    for precision in PRECISIONS:
        memory, whole = [j for j in jobs if j.precision == precision and j.kind == "memory"], jobs[-1]
        fits = {job.methods[0]: fitting(name, job, clock, found) for job in memory}
        took = {(m, got[0]): got[1] for m, got in fits.items() if got}
        first, *others = section.methods
        sizes = sorted({rows for _, rows in took}, reverse=True)
        for rows in sizes if fits[first] else ():
            methods = tuple(m for m in (first, *others) if m == first or (m, rows) in took)
            job = replace(whole, methods=methods, rows=rows, precision=precision)
            if (first, rows) not in took:
                at = fitting(name, replace(memory[0], rows=rows), clock, found)
                took |= {(first, rows): at[1]} if at else {}
            try:
                answer = in_process(job, clock)
            except Failed as error:
                found.skip(name, job, str(error))
                continue
            where = {"section": name, "precision": precision, "rows": rows, "load_before": answer["load_before"]}
            found.rates += [where | rate for rate in answer["rates"]]
            found.results += list(compared(section, where, answer, took, job.width))
        clock.planned = {j: c for j, c in clock.planned.items() if j not in jobs or j.precision != precision}


def compared(
    section: Section, where: Mapping[str, Any], answer: Mapping[str, Any], took: Mapping[Any, Any], width: int
) -> Iterator[dict[str, Any]]:
    """Each method's numbers, beside those of the first."""
    rates = {kind: max(median(r["per_second"]) for r in answer["rates"] if r["kind"] in kinds)
             for kind, kinds in {"torch": ("torch",), "fastest": ("torch", "onednn")}.items()}  # fmt: skip
    operations = section.products * where["rows"] ** 2 * width
    rows, first = where["rows"], section.methods[0]
    base, base_took = median(answer["methods"][first]["seconds"]), took.get((first, rows), {}).get("extra_bytes")
    for name, measured in answer["methods"].items():
        middle, extra = median(measured["seconds"]), took.get((name, rows), {}).get("extra_bytes")
        result = {**where, "method": name, **measured, "median_seconds": middle, "times_first": middle / base}
        result |= {"extra_bytes": extra, "slack_bytes": took.get((name, rows), {}).get("slack_bytes")}
        result["memory_times_first"] = extra / base_took if extra is not None and base_took else None
        if name != "two-products":  # one product more than the count says
            result["share"] = {kind: operations / middle / rate for kind, rate in rates.items()}
        yield result


def run_largest(args: argparse.Namespace, clock: Clock, found: Found) -> None:
    """The most rows at which a peer that holds every pair of pairs fits, in steps of 32."""
    limit = int(args.fit_gb * 1e9)
    for name in CUBIC:
        low, high = 0, 4096 // STEP
        job = Job("memory", (name,), width=args.width, seed=args.seed, limit=limit)
        while high - low > 1:
            middle = (low + high) // 2
            try:
                answer = in_process(replace(job, rows=middle * STEP), clock)
            except Failed as error:
                found.skip("tiny", job, str(error))
                break
            low, high = (middle, high) if answer["fits"] and answer["extra_bytes"] <= limit else (low, middle)
        found.largest.append({"method": name, "rows": low * STEP, "limit_bytes": limit})


def measure(args: argparse.Namespace, limit: int) -> tuple[Found, dict[str, Any]]:
    """Everything, section by section; a failure is noted and the rest goes on."""
    plan, found = planned(args, limit), Found()
    clock = Clock({job: job.cost() for jobs in plan.values() for job in jobs})
    machine = in_process(Job("describe"), clock)
    search = Job("memory", CUBIC)
    if "tiny" in plan and args.fit_gb > 0:
        clock.planned[search] = 16 * search.cost()
    for name, jobs in plan.items():
        if name in SECTIONS:
            run_section(name, jobs, clock, found)
            if name == "tiny" and args.fit_gb > 0:
                run_largest(args, clock, found)
                clock.planned.pop(search)
            continue
        for job in jobs:
            try:
                answer = in_process(job, clock)
            except Failed as error:
                found.skip(name, job, str(error))
                continue
            if name == "large":
                found.large.append({"precision": job.precision, "rows": job.rows, "width": job.width, **answer})
            else:
                found.neighbours = {"queries": job.rows, "corpus": job.corpus, "width": job.width, **answer}
    return found, machine


def memory_limit(given: float | None) -> int:
    """Bytes that a method may take: as asked, or most of what is free."""
    import psutil

    return int(given * 1e9 if given else 0.85 * psutil.virtual_memory().available)


def arguments() -> argparse.Namespace:
    """The command line."""
    names = (*SECTIONS, *OTHERS)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=FULL, help="pairs; the sizes of all sections follow it")
    parser.add_argument("--width", type=int, default=384, help="numbers of a row")
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed rounds after a warm one, the methods taking turns"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the rows")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--memory-gb", type=float, help="what a method may take; 85 %% of what is free")
    parser.add_argument(
        "--fit-gb", type=float, default=8.0, help="for the largest NTXentLoss that fits; 0: do not look"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the result here")
    args = parser.parse_args()
    if args.rows < LEAST:
        parser.error(f"wanted at least {LEAST} rows, got {args.rows}")
    if args.repeats < 1:
        parser.error(f"wanted at least 1 repeat, got {args.repeats}")
    return args


def main() -> None:
    """Measure, write the json, print the tables."""
    args = arguments()
    limit, started = memory_limit(args.memory_gb), time.monotonic()
    found, machine = measure(args, limit)
    whole = {
        "schema": SCHEMA,
        "benchmark": "loss",
        "seed": args.seed,
        "repeats": args.repeats,
        "commit": commit(),
        "settings": {"rows": args.rows, "width": args.width, "only": list(args.only), "limit_bytes": limit},
        "seconds": round(time.monotonic() - started, 1),
        **{
            name: machine[name]
            for name in ("machine", "versions", "threads", "environment", "constants", "score_errors")
        },
        **asdict(found),
    }
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
    print(table(whole))


if __name__ == "__main__":
    main()
