"""`mine`: hard negatives for labelled pairs, written as an ordinary data file, and why the rest was left."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from counterpoint.data.batches import Rows, relation_of
from counterpoint.data.identity import content_ids
from counterpoint.data.lint import accept, clean
from counterpoint.data.mined import pool_of
from counterpoint.data.roles import Samples
from counterpoint.encoders.cross import CrossEncoder, is_cross_encoder, judge_pairs, load_cross
from counterpoint.encoders.text import TextEncoder, embed
from counterpoint.encoders.text import load as load_encoder
from counterpoint.errors import Refusal, closest
from counterpoint.pairs.limits import Mining
from counterpoint.pairs.mining import Judge, Mined, mine_negatives
from counterpoint.training.machine import pick_device, pick_precision
from counterpoint.types import Embeddings, Relation
from counterpoint.verbs import table_file
from counterpoint.verbs.check import show_data, show_findings
from counterpoint.verbs.console import Screen
from counterpoint.verbs.mined_report import Found, show_mined
from counterpoint.verbs.prepare import inspect
from counterpoint.verbs.settings import Run
from counterpoint.verbs.tasks import corpus_texts

CARRIED = ("weight", "id", "group", "split", "time")  # roles that mined rows keep


@dataclass(frozen=True)
class MinedData:
    """The data with negatives, and what was kept and left.

    Args:
        frame: anchor, positive, negative (lists), their scores, and the other roles of the data; `fit` takes it.
        path: the file that holds it, or None.
        report: counts: queries, candidates, kept, "per_query" (negatives -> queries), "dropped" (reason -> candidates).
    """

    frame: pl.DataFrame
    path: Path | None
    report: dict[str, Any]


def mine(
    model: str | Path,
    data: object,
    *,
    out: str | Path | None = None,
    filter: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> MinedData:
    """Find hard negatives for the queries of labelled pairs with a model, and write data that `fit` takes as they are.

    Candidates are all positives and given negatives of the data, and the texts of `corpus`. Where the data have a split
    column, the queries of a split are compared with the texts of the same split and of the corpus. Given negatives stay,
    and stand first.

    Args:
        model: finds the nearest: whatever `--model` of `fit` takes.
        data: whatever `fit` takes, with an anchor and a positive.
        out: a .parquet, .jsonl or .csv file that does not exist yet; None writes nothing.
        filter: a cross-encoder, or a second embedding model, that drops what it scores like a positive.
        quiet: print nothing.
        settings: the fields of `counterpoint.pairs.limits.Mining`, such as count, depth, skip, margin and
            relative_margin; and those fields of `Run` that say how data are read and texts encoded: roles, delimiter,
            match, allow, corpus, prompts, lengths, precision, device, trust_remote_code.

    Raises:
        Refusal: for input that cannot be used, or when nothing at all was found; nothing is left behind.

    >>> rows = [{"query": f"topic {i % 40}", "doc": f"about topic {i % 40} number {i}"} for i in range(80)]
    >>> found = mine("sentence-transformers/all-MiniLM-L6-v2", rows, count=2, relative_margin=0.2, quiet=True)
    >>> found.frame.columns[:3]
    ['anchor', 'positive', 'negative']
    """
    how, run = _settings(model, settings)
    path = None if out is None else table_file.place_of(out)
    screen = Screen(quiet=quiet)
    with screen.stage("reading and checking data"):
        samples, findings = inspect(data, run)
        if samples.items.kind != "text":
            raise Refusal("texts to mine", f"{samples.items.kind}s", where=samples.source)
        _refuse_roles(samples)
        accept(findings, run.allow, source=samples.source)
        usable = clean(samples)
        extra = corpus_texts(run.corpus, run.delimiter) if run.corpus else []
    show_data(samples, screen)
    show_findings(findings, screen, run.allow)
    finder = _Finder(run, how, screen, None if filter is None else str(filter))
    found = finder.find(usable, extra)
    if not any(len(f.mined.query) for f in found):
        reasons = {name: sum(f.mined.dropped[name] for f in found) for name in found[0].mined.dropped}
        most = max(reasons, key=lambda name: reasons[name])
        came = f"none; most candidates were dropped as: {most}"
        raise Refusal("at least one negative", came, where=samples.source, remedy="widen the limits or raise --depth")
    frame = _frame(usable, found)
    if path is not None:
        with screen.stage("writing the data"):
            table_file.write(frame, path)
    report = show_mined(found, how, screen, name=None if filter is None else Path(filter).name, path=path)
    return MinedData(frame, path, report)


def _settings(model: str | Path, given: Mapping[str, Any]) -> tuple[Mining, Run]:
    """The settings of both kinds; the seed is of the draws."""
    own = {f.name for f in fields(Mining)}
    others = ("roles", "delimiter", "match", "allow", "corpus", "prompts", "lengths", "precision", "device")
    allowed = {*own, *others, "trust_remote_code"}
    unknown = next((name for name in given if name not in allowed), None)
    if unknown is not None:
        raise Refusal("a setting of mine", f"'{unknown}'", remedy=closest(unknown, allowed))
    how = Mining(**{name: value for name, value in given.items() if name in own})
    return how, Run(model=str(model), **{name: value for name, value in given.items() if name not in own})


def _refuse_roles(samples: Samples) -> None:
    if not samples.has("positive"):
        came = f"roles {', '.join(samples.columns)}"
        remedy = "name the column of what belongs to the anchor with --positive COLUMN"
        raise Refusal("pairs to mine negatives for", came, where=samples.source, remedy=remedy)
    if samples.has("value"):
        column = samples.columns["value"]
        remedy = f"--ignore {column} takes every pair for a positive one"
        raise Refusal(
            "pairs that belong together", f"pairs with a value ('{column}')", where=samples.source, remedy=remedy
        )


class _Finder:
    """Models that are loaded once and asked for every split."""

    def __init__(self, run: Run, how: Mining, screen: Screen, filter_name: str | None) -> None:
        self.how, self.screen, self.filter = how, screen, None
        device = pick_device(run.device)
        self.precision = pick_precision(run.precision, device)
        options = {"device": device, "trust_remote_code": run.trust_remote_code}
        with screen.stage("loading the model"):
            self.encoder = load_encoder(run.model, prompts=run.prompts, lengths=run.lengths, **options)  # type: ignore[arg-type]
        if filter_name is not None:
            with screen.stage("loading the filter"):
                loader: Callable[..., CrossEncoder | TextEncoder] = (
                    load_cross if is_cross_encoder(filter_name) else load_encoder
                )
                self.filter = loader(filter_name, **options)

    def find(self, samples: Samples, extra: Sequence[str]) -> list[Found]:
        """Mine each split by itself, against what is known from all of them."""
        relation = relation_of(samples.frame.select(c for c in samples.frame.columns if c in TEXT_ROLES))
        parts = samples.frame.partition_by("split", maintain_order=True) if samples.has("split") else [samples.frame]
        return [self._of_part(part, relation, extra) for part in parts]

    def _of_part(self, frame: pl.DataFrame, relation: Relation, extra: Sequence[str]) -> Found:
        queries = list(dict.fromkeys(frame["anchor"]))
        pool = list(dict.fromkeys([*pool_of(Rows.of(frame)), *extra]))
        name = f" of {frame['split'][0]}" if "split" in frame.columns else ""
        sides: list[Embeddings] = []
        for texts, role, what in ((queries, "anchor", "queries"), (pool, "positive", "candidates")):
            with self.screen.stage(f"encoding {what}{name}", total=len(texts)) as tick:
                z = embed(self.encoder, texts, role, precision=self.precision, tick=tick)
            sides.append(Embeddings.of(z, id=content_ids(texts)))
        judge = self._judge(queries, pool, name)
        with self.screen.stage(f"mining{name}", total=len(queries)) as tick:
            mined = mine_negatives(
                sides[0], sides[1], relation, how=self.how, judge=judge and _told(judge, tick), tick=tick
            )
        return Found(frame, queries, pool, (sides[0].z, sides[1].z), mined)

    def _judge(self, queries: Sequence[str], pool: Sequence[str], name: str) -> Judge | None:
        """Places of pairs -> their scores by the filter."""
        model, precision = self.filter, self.precision
        if model is None:
            return None
        if isinstance(model, CrossEncoder):
            return lambda q, c: judge_pairs(
                model, [queries[i] for i in q.tolist()], [pool[i] for i in c.tolist()], precision=precision
            )
        with self.screen.stage(f"encoding by the filter{name}", total=len(queries) + len(pool)) as tick:
            a = embed(model, queries, "anchor", precision=precision, tick=tick)
            b = embed(model, pool, "positive", precision=precision, tick=tick)
        return lambda q, c: (a[q] * b[c]).sum(1)


TEXT_ROLES = ("anchor", "positive", "negative", "weight")


def _told(judge: Judge, tick: Callable[..., None]) -> Judge:
    """The judge, which tells how many pairs it was asked about."""
    asked = 0

    def telling(query: Tensor, candidate: Tensor) -> Tensor:
        nonlocal asked
        asked += len(query)
        tick(note=f"{asked:,} pairs through the filter")
        return judge(query, candidate)

    return telling


def _frame(samples: Samples, found: Sequence[Found]) -> pl.DataFrame:
    """Rows as they came, with negatives and scores."""
    parts = []
    for f in found:
        of, rows = _by_query(f.mined, len(f.queries)), f.frame
        query, place = {t: i for i, t in enumerate(f.queries)}, {t: i for i, t in enumerate(f.pool)}
        given = rows["negative"].to_list() if "negative" in rows.columns else [[]] * len(rows)
        mined = [of[query[text]] for text in rows["anchor"]]
        at = [[place[t] for t in texts] + [c for c, _ in own] for texts, own in zip(given, mined, strict=True)]
        columns: dict[str, Any] = {
            "anchor": rows["anchor"],
            "positive": rows["positive"],
            "negative": [[f.pool[c] for c in own] for own in at],
            "positive_cosine": _cosines(f, rows, [[place[t] for t in texts] for texts in rows["positive"].to_list()]),
            "negative_cosine": _cosines(f, rows, at),
        }
        if f.mined.judged is not None:
            pairs = zip(given, mined, strict=True)
            columns["negative_filter"] = [[None] * len(texts) + [s for _, s in own] for texts, own in pairs]
        columns |= {role: rows[role] for role in CARRIED if samples.has(role)}
        lists = {"positive": pl.String, "negative": pl.String} | dict.fromkeys(
            ("positive_cosine", "negative_cosine", "negative_filter"), pl.Float64
        )
        parts.append(
            pl.DataFrame(
                columns, schema_overrides={k: pl.List(v) for k, v in lists.items() if k in columns}
            ).with_columns(rows["row"])
        )
    return pl.concat(parts).sort("row").drop("row")


def _by_query(mined: Mined, queries: int) -> list[list[tuple[int, float | None]]]:
    """The candidates of each query with their filter scores, the nearest first."""
    of: list[list[tuple[int, float | None]]] = [[] for _ in range(queries)]
    judged = [None] * len(mined.query) if mined.judged is None else [round(x, 4) for x in mined.judged.tolist()]
    for q, c, s in zip(mined.query.tolist(), mined.candidate.tolist(), judged, strict=True):
        of[q].append((c, s))
    return of


def _cosines(f: Found, rows: pl.DataFrame, at: list[list[int]]) -> list[list[float]]:
    """The cosine of each row's anchor with listed candidates."""
    query = {text: i for i, text in enumerate(f.queries)}
    out = []
    for text, own in zip(rows["anchor"], at, strict=True):
        score = f.vectors[1][torch.tensor(own, dtype=torch.int64)] @ f.vectors[0][query[text]]
        out.append([round(x, 4) for x in score.tolist() if not math.isnan(x)])
    return out
