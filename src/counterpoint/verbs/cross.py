"""`fit` for cross-encoders: the same stages, with pairs scored instead of texts embedded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from rich.table import Table
from torch import Tensor

from counterpoint._ops.world import count
from counterpoint.data.batches import Rows
from counterpoint.data.orders import shuffled
from counterpoint.encoders.cross import is_cross_encoder, judge_pairs, load_cross
from counterpoint.encoders.text import embed
from counterpoint.encoders.text import load as load_encoder
from counterpoint.errors import Refusal
from counterpoint.evaluation.rerank import Reranking, reranking
from counterpoint.evaluation.tasks import Measured
from counterpoint.evaluation.verdict import judge, value_of
from counterpoint.training.feed import plain
from counterpoint.training.machine import memory_bytes, pick_device, pick_precision
from counterpoint.training.processes import Split, first, first_decides, same, start
from counterpoint.training.sharded import stacks_of
from counterpoint.training.state import History
from counterpoint.verbs.check import show_data, show_findings
from counterpoint.verbs.console import Screen
from counterpoint.verbs.plan import COVERED, PADDING, SAMPLE, Plan, _steps
from counterpoint.verbs.prepare import Prepared, prepare
from counterpoint.verbs.recipes import arguments_of, choose, function_of
from counterpoint.verbs.settings import Run, flag_of
from counterpoint.verbs.stage import begun_of, out_of, train_stage

ROLE = "pair"  # of both texts together, in lengths
TEST, DEV = 30, 10  # candidates to rank; dev is asked several times while training


class CrossJob:
    """One run of a cross-encoder in stages, in this order: `before`, `train`, `after`; `fit` calls them.

    Args:
        data: what to train on.
        run: the settings; `model` is a cross-encoder, or a bi-encoder or backbone whose layers get a new head.
        screen: where progress goes.
    """

    def __init__(self, data: object, run: Run, screen: Screen) -> None:
        device = start(pick_device(run.device))
        self.screen = screen = screen if first() else Screen(quiet=True)
        _refuse_settings(run)
        recipe = function_of(run.recipe)
        with screen.stage("reading and checking data"):
            self.prepared = first_decides(lambda: prepare(data, run)) or prepare(data, run, checked=True)
        if (kind := self.prepared.samples.items.kind) != "text":
            raise Refusal("texts for a cross-encoder", f"{kind}s", where=self.prepared.samples.source)
        if run.evals:
            remedy = "compare the models on it by 'counterpoint evaluate MODEL DATA --against OTHER'"
            raise Refusal("a model that embeds for --eval", "a cross-encoder", where="--eval", remedy=remedy)
        self.run = run = run.for_kind(kind)
        self.model = str(run.model)
        name, self.choice = choose(self.prepared.samples, run.recipe)
        arguments = arguments_of(recipe, run.settings)
        self.begun = begun_of(data, run)
        self.out = out_of(run, self.begun, self.prepared.samples.source, name)
        with screen.stage("choosing candidates"):
            self.task = task_of(self.prepared, "test", size=TEST, seed=run.asked_by)
            self.dev = task_of(self.prepared, "dev", size=DEV, seed=run.asked_by)
        self.own = is_cross_encoder(self.model)
        torch.manual_seed(run.seed)  # of a new head
        with screen.stage("loading the model"):
            self.encoder = load_cross(
                self.model, device=device, longest=run.lengths.get(ROLE), trust_remote_code=run.trust_remote_code
            )
        if run.dropout is not None:
            self.encoder.set_dropout(run.dropout)
        show_data(self.prepared.samples, screen)
        show_findings(self.prepared.findings, screen, run.allow)
        self.rows = Rows.of(self.prepared.split.part("train"))
        self.method = recipe(self.encoder, self.rows, **arguments)
        if run.shard:
            stacks_of(self.method.modules)  # refused before anything is measured
        self.plan = self._plan(name, arguments)
        self._show_plan()
        self.beside: dict[str, Measured] = {}

    def _plan(self, name: str, arguments: dict[str, Any]) -> Plan:
        run, lr, batch = self.run, self.run.lr, min(self.run.batch, len(self.rows))
        assert lr is not None  # see Run.for_kind
        split = Split(batch, count(), run.micro).check()
        steps, epochs = _steps(run, len(self.rows) // batch)
        views = self.method.views(self.rows.take(np.arange(min(SAMPLE, len(self.rows)))), torch.Generator())
        pair = views["pair"]
        counts = self.encoder.count_tokens(pair["text"], pair["other"])
        if run.lengths.get(ROLE) is None:
            fits = 16 * int(np.ceil(np.quantile(counts, COVERED) / 16))
            self.encoder.longest = min(fits, self.encoder.longest)
        longest = self.encoder.longest
        kept = np.minimum(counts, longest) * PADDING
        rows = (run.micro or batch * len(counts) / min(SAMPLE, len(self.rows))) if len(counts) else 0
        memory = memory_bytes(self.encoder, int(rows * kept.mean()))
        lengths = {ROLE: {"tokens": longest, "cut": round(float(np.mean(np.array(counts) > longest)), 4)}}
        return Plan(
            name, "as you asked", arguments, self.task.metric, self.model, str(self.encoder.device),
            same(pick_precision(run.precision, str(self.encoder.device))), steps, run.minutes, epochs, batch, run.micro,
            str(split), int(arguments.get("negatives", 0)), lr, lengths, {ROLE: counts}, 0.0, memory, (),
            run.accumulate, run.schedule, "", "shuffled",
        )  # fmt: skip

    def _show_plan(self) -> None:
        plan, sizes = self.plan, self.prepared.split.sizes
        length = plan.lengths[ROLE]
        test = f"{len(self.task.queries):,} queries, {self.task.sizes()[1]} candidates each: {plan.metric}"
        starts = "its own scores" if self.own else "the cosine of the given model; the new head starts at random"
        span = (
            f"{plan.steps} steps, {plan.epochs:.2g} passes over the data"
            if plan.steps < 10**9
            else f"{plan.minutes} minutes"
        )
        table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2))
        for key, text in (
            ("training method", plan.recipe),
            ("model", f"{plan.model} on {plan.device}, {plan.precision}"),
            (
                "rows",
                f"train {sizes['train']:,}, dev {sizes['dev']:,}, test {sizes['test']:,}, split by {self.prepared.split.how}",
            ),
            ("batch", f"{plan.split} rows of 1 + {plan.negatives} pairs; {span}"),
            ("length", f"pair {length['tokens']} tokens ({length['cut']:.0%} of pairs cut)"),
            ("measured by", test),
            ("compared with", starts),
            ("memory", f"about {plan.expected_memory / 1e9:.1f} GB"),
            ("written to", str(self.out)),
        ):
            table.add_row(key, text.replace("[", r"\["))
        self.screen.console.print(table)

    def before(self) -> Measured:
        """What you had: the given cross-encoder, or the cosine of the given bi-encoder; and BM25 beside it."""
        with self.screen.stage("measuring BM25"):
            self.beside["bm25"] = self.task.lexical()
        if self.own:
            self.measured_before = self.measure("measuring what you had")
            return self.measured_before
        encoder = load_encoder(
            self.model, device=str(self.encoder.device), trust_remote_code=self.run.trust_remote_code
        )
        texts = len(self.task.queries) + len(self.task.candidates)
        with self.screen.stage("measuring what you had", total=texts) as tick:
            self.measured_before = self.task.by_cosine(
                lambda texts, role: embed(encoder, texts, role, precision=self.plan.precision, tick=tick)
            )
        return self.measured_before

    def measure(self, stage: str) -> Measured:
        """The test task by the cross-encoder as it is now."""
        with self.screen.stage(stage, total=self.task.texts()) as tick:
            return self.task.measure(self._score(tick))

    def _score(self, tick: Callable[[int], None] = lambda _: None) -> Callable[[Sequence[str], Sequence[str]], Tensor]:
        return lambda left, right: judge_pairs(self.encoder, left, right, precision=self.plan.precision, tick=tick)

    def train(self, scratch: Path, *, resumable: bool = True) -> History:
        """Train; the weights of the step that was best on dev stay."""
        feed = plain(self.rows.take, shuffled(len(self.rows), batch=self.plan.batch, seed=self.run.seed))
        self.history, self.health = train_stage(self, feed, dev=self._dev_score, scratch=scratch, resumable=resumable)
        return self.history

    def _dev_score(self) -> float:
        return value_of(self.dev.measure(self._score()).values[self.dev.metric], self.dev.metric)

    def after(self) -> dict[str, Any]:
        """The same questions to the trained model, and the verdict."""
        self.encoder.to(self.encoder.stored).float()  # as the weights will be saved
        self.measured_after = self.measure("measuring the trained model")
        self.metrics = judge(
            self.measured_before, self.measured_after, metric=self.task.metric, unit=self.prepared.split.unit,
            beside=self.beside, seed=self.run.asked_by,
        )  # fmt: skip
        self.metrics["steps"] = len(self.history.loss)
        self.metrics["best_step"] = self.history.best_step
        self.metrics["dev"] = [[n, round(x, 6)] for n, x in self.history.dev]
        self.metrics["loss"] = [round(x, 6) if math.isfinite(x) else None for x in self.history.loss]
        return self.metrics


def _refuse_settings(run: Run) -> None:
    """What a cross-encoder has no use for."""
    if run.prompts:
        raise Refusal("no prompts for a cross-encoder", ", ".join(run.prompts), where="--prompt")
    other = next((role for role in run.lengths if role != ROLE), None)
    if other is not None:
        remedy = f"a cross-encoder reads both texts together: --length {ROLE}=256"
        raise Refusal(f"a length for {ROLE}", f"'{other}'", where="--length", remedy=remedy)
    for name in ("mine_every", "lora", "freeze", "pooling"):
        if getattr(run, name) is not None:
            raise Refusal("no such setting for a cross-encoder", getattr(run, name), where=flag_of(name))
    if run.order != "shuffled":
        raise Refusal("batches in shuffled order for a cross-encoder", f"'{run.order}'", where="--order")
    if run.corpus:
        remedy = "a cross-encoder is measured on lists of candidates from the data"
        raise Refusal("no corpus for a cross-encoder", run.corpus, where="--corpus", remedy=remedy)


def task_of(prepared: Prepared, part: str, *, size: int, seed: int) -> Reranking:
    """Reranking on the rows of one split: candidates are all positives and given negatives of that split."""
    rows = prepared.split.part(part)
    lists = [c for c in ("positive", "negative") if c in rows.columns]
    known = rows.group_by("anchor", maintain_order=True).agg(
        *(pl.col(c).explode().drop_nulls().unique(maintain_order=True) for c in lists), pl.col("unit").first()
    )
    texts = pl.concat([known[c].explode().drop_nulls() for c in lists]).unique(maintain_order=True).to_list()
    place = {text: i for i, text in enumerate(texts)}
    own = {c: [[place[t] for t in cell] for cell in known[c].to_list()] for c in lists}
    negatives = own.get("negative", [[] for _ in range(len(known))])
    return reranking(
        known["anchor"].to_list(),
        own["positive"],
        negatives,
        texts,
        unit=known["unit"].to_numpy(),
        size=size,
        seed=seed,
    )
