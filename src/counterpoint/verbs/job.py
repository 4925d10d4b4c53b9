"""One run in stages: what to do is decided when a job is made; then before, train, after, in this order."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterpoint.data.arrays import Arrays
from counterpoint.data.batches import Rows
from counterpoint.data.orders import used
from counterpoint.encoders.adapt import lora, merge
from counterpoint.encoders.encoder import Encoder
from counterpoint.encoders.layers import freeze
from counterpoint.encoders.mlp import MLP
from counterpoint.encoders.text import TextEncoder, autocast, embed
from counterpoint.errors import Refusal
from counterpoint.evaluation.tasks import Measured, Retrieval
from counterpoint.evaluation.verdict import judge, value_of
from counterpoint.training import journal
from counterpoint.training.machine import pick_device
from counterpoint.training.method import Method
from counterpoint.training.processes import first, first_decides, start
from counterpoint.training.selection import label_free
from counterpoint.training.sharded import stacks_of
from counterpoint.training.state import History
from counterpoint.verbs.check import show_data, show_findings
from counterpoint.verbs.console import Screen
from counterpoint.verbs.feeds import feed_of
from counterpoint.verbs.kinds import RAW, Embed, is_new, load_encoder, principal_components, raw_features
from counterpoint.verbs.orders import make_order, order_arguments, refuse_missing
from counterpoint.verbs.others import judge_others, measure_others, others_of, texts_of
from counterpoint.verbs.plan import make_plan, show_plan
from counterpoint.verbs.prepare import prepare
from counterpoint.verbs.recipes import arguments_of, choose, function_of, reader
from counterpoint.verbs.settings import Run, layers_to_freeze
from counterpoint.verbs.stage import begun_of, out_of, train_stage
from counterpoint.verbs.tasks import corpus_texts, tasks

PROBED = 512  # training rows by which a step is chosen without labels: as many as in proofs/selection.py


class Job:
    """One run in stages, in this order: `before`, `train`, `after`. `fit` and `demo` call them.

    Args:
        data: what to train on.
        run: the settings.
        screen: where progress goes.
        corpus: texts that the test ranks against, over those of `run.corpus`.
    """

    def __init__(self, data: object, run: Run, screen: Screen, corpus: Sequence[str] | None = None) -> None:
        device = start(pick_device(run.device))
        self.screen = screen if first() else Screen(quiet=True)
        screen = self.screen
        function = None if run.recipe == "auto" else function_of(run.recipe)
        with screen.stage("reading and checking data"):
            self.prepared = first_decides(lambda: prepare(data, run)) or prepare(data, run, checked=True)
        self.run = run = run.for_kind(self.prepared.samples.items.kind)
        name, self.choice = choose(self.prepared.samples, run.recipe, mined=run.mine_every is not None)
        self.recipe = function or function_of(name)
        arguments = arguments_of(self.recipe, run.settings)
        order_arguments(run)  # refused before a model is loaded
        refuse_missing(run, self.prepared.samples)
        self.begun = begun_of(data, run)
        self.out = out_of(run, self.begun, self.prepared.samples.source, name)
        if run.tensorboard:
            journal.refuse_without_tensorboard()
        corpus = corpus_texts(run.corpus, run.delimiter) if run.corpus else corpus
        self.task, self.dev, self.items = tasks(self.prepared, self.choice, corpus, seed=run.asked_by)
        if run.patience is not None and self.dev is None:
            raise Refusal("a dev split for --patience", "too few rows for one", where=self.prepared.samples.source)
        self.others = others_of(run, self.items.kind, screen)
        self.rows = Rows.of(self.prepared.split.part("train"), self.items)
        with screen.stage("loading the model"):
            self.encoder = load_encoder(run, self.rows, device)
        adapt(self.encoder, run)
        show_data(self.prepared.samples, screen)
        show_findings(self.prepared.findings, screen, run.allow)
        torch.manual_seed(run.seed)  # of what the recipe adds, such as a head
        self.method = make_method(self.recipe, self.encoder, self.rows, arguments)
        if run.shard:
            stacks_of(self.method.modules)  # refused before anything is measured
        batch = min(run.batch, len(self.rows))
        epoch = used(make_order(run, self.rows, batch=batch), len(self.rows))
        evaluated = 2 * (self.task.texts() + texts_of(self.others))
        evaluated += self.dev.texts() * (run.evaluations + 1) if self.dev else 0
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
        if (read := reader(name)) is not None:
            said = f" warning  one pooled vector of each text is measured; what {name} trains is read by {read}"
            screen.say(said, style="bold yellow")
        self.beside: dict[str, Measured] = {}

    def measure(self, stage: str) -> Measured:
        """The test task on the model as it is now."""
        with self.screen.stage(stage, total=self.task.texts()) as tick:
            return self.task.measure(self._embedder(tick))

    def _embedder(self, tick: Callable[[int], None] = lambda _: None) -> Embed:
        """Keys of items into embeddings by the model as it is now."""
        return lambda keys, role: embed(
            self.encoder, self.items.take(keys), role, precision=self.plan.precision, tick=tick
        )

    def before(self) -> Measured:
        """What you had: the given model, and BM25 beside it where there are texts to retrieve; for an encoder of arrays that
        starts from nothing the numbers themselves, with its random weights and principal components beside them.
        """
        self.others_before = self._measure_others(trained=False)
        if isinstance(self.items, Arrays) and isinstance(self.encoder, MLP):
            return self._before_arrays(self.encoder, self.items)
        if isinstance(self.task, Retrieval) and "positive" in self.choice.roles:
            with self.screen.stage("measuring BM25"):
                self.beside["bm25"] = self.task.lexical()
        self.measured_before = self.measure("measuring what you had")
        return self.measured_before

    def _measure_others(self, *, trained: bool) -> dict[str, Measured]:
        """The main questions of other data."""
        precision = self.plan.precision
        return measure_others(self.others, self.encoder, self.run, self.screen, precision=precision, trained=trained)

    def _before_arrays(self, encoder: MLP, items: Arrays) -> Measured:
        with self.screen.stage("measuring the numbers"):
            raw = self.task.measure(raw_features(encoder, items))
            if (reduced := principal_components(encoder, self.rows, items, seed=self.run.asked_by)) is not None:
                self.beside["pca"] = self.task.measure(reduced)
        own = self.measure("measuring what you had")
        self.measured_before, other = (raw, "random") if is_new(self.run) else (own, "raw")
        self.beside[other] = own if other == "random" else raw
        return self.measured_before

    def train(self, scratch: Path, *, resumable: bool = True) -> History:
        """Train; the weights of the step that was best on dev stay."""
        feed = feed_of(self.run, self.rows, self.encoder, batch=self.plan.batch, precision=self.plan.precision)
        self.history, self.health = train_stage(self, feed, dev=self._to_raise(), scratch=scratch, resumable=resumable)
        return self.history

    def _to_raise(self) -> Callable[[], float] | None:
        """What chooses the step that is kept: dev, a score without labels of some training rows, or nothing."""
        if self.run.select in ("rankme", "neighbours"):
            some = np.random.default_rng(self.run.seed).permutation(len(self.rows))[:PROBED]
            precision = autocast(self.encoder.device.type, self.plan.precision)
            score: Any = self.run.select
            return label_free(score, self.method, self.rows.take(some), seed=self.run.seed, autocast=precision)
        return self._dev_score if self.dev and self.run.select == "dev" else None

    def _dev_score(self) -> float:
        assert self.dev is not None
        measured = self.dev.measure(self._embedder())
        return value_of(measured.values[self.dev.metric], self.dev.metric)

    def after(self) -> dict[str, Any]:
        """The same questions to the trained model, and the verdict."""
        merge(self.encoder)
        self.encoder.to(self.encoder.stored).float()  # as the weights will be saved
        self.measured_after = self.measure("measuring the trained model")
        self.metrics = judge(
            self.measured_before, self.measured_after, metric=self.choice.metric, unit=self.prepared.split.unit,
            beside=self.beside, seed=self.run.asked_by,
        )  # fmt: skip
        if self.others:
            answered = self.others_before, self._measure_others(trained=True)
            self.metrics["others"] = judge_others(self.others, *answered, seed=self.run.asked_by)
        if isinstance(self.items, Arrays):
            self.metrics |= {"items": "arrays", "had": RAW if is_new(self.run) else str(self.run.model)}
        self.metrics["steps"] = len(self.history.loss)
        self.metrics["best_step"] = self.history.best_step
        self.metrics["dev"] = [[n, round(x, 6)] for n, x in self.history.dev]
        self.metrics["loss"] = [round(x, 6) if math.isfinite(x) else None for x in self.history.loss]
        return self.metrics


def adapt(encoder: Encoder, run: Run) -> None:
    """What of the encoder trains, and with which dropout, as the settings say."""
    if run.dropout is not None:
        encoder.set_dropout(run.dropout)
    if run.lora is not None:
        if not isinstance(encoder, TextEncoder):
            raise Refusal("a model of texts for --lora", "one of arrays", remedy="it is small: train all of it")
        torch.manual_seed(run.seed)  # of the adapters
        lora(encoder, rank=run.lora)
    if (layers := layers_to_freeze(run.freeze)) is not None:
        freeze(encoder, layers)


def make_method(recipe: Callable, encoder: torch.nn.Module, rows: Rows, arguments: Mapping[str, Any]) -> Method:
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
