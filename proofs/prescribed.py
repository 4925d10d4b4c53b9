"""Whether the commands that `diagnose` prints help: models broken by training, then trained by what is prescribed.

Most models here are small nets behind the frozen all-MiniLM-L6-v2, which train in seconds through the same commands as
any other; length bias is one of texts, and there the upper layer of all-MiniLM-L6-v2 itself trains, briefly.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import broken
import polars as pl
import torch

import counterpoint
from counterpoint import cli
from counterpoint.verbs.diagnosis_report import Report

HERE = Path(__file__).parent
TRAIN = 600  # rows to train on; the other 600 of a set of pairs are held out for the readings
NET = "--lr 1e-3 --batch 64 --evaluations 1"
TEXT = "--lr 3e-4 --batch 32 --freeze 5 --evaluations 1 --precision fp32"
STEPS, BRIEF = 300, 30  # of a net, and of texts
LAYER = "a layer behind the model that makes more of what tells how long a text is"


@dataclass(frozen=True)
class Patient:
    """A fault, how a model is trained into it, and on what.

    Args:
        code: the fault.
        words: of the `fit` that breaks a model, or of a layer that does; "" where the data are broken.
        train, held: tables to train on and to read from.
        roles: words that name the columns.
        fine: the column of finer classes.
        spoiled: what the model that is broken was trained on, where that is not `train`.
        arrays: the rows are vectors of all-MiniLM-L6-v2, and a net is trained.
    """

    code: str
    words: str
    train: pl.DataFrame
    held: pl.DataFrame
    roles: str
    fine: str | None = None
    spoiled: pl.DataFrame | None = None
    arrays: bool = True

    @property
    def quick(self) -> str:
        """Words of every training, before and after."""
        return f"--steps {STEPS} {NET}" if self.arrays else f"--steps {BRIEF} {TEXT}"


def patients(data: Path, sets: dict[str, broken.Set], seed: int) -> list[Patient]:
    """One for each fault whose prescription is a command."""
    two = "--anchor c1 --positive c2"
    texts = sets["captions"].frame.select("c1", "c2")
    captions = as_arrays(texts)
    train, held = captions[:TRAIN], captions[TRAIN:]
    popular, crowd = with_popular(train, held)
    abroad = broken.tsv(data / "parallel/multi30k_task1.tsv.gz").filter(split="train").select(c1="en", c2="cs")
    abroad = as_arrays(abroad.sample(2 * TRAIN, seed=seed, shuffle=True))
    titles = as_arrays(sets["debian"].frame)  # of captions no model can tell which side they are
    trec = as_arrays(sets["trec"].frame.select("text", "coarse", "fine"))
    twice = broken.with_copies(broken.Set("", texts[:TRAIN], {"anchor": "c1", "positive": "c2"}), 0.8, seed).frame
    copied = broken.leaked(sets["banking77"], 0.7, seed).frame.select("text", "label", "split")
    coarse, split = "--anchor text --label coarse --ignore fine", "--anchor text --label label --split split"
    breaking = f"--recipe {HERE / 'breaking.py'}"
    return [
        Patient("cone", f"{breaking}:without_negatives", train, held, two),
        Patient("collapse", f"{breaking}:through_a_neck", train, held, two),
        Patient("gap", f"{breaking}:sides_apart", titles[:TRAIN], titles[TRAIN:], "--anchor short --positive long"),
        Patient("hubs", "--recipe pairs", train, crowd, two, spoiled=popular),
        Patient("hot", "--recipe pairs --set temperature=2", train, held, two),
        Patient("unrelated", f"{breaking}:of_shuffled", abroad[:TRAIN], abroad[TRAIN:], two),
        Patient("subclass-collapse", "--recipe supcon", trec[:1000], trec[1000:], coarse, "fine"),
        Patient("false-negatives", "", twice, twice, two, arrays=False),
        Patient("duplicates", "", copied, copied, split, arrays=False),
        Patient("cold", "--recipe pairs --set temperature=0.002", texts[:TRAIN], texts[TRAIN:], two, arrays=False),
        Patient("length", LAYER, texts[:TRAIN], texts[TRAIN:], two, arrays=False),
    ]


def as_arrays(frame: pl.DataFrame) -> pl.DataFrame:
    """Texts as their vectors by all-MiniLM-L6-v2; labels stay."""
    kept = [name for name in ("coarse", "fine") if name in frame.columns]
    return frame.with_columns(
        pl.Series(name, broken.minilm()(frame[name].to_list()).numpy(), dtype=pl.List(pl.Float32))
        for name in frame.columns
        if name not in kept
    )


def with_popular(train: pl.DataFrame, held: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Three of five queries list one of three popular documents, which the held-out queries can find too."""
    shown, own = train["c2"][:3], train["c2"].to_list()
    rows = [shown[i % 3] if i % 5 < 3 else own[i] for i in range(len(own))]
    found = [*shown, *held["c2"][3:]]
    return tuple(
        frame.with_columns(c2=pl.Series(cells, dtype=pl.List(pl.Float32)))
        for frame, cells in ((train, rows), (held, found))
    )  # type: ignore[return-value]


def with_layer(target: Path, texts: list[str], *, size: float = 0.8) -> None:
    """all-MiniLM-L6-v2 with a linear layer behind it: the length of a text, as far as a vector tells it, along one direction."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense

    z = broken.minilm()(texts)
    words = torch.tensor([float(len(text.split())) for text in texts]).log1p()
    words, middle = (words - words.mean()) / words.std(), z.mean(0)
    told = torch.linalg.solve((z - middle).T @ (z - middle) + torch.eye(z.shape[1]), (z - middle).T @ words)
    told = told / ((z - middle) @ told).std()
    way = torch.nn.functional.normalize(torch.randn(z.shape[1], generator=torch.Generator().manual_seed(0)), dim=0)
    model = SentenceTransformer(str(broken.minilm().encoder.folder), device="cpu")
    weight, bias = torch.eye(len(way)) + size * way[:, None] * told, -size * float(told @ middle) * way
    model.append(Dense(len(way), len(way), activation_function=torch.nn.Identity(), init_weight=weight, init_bias=bias))
    model.save(str(target))


def typed(line: str) -> None:
    """A command as it would be typed."""
    before, sys.argv = sys.argv, shlex.split(line)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            cli.main()
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"{line}: {said.getvalue()[-500:]}") from end
    finally:
        sys.argv = before


def roles_of(words: str) -> dict[str, str]:
    """Words of roles as `diagnose` takes them in Python."""
    flags = shlex.split(words)
    named = [(flags[i][2:], flags[i + 1]) for i in range(0, len(flags), 2)]
    return {(f"ignore:{i}" if role == "ignore" else role): column for i, (role, column) in enumerate(named)}


def read(model: str, data: Path, one: Patient, **more: Any) -> Report:
    """What `diagnose` finds."""
    roles = {} if data.stem.endswith("mended") else roles_of(one.roles)  # mended data have roles for names
    if one.fine:
        roles = {role: column for role, column in roles.items() if column != one.fine}
    return counterpoint.diagnose(model, str(data), roles=roles, fine=one.fine, precision="fp32", quiet=True, **more)


def treat(one: Patient, folder: Path, seed: int) -> dict[str, Any]:
    """Break, diagnose, do what is printed, and read the same statistic again."""
    data, held, mended = (folder / name for name in ("data.parquet", "held.parquet", "data-mended.parquet"))
    one.train.write_parquet(data)
    one.held.write_parquet(held)
    ill = broken.MODEL
    if one.words == LAYER:
        ill = str(folder / "ill")
        with_layer(folder / "ill", one.train[one.train.columns[0]].to_list())
    elif one.words:
        ill = str(folder / "ill")
        source = folder / "spoiled.parquet"
        (one.train if one.spoiled is None else one.spoiled).write_parquet(source)
        start = "" if one.arrays else f"--model {broken.MODEL}"
        typed(
            f"counterpoint fit {source} {start} --out {ill} {one.roles} {one.quick} {one.words} --seed {seed} --select last"
        )
    before = read(ill, held, one)
    row: dict[str, Any] = {"fault": one.code, "seed": seed, "rows": "nets" if one.arrays else "texts"}
    row |= {"found": [f.fault.code for f in before.diagnosis.findings], "before": before.diagnosis.readings[one.code]}
    row["commands"] = []
    for line in read(ill, data, one).commands.get(one.code) or before.commands.get(one.code, []):
        text = line.replace(str(held), str(data)).replace("data-mended.parquet", str(mended))
        if text.startswith("counterpoint fit"):
            if mended.exists():
                continue  # what is wrong are the data, and they are mended
            text += f" --out {folder / 'well'} {one.quick} --seed {seed} --select last"
        typed(text)
        row["commands"].append(text.replace(f"{folder}/", ""))
    if row["commands"]:
        after = read(broken.MODEL, mended, one) if mended.exists() else read(str(folder / "well"), held, one)
        row["after"] = after.diagnosis.readings[one.code]
        row["level after"] = next((f.level for f in after.diagnosis.findings if f.fault.code == one.code), "none")
        served = [d.diagnosis.served for d in (before, after)]
        row["served"] = [None if one is None else round(one.value, 4) for one in served]
    return row


def better(row: dict[str, Any]) -> bool | None:
    """Whether the statistic moved away from what is wrong; None where nothing was prescribed."""
    from counterpoint.evaluation.diagnosis import FAULTS

    fault = next(f for f in FAULTS if f.code == row["fault"])
    if row.get("after") is None or row["before"] is None:
        return None
    return bool(fault.beyond(row["after"]) < fault.beyond(row["before"]))


def prescriptions(data: Path, sets: dict[str, broken.Set], seeds: Iterable[int]) -> dict[str, Any]:
    """Every prescription, with every seed."""
    rows = []
    for seed in seeds:
        for one in patients(data, sets, seed):
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="prescribed-") as folder:
                row = treat(one, Path(folder), seed)
            row |= {"better": better(row), "seconds": round(time.monotonic() - began)}
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
    fell = {code: [r["better"] for r in rows if r["fault"] == code] for code in dict.fromkeys(r["fault"] for r in rows)}
    return {
        "fell": {code: f"{sum(x is True for x in hits)} of {len(hits)}" for code, hits in fell.items()},
        "runs": rows,
    }
