"""`fit`: from data to a trained model, a verdict, and a folder that holds all of it."""

from __future__ import annotations

import platform
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from counterpoint.data.batches import TextRows
from counterpoint.encoders.folder import save
from counterpoint.encoders.text import TextEncoder, autocast, embed
from counterpoint.encoders.text import load as load_encoder
from counterpoint.errors import Refusal
from counterpoint.evaluation.tasks import Measured, Retrieval
from counterpoint.evaluation.verdict import BETTER, judge, value_of
from counterpoint.training.loop import History, Schedule, train
from counterpoint.training.machine import describe, peak_memory, pick_device
from counterpoint.training.method import Method
from counterpoint.verbs import folder, story
from counterpoint.verbs.check import show_data, show_findings
from counterpoint.verbs.console import Screen
from counterpoint.verbs.plan import make_plan, show_plan
from counterpoint.verbs.prepare import prepare
from counterpoint.verbs.recipes import arguments_of, choose, function_of
from counterpoint.verbs.settings import Run
from counterpoint.verbs.tasks import corpus_texts, tasks

VERSIONS = ("counterpoint", "torch", "transformers", "sentence-transformers", "polars", "numpy")


@dataclass(frozen=True)
class Trained:
    """A finished run: its folder and what it says of itself."""

    path: Path
    metrics: dict[str, Any]

    @property
    def verdict(self) -> str:
        """better, no difference shown, or worse."""
        return self.metrics["verdict"]


class Job:
    """One run in stages, in this order: `before`, `train`, `after`, `write`. `fit` and `demo` call them.

    Args:
        data: what to train on.
        run: the settings.
        screen: where progress goes.
        corpus: texts that the test ranks against, over those of `run.corpus`.
    """

    def __init__(self, data: object, run: Run, screen: Screen, corpus: Sequence[str] | None = None) -> None:
        self.run, self.screen = run, screen
        function = None if run.recipe == "auto" else function_of(run.recipe)
        with screen.stage("reading and checking data"):
            self.prepared = prepare(data, run)
        name, self.choice = choose(self.prepared.samples, run.recipe)
        self.recipe = function or function_of(name)
        arguments = arguments_of(self.recipe, run.settings)
        stem = Path(name.rpartition(":")[2]).name
        self.out = Path(run.out) if run.out else folder.next_name(self.prepared.samples.source.split(".")[0], stem)
        folder.refuse_existing(self.out)
        corpus = corpus_texts(run.corpus, run.delimiter) if run.corpus else corpus
        self.task, self.dev = tasks(self.prepared, self.choice, corpus, seed=run.seed)
        device = pick_device(run.device)
        with screen.stage("loading the model"):
            self.encoder = load_encoder(
                run.model,
                prompts=run.prompts,
                lengths=run.lengths,
                device=device,
                trust_remote_code=run.trust_remote_code,
            )
        if run.dropout is not None:
            self.encoder.set_dropout(run.dropout)
        show_data(self.prepared.samples, screen)
        show_findings(self.prepared.findings, screen, run.allow)
        evaluated = 2 * self.task.texts() + (self.dev.texts() * (run.evaluations + 1) if self.dev else 0)
        why = self.choice.why if run.recipe == "auto" else "as you asked"
        self.plan = make_plan(
            run, self.prepared, self.encoder, recipe=name, why=why, metric=self.choice.metric, arguments=arguments,
            evaluated=evaluated,
        )  # fmt: skip
        show_plan(self.plan, self.prepared, self.task.sizes(), str(self.out), screen)
        self.lexical: Measured | None = None

    def measure(self, stage: str) -> Measured:
        """The test task on the model as it is now."""
        with self.screen.stage(stage, total=self.task.texts()) as tick:
            return self.task.measure(
                lambda texts, role: embed(self.encoder, texts, role, precision=self.plan.precision, tick=tick)
            )

    def before(self) -> Measured:
        """What you had: the given model, and BM25 beside it where there is something to retrieve."""
        if isinstance(self.task, Retrieval) and "positive" in self.choice.roles:
            with self.screen.stage("measuring BM25"):
                self.lexical = self.task.lexical()
        self.measured_before = self.measure("measuring what you had")
        return self.measured_before

    def train(self) -> History:
        """Train; the weights of the step that was best on dev stay."""
        torch.manual_seed(self.run.seed)
        rows = TextRows.of(self.prepared.split.part("train"))
        method = make_method(self.recipe, self.encoder, rows, self.plan.arguments)
        seconds = 60 * self.plan.minutes if self.plan.minutes else None
        schedule = Schedule(self.plan.steps, self.plan.lr, seconds, evaluations=self.run.evaluations)
        with self.screen.stage("training", total=1.0) as bar:
            self.history = train(
                method,
                rows.take,
                len(rows),
                schedule,
                batch=self.plan.batch,
                seed=self.run.seed,
                autocast=autocast(self.encoder.device.type, self.plan.precision),
                dev=self._dev_score if self.dev else None,
                tick=lambda n, progress, loss: bar(done=progress, note=f"step {n}, loss {loss:.3f}"),
            )
        h = self.history
        self.screen.say(f"  {len(h.loss)} steps in {h.seconds:.0f} s of training; kept step {h.best_step}", style="dim")
        return h

    def _dev_score(self) -> float:
        assert self.dev is not None
        measured = self.dev.measure(lambda texts, role: embed(self.encoder, texts, role, precision=self.plan.precision))
        return value_of(measured.values[self.dev.metric])

    def after(self) -> dict[str, Any]:
        """The same questions to the trained model, and the verdict."""
        self.encoder.to(self.encoder.stored).float()  # as the weights will be saved
        self.measured_after = self.measure("measuring the trained model")
        self.metrics = judge(
            self.measured_before, self.measured_after, metric=self.choice.metric, unit=self.prepared.split.unit,
            lexical=self.lexical, seed=self.run.seed,
        )  # fmt: skip
        self.metrics["steps"] = len(self.history.loss)
        self.metrics["best_step"] = self.history.best_step
        self.metrics["dev"] = [[n, round(x, 6)] for n, x in self.history.dev]
        self.metrics["loss"] = [round(x, 6) for x in self.history.loss]
        return self.metrics

    def write(self, scratch: Path, searches: Sequence[dict[str, Any]] = ()) -> Trained:
        """Everything into the run's folder."""
        with self.screen.stage("writing the run"):
            save(self.encoder, scratch / "model")
            folder.write_json(scratch / "metrics.json", self.metrics)
            record = self.record()
            folder.write_json(scratch / "run.json", record)
            if self.measured_after.vectors is not None:
                story.write_corpus(scratch / "corpus.parquet", self.task, self.measured_after.vectors)
            cost = {
                "schema": 1,
                "seconds": {name: round(s, 2) for name, s in self.screen.seconds.items()},
                "training_seconds": round(self.history.seconds, 2),
                "processor_seconds": round(time.process_time(), 2),
                "steps_per_second": round(len(self.history.loss) / max(self.history.seconds, 1e-9), 4),
                "peak_memory_bytes": peak_memory(),
                "machine": describe(),
            }
            folder.write_json(scratch / "cost.json", cost)
            page = story.tell(self, record, cost, searches)
            (scratch / "report.html").write_text(page, encoding="utf-8")
        return Trained(self.out, self.metrics)

    def record(self) -> dict[str, Any]:
        """run.json: enough to repeat the run."""
        plan = {k: v for k, v in asdict(self.plan).items() if k != "token_counts"}
        samples = self.prepared.samples
        return {
            "schema": 1,
            "command": shlex.join(["counterpoint", *sys.argv[1:]])
            if sys.argv[0].endswith("counterpoint")
            else "counterpoint.fit(...)",
            "settings": asdict(self.run),
            **{
                k: plan[k]
                for k in ("recipe", "model", "device", "precision", "batch", "lr", "metric", "lengths", "negatives")
            },
            "recipe_why": plan["why"],
            "arguments": plan["arguments"],
            "seed": self.run.seed,
            "steps": len(self.history.loss),
            "best_step": self.history.best_step,
            "roles": dict(samples.columns),
            "unused": list(samples.unused),
            "rows": len(samples),
            "data": samples.source,
            "split": {
                "how": self.prepared.split.how,
                "unit": self.prepared.split.unit,
                "sizes": self.prepared.split.sizes,
            },
            "findings": [
                {"code": f.code, "level": f.level, "message": f.message, "count": f.count}
                for f in self.prepared.findings
            ],
            "prompts": self.encoder.prompts,
            "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONS}},
            "next": story.next_commands(self.out, corpus=self.measured_after.vectors is not None),
        }


def make_method(recipe: Callable, encoder: TextEncoder, rows: TextRows, arguments: Mapping[str, Any]) -> Method:
    """Call a recipe; what a user's own does wrong is said in one line.

    Raises:
        Refusal: a recipe of one's own that fails or returns something else.
    """
    ours = recipe.__module__.startswith("counterpoint.")
    try:
        method = recipe(encoder, rows, **arguments)
    except Refusal:
        raise
    except Exception as error:
        if ours:
            raise
        line = traceback.extract_tb(error.__traceback__)[-1]
        where = f"--recipe {recipe.__name__}, {line.filename}, line {line.lineno}"
        raise Refusal("a recipe that runs", f"{type(error).__name__}: {error}", where=where) from error
    if not isinstance(method, Method):
        raise Refusal("a recipe that returns a Method", type(method).__name__, where=f"--recipe {recipe.__name__}")
    return method


def fit(data: object, *, dry_run: bool = False, quiet: bool = False, **settings: Any) -> Trained | None:
    """Train an embedding model on data and prove whether it is better than what you had.

    Args:
        data: a csv, tsv, jsonl or parquet file; a polars or pandas frame; a `datasets.Dataset`; a list of dicts; a dict
            of columns.
        dry_run: print the plan and stop; returns None.
        quiet: print nothing.
        settings: the fields of `counterpoint.verbs.settings.Run`, such as recipe, model, out, steps, batch, lr, seed.

    Returns:
        The finished run: `path`, `metrics`, `verdict`.

    Raises:
        Refusal: for input that cannot be used; nothing is left behind.
    """
    job = Job(data, Run(**settings), Screen(quiet=quiet))
    if dry_run:
        return None
    with folder.writing(job.out, needed=room(job)) as scratch, out_of_memory(job):
        job.before()
        job.train()
        job.after()
        trained = job.write(scratch)
    show_verdict(trained, job.screen)
    return trained


def room(job: Job) -> int:
    """Bytes on disk that the run will need, with a fifth to spare: weights, corpus vectors, report."""
    weights = sum(p.numel() * p.element_size() for p in job.encoder.parameters())
    return int(1.2 * (weights + 2 * job.encoder.width * job.task.sizes()[1] + 6e6))


class out_of_memory:  # noqa: N801 - used as a statement
    """Turns a failed allocation into one line with what would fit."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __enter__(self) -> None:
        """Nothing to do before."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        failed = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
        failed |= isinstance(error, RuntimeError) and (
            "can't allocate memory" in str(error) or "out of memory" in str(error)
        )
        if failed:
            batch = self.job.plan.batch
            remedy = f"--batch {max(2, batch // 2)} takes about half" if batch > 2 else "use a smaller model"
            raise Refusal(
                f"memory for a batch of {batch}", "none left", where=f"--batch {batch}", remedy=remedy
            ) from error


def show_verdict(trained: Trained, screen: Screen) -> None:
    """One verdict, the numbers behind it, and what to do next."""
    metrics = trained.metrics
    colour = {BETTER: "bold green"}.get(metrics["verdict"], "bold yellow")
    screen.say()
    screen.say(f"{metrics['verdict']}: {metrics['sentence']}", style=colour)
    for name, row in (("BM25", "bm25"), ("before", "before"), ("after", "after")):
        if row in metrics:
            screen.say(f"  {name:<7}" + "  ".join(f"{m} {v['value']:.3f}" for m, v in metrics[row].items()))
    screen.say(f"  {metrics['queries']:,} test queries, {metrics['candidates']:,} candidates")
    screen.say(f"report  {trained.path / 'report.html'}")
    for line in folder.read_json(trained.path / "run.json")["next"]:
        screen.say(f"next    {line}")
