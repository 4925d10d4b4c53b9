"""One run in stages: what to do is decided when a job is made; then before, train, after, in this order."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterpoint.data.batches import TextRows
from counterpoint.data.orders import used
from counterpoint.encoders.text import TextEncoder, autocast, embed
from counterpoint.encoders.text import load as load_encoder
from counterpoint.errors import Refusal
from counterpoint.evaluation.tasks import Measured, Retrieval
from counterpoint.evaluation.verdict import judge, value_of
from counterpoint.training.loop import History, Schedule, train
from counterpoint.training.machine import pick_device
from counterpoint.training.method import Method
from counterpoint.verbs import folder
from counterpoint.verbs.check import show_data, show_findings
from counterpoint.verbs.console import Screen
from counterpoint.verbs.orders import make_order, needs_tables, order_arguments, refuse_missing, tables_of
from counterpoint.verbs.plan import make_plan, show_plan
from counterpoint.verbs.prepare import prepare
from counterpoint.verbs.recipes import arguments_of, choose, function_of
from counterpoint.verbs.settings import Run
from counterpoint.verbs.tasks import corpus_texts, tasks


class Job:
    """One run in stages, in this order: `before`, `train`, `after`. `fit` and `demo` call them.

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
        order_arguments(run)  # refused before a model is loaded
        refuse_missing(run, self.prepared.samples)
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
        torch.manual_seed(run.seed)  # of what the recipe adds, such as a head
        self.rows = TextRows.of(self.prepared.split.part("train"))
        self.method = make_method(self.recipe, self.encoder, self.rows, arguments)
        batch = min(run.batch, len(self.rows))
        epoch = used(make_order(run, self.rows, batch=batch), len(self.rows))
        evaluated = 2 * self.task.texts() + (self.dev.texts() * (run.evaluations + 1) if self.dev else 0)
        why = self.choice.why if run.recipe == "auto" else "as you asked"
        self.plan = make_plan(
            run,
            self.prepared,
            self.encoder,
            self.method,
            self.rows,
            recipe=name,
            why=why,
            metric=self.choice.metric,
            arguments=arguments,
            evaluated=evaluated,
            epoch=epoch,
        )
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
        seconds = 60 * self.plan.minutes if self.plan.minutes else None
        schedule = Schedule(self.plan.steps, self.plan.lr, seconds, evaluations=self.run.evaluations)
        with self.screen.stage("training", total=1.0) as bar:
            self.history = train(
                self.method,
                self.rows.take,
                self._order,
                schedule,
                micro=self.run.micro,
                seed=self.run.seed,
                autocast=autocast(self.encoder.device.type, self.plan.precision),
                dev=self._dev_score if self.dev else None,
                tick=lambda n, progress, loss: bar(done=progress, note=f"step {n}, loss {loss:.3f}"),
            )
        h = self.history
        self.screen.say(f"  {len(h.loss)} steps in {h.seconds:.0f} s of training; kept step {h.best_step}", style="dim")
        return h

    def _order(self, epoch: int) -> Iterator[np.ndarray]:
        tables = tables_of(self.encoder, self.rows, precision=self.plan.precision) if needs_tables(self.run) else None
        return make_order(self.run, self.rows, batch=self.plan.batch, tables=tables)(epoch)

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
