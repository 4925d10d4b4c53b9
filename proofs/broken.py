"""Real data, a real model, and what breaks them: the material of proofs/diagnosis.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from counterpoint.encoders.text import TextEncoder, embed, load
from counterpoint.evaluation.diagnosis import Diagnosis, diagnose
from counterpoint.evaluation.geometry_labels import compactness
from counterpoint.evaluation.space import Space, unit
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.labels import labelled
from counterpoint.types import Embeddings
from counterpoint.verbs.settings import Run
from counterpoint.verbs.spaces import material_of

MODEL = "all-MiniLM-L6-v2"
TOKENS = 64  # where texts are cut here, for the sake of time
PAIRS, ITEMS = 1_200, 2_000  # rows of a set of pairs, and of labelled texts
TEMPERATURE = 0.05  # that all-MiniLM-L6-v2 was trained with, by its model card (scale 20)

Vectors = Callable[[Sequence[str]], Tensor]
Break = Callable[[Space, torch.Generator], Space]


@dataclass(frozen=True)
class Set:
    """One set of data: a table, what its columns are, and whether the limits of `diagnose` were chosen with it in view."""

    name: str
    frame: pl.DataFrame
    roles: dict[str, str]
    fine: str | None = None
    seen: bool = True

    @property
    def paired(self) -> bool:
        """Whether rows are pairs."""
        return "positive" in self.roles


@dataclass
class Model:
    """all-MiniLM-L6-v2, and each text's vector once it was asked for."""

    encoder: TextEncoder
    known: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        new = list(dict.fromkeys(t for t in texts if t not in self.known))
        if new:
            self.known.update(zip(new, embed(self.encoder, new), strict=True))
        return torch.stack([self.known[t] for t in texts])


@lru_cache(maxsize=1)
def minilm() -> Model:
    """The model that is healthy."""
    return Model(load(MODEL, lengths={"anchor": TOKENS, "positive": TOKENS}))


def remembered(path: Path) -> None:
    """Take vectors of an earlier run, with the same model and cut."""
    if path.exists():
        kept = pl.read_parquet(path)
        minilm().known.update(zip(kept["text"].to_list(), torch.tensor(kept["vector"].to_numpy().copy()), strict=True))


def remember(path: Path) -> None:
    """Keep all vectors for a later run."""
    known = minilm().known
    width = minilm().encoder.width
    vectors = pl.Series("vector", torch.stack([*known.values()]).numpy(), dtype=pl.Array(pl.Float32, width))
    pl.DataFrame({"text": [*known]}).with_columns(vectors).write_parquet(path)


def tsv(path: Path) -> pl.DataFrame:
    """A file of the tsv.gz kind, whose cells are text as it stands."""
    return pl.read_csv(path, separator="\t", quote_char=None, infer_schema=False)


def sets(data: Path, seed: int) -> dict[str, Set]:
    """Eight sets: four that the limits were chosen with, and four that they were not."""

    def some(frame: pl.DataFrame, rows: int) -> pl.DataFrame:
        return frame.sample(min(rows, len(frame)), seed=seed, shuffle=True)

    debian = pl.read_parquet(data / "debian_descriptions/packages_en.parquet").unique("long", maintain_order=True)
    code = pl.read_parquet(data / "code_search/py_docstring_code.parquet").filter(split="train")
    captions = tsv(data / "text_pairs/multi30k_5captions_en.tsv.gz").filter(split="train")
    answers = tsv(data / "text_pairs/wikiqa.tsv.gz").filter(label="1").filter(split="train")
    banking, trec, clinc = (tsv(data / f"text_cls/{name}.tsv.gz") for name in ("banking77", "trec", "clinc150"))
    banking = banking.with_columns(topic=pl.col("label").str.split("_").list.first())
    clinc = clinc.filter(pl.col("split").is_in(["train", "test"]))
    pair = {"anchor": "short", "positive": "long"}
    few = ("anchor", "positive")
    return {
        s.name: s
        for s in (
            Set("debian", some(debian.select("short", "long"), PAIRS), pair),
            Set("code", some(code.select("docstring", "code"), PAIRS), dict(zip(few, ("docstring", "code"), strict=True))),
            Set("banking77", some(banking, ITEMS), {"anchor": "text", "label": "label", "split": "split"}),
            Set("trec", some(trec, ITEMS), {"anchor": "text", "label": "coarse", "split": "split"}, "fine"),
            Set("captions", some(captions, PAIRS), {"anchor": "c1", "positive": "c2"}, seen=False),
            Set("answers", answers.select("question", "answer"), dict(zip(few, ("question", "answer"), strict=True)), seen=False),
            Set("clinc150", some(clinc, ITEMS), {"anchor": "text", "label": "label", "split": "split"}, seen=False),
            Set("topics", some(banking, ITEMS), {"anchor": "text", "label": "topic"}, "label", seen=False),
        )
    }  # fmt: skip


def space(data: Set, model: Vectors | tuple[Vectors, Vectors]) -> tuple[Space, np.ndarray]:
    """The set as `counterpoint diagnose` sees it, by a model (or one a side), and which rows are not independent."""
    ignored = {f"ignore:{i}": c for i, c in enumerate(data.frame.columns) if c not in data.roles.values()}
    material = material_of(data.frame, Run(roles=data.roles | ignored), data.fine)
    sides = [side for side in (material.anchors, material.candidates) if side is not None]
    models = model if isinstance(model, tuple) else (model, model)
    made = [
        side.embedded(one(side.keys), material.items.ids(side.keys)) for side, one in zip(sides, models, strict=False)
    ]
    return Space.of(*made, relation=material.relation, temperature=TEMPERATURE), material.unit


def look_at(data: Set, model: Vectors | tuple[Vectors, Vectors], breaks: Break | None, seed: int) -> Diagnosis:
    """The diagnosis of a set by a model, broken or not."""
    healthy, rows = space(data, model)
    generator = torch.Generator().manual_seed(seed)
    return diagnose(breaks(healthy, generator) if breaks else healthy, seed=seed, unit=rows)


def _way(d: int, generator: torch.Generator) -> Tensor:
    return unit(torch.randn(1, d, generator=generator))


def both(change: Callable[[Embeddings, torch.Generator], Tensor]) -> Break:
    """The same done to both sides, as by a layer behind the model."""

    def broken(one: Space, generator: torch.Generator) -> Space:
        state = generator.get_state()
        a = change(one.anchors, generator)
        generator.set_state(state)
        return one.moved(a, None if one.candidates is None else change(one.candidates, generator))

    return broken


def cone(size: float) -> Break:
    """A bias behind the model, of a size beside rows of length 1."""
    return both(lambda e, g: e.z + size * _way(e.z.shape[1], g))


def projected(k: int) -> Break:
    """A bottleneck of k dimensions behind the model."""

    def change(e: Embeddings, g: torch.Generator) -> Tensor:
        plane = torch.linalg.qr(torch.randn(e.z.shape[1], k, generator=g)).Q
        return e.z @ plane @ plane.T

    return both(change)


def decaying(power: float) -> Break:
    """A layer behind the model whose k-th direction is weighted by k ** -power, as of one trained into collapse."""

    def change(e: Embeddings, g: torch.Generator) -> Tensor:
        d = e.z.shape[1]
        turn = torch.linalg.qr(torch.randn(d, d, generator=g)).Q
        return (e.z @ turn) * torch.arange(1, d + 1) ** -power

    return both(change)


def lengthy(size: float) -> Break:
    """A part along one direction that grows with the logarithm of the number of words."""

    def change(e: Embeddings, g: torch.Generator) -> Tensor:
        words = e.facts["length"].log1p()
        return e.z + size * ((words - words.mean()) / words.std())[:, None] * _way(e.z.shape[1], g)

    return both(change)


def apart(size: float) -> Break:
    """Another bias behind each side of two."""

    def broken(one: Space, g: torch.Generator) -> Space:
        d = one.anchors.z.shape[1]
        return one.moved(one.anchors.z + size * _way(d, g), one.others.z + size * _way(d, g))

    return broken


def central(share: float) -> Break:
    """Some candidates moved to where all anchors are near: the middle of them; a few in a thousand."""

    def broken(one: Space, g: torch.Generator) -> Space:
        z = one.others.z.clone()
        middle = unit(one.anchors.z.mean(0, keepdim=True))
        at = torch.randperm(len(z), generator=g)[: max(2, round(share * len(z)))]
        z[at] = unit(middle + 0.1 * unit(torch.randn(len(at), z.shape[1], generator=g)))
        return one.moved(one.anchors.z if one.candidates is not None else z, z)

    return broken


def loud(size: float) -> Break:
    """Candidates of heavy-tailed norm in a model that was trained for dot products: they lean to the anchors' middle."""

    def broken(one: Space, g: torch.Generator) -> Space:
        middle = unit(one.anchors.z.mean(0, keepdim=True))
        heavy = torch.randn(len(one.others), 1, generator=g).mul(1.5).exp()
        z = unit(one.others.z + size * heavy / heavy.max() * middle)
        return one.moved(one.anchors.z if one.candidates is not None else z, z)

    return broken


def tempered(temperature: float) -> Break:
    """The temperature of a run."""
    return lambda one, _g: replace(one, temperature=temperature)


def points(left: float) -> Break:
    """Only so much is left of what tells the items of one label apart."""

    def broken(one: Space, _g: torch.Generator) -> Space:
        label = one.anchors.facts["label"]
        size = torch.bincount(label).clamp_min(1).float()
        middle = torch.zeros(len(size), one.anchors.z.shape[1]).index_add_(0, label, one.anchors.z) / size[:, None]
        noise = torch.randn(one.anchors.z.shape, generator=_g) / one.anchors.z.shape[1] ** 0.5
        return one.moved(middle[label] + left * (one.anchors.z - middle[label]) + 0.3 * noise)

    return broken


def coarsely_trained(most: int = 3_000, within: float = 0.05) -> Break:
    """A small net behind the model, trained by SupCon on the labels until each of them is nearly a point."""

    def broken(one: Space, g: torch.Generator) -> Space:
        d = one.anchors.z.shape[1]
        label = one.anchors.facts["label"]
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(1 << 30, (), generator=g)))
            net = nn.Sequential(nn.Linear(d, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 128))
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        for step in range(most):
            at = torch.randint(len(one.anchors), (256,), generator=g).unique()
            rows = replace(one.anchors.rows(at), z=net(one.anchors.z[at]))
            loss = infonce(rows, rows, rule=labelled("label"), temperature=0.1).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 100 == 99:
                with torch.no_grad():
                    z = unit(net(one.anchors.z))
                if compactness(z, label) < within:
                    break
        return replace(one, anchors=replace(one.anchors, z=z))

    return broken


def pooled(kind: str) -> Model:
    """all-MiniLM-L6-v2 with a pooling that is wrong: "padding" counts it as words, "sum" adds words up before a bias."""
    healthy = minilm().encoder
    backbone, tokenizer = healthy.model[0].auto_model, healthy.model.tokenizer
    bias = 20 * _way(healthy.width, torch.Generator().manual_seed(0))[0]

    class Wrong(nn.Module):
        width = healthy.width

        def forward(self, texts: Sequence[str], role: str = "anchor") -> Tensor:
            del role
            pad = "max_length" if kind == "padding" else True
            ids = tokenizer(list(texts), padding=pad, truncation=True, max_length=TOKENS, return_tensors="pt")
            hidden = backbone(**ids).last_hidden_state
            if kind == "padding":
                return hidden.mean(1)
            return (hidden * ids["attention_mask"][:, :, None]).sum(1) + bias

    wrong = Wrong()
    wrong.anchor = nn.Parameter(torch.zeros(1))  # a device to be on
    return Model(wrong)  # type: ignore[arg-type]


def with_copies(data: Set, share: float, seed: int) -> Set:
    """Some documents stand in the data twice, a little edited, and each query lists only one of them."""
    role = data.roles["positive"]
    anchor = data.roles["anchor"]
    some = data.frame.sample(fraction=share, seed=seed)
    edited = some.with_columns(pl.col(role) + " .", pl.col(anchor).str.split(" ").list.reverse().list.join(" "))
    return replace(data, name=data.name, frame=pl.concat([data.frame, edited]))


def one_of_many(data: Set, columns: Sequence[str]) -> Set:
    """Of several positives of each query only the first is listed; the others are documents too."""
    anchor, positive = data.roles["anchor"], data.roles["positive"]
    frames = [data.frame.select(pl.col(a).alias(anchor), pl.col(b).alias(positive)) for a, b in columns]
    return replace(data, frame=pl.concat(frames))


def partners(data: Set, seed: int) -> Set:
    """Labelled texts as pairs of two texts of one label, of which each text lists one."""
    shuffled = data.frame.sample(fraction=1, seed=seed, shuffle=True)
    label, text = data.roles["label"], data.roles["anchor"]
    shuffled = shuffled.with_columns(other=pl.col(text).shift(-1).over(label)).drop_nulls("other")
    return Set(data.name, shuffled.select(text, "other")[:PAIRS], {"anchor": text, "positive": "other"}, seen=data.seen)


def relabelled(data: Set, share: float, seed: int) -> Set:
    """Some rows stand in the data again, a little edited, with another label."""
    text, label = data.roles["anchor"], data.roles["label"]
    some = data.frame.sample(fraction=share, seed=seed)
    wrong = some.with_columns(pl.col(text).str.strip_chars(".?!") + " .", pl.col(label).shuffle(seed))
    return replace(data, frame=pl.concat([data.frame, wrong]))


def leaked(data: Set, share: float, seed: int) -> Set:
    """Copies of some held-out rows, with other case and marks at the end, among those of train."""
    frame, text = data.frame, data.roles["anchor"]
    if "split" not in data.roles:
        draw = np.random.default_rng(seed)
        frame = frame.with_columns(split=pl.Series(np.where(draw.random(len(frame)) < 0.25, "test", "train")))
    held = frame.filter(split="test").sample(fraction=share, seed=seed)
    copy = held.with_columns(pl.col(text).str.strip_chars(".?! ").str.to_uppercase() + " !", split=pl.lit("train"))
    return replace(data, frame=pl.concat([frame, copy]), roles=data.roles | {"split": "split"})


def shuffled(data: Set, seed: int) -> Set:
    """The positives in another order than the anchors."""
    role = data.roles["positive"]
    return replace(data, frame=data.frame.with_columns(pl.col(role).shuffle(seed)))
