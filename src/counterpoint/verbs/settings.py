"""The settings of a run: plain values, the one home of every default, checked before anything is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any

from counterpoint.bundled import MINILM
from counterpoint.errors import Refusal, closest
from counterpoint.pairs.limits import Mining

NUMBERS = {
    "lr": Real,
    "steps": Integral,
    "epochs": Real,
    "minutes": Real,
    "batch": Integral,
    "micro": Integral,
    "seed": Integral,
    "split_seed": Integral,
    "dropout": Real,
    "save_minutes": Real,
    "save_steps": Integral,
    "layer_decay": Real,
    "head_lr": Real,
    "lora": Integral,
    "patience": Integral,
    "accumulate": Integral,
    "evaluations": Integral,
    "mine_every": Integral,
}
SHORTEST = 4  # tokens: a beginning, an end, and two of a text
PRECISIONS = ("auto", "fp32", "bf16")
SELECT = ("dev", "rankme", "neighbours", "last")
ON_SICK = ("warn", "stop")
SCHEDULES = ("linear", "cosine", "constant")
ABOVE_ZERO = (
    "lr", "steps", "epochs", "minutes", "batch", "micro", "layer_decay", "head_lr", "lora", "accumulate", "evaluations",
    "patience", "save_minutes", "save_steps", "mine_every",
)  # fmt: skip


def flag_of(name: str) -> str:
    """The flag of a setting.

    >>> flag_of("head_lr")
    '--head-lr'
    """
    return "--" + name.replace("_", "-")


def layers_to_freeze(freeze: str | int | None) -> int | None:
    """How many of the first layers stay as they are; 0: embeddings alone; None: nothing is frozen.

    Raises:
        Refusal: for any other word, or a number that is not whole and above 0.

    >>> [layers_to_freeze(words) for words in ("embeddings", "3", None)]
    [0, 3, None]
    """
    if freeze is None:
        return None
    if freeze == "embeddings":
        return 0
    text = str(freeze)
    if isinstance(freeze, bool) or not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) > 0):
        raise Refusal("'embeddings' or a number of layers", f"'{freeze}'", where="--freeze")
    return int(text)


@dataclass(frozen=True)
class Defaults:
    """What a run takes where nothing was said, by the kind of data."""

    model: str
    lr: float
    steps: int | None


# A pretrained model is tuned, slowly, for one pass; an encoder of arrays starts from nothing (rate: SCARF's).
DEFAULTS: Mapping[str, Defaults] = {
    "text": Defaults(MINILM, 5e-5, None),
    "arrays": Defaults("mlp", 1e-3, 2000),
}
# Peak rates of models of texts that start from nothing: BERT's "mini" of Turc et al. 2019; a table, see docs/decisions.md.
FRESH_LR: Mapping[str, float] = {"transformer": 5e-4, "static": 2e-2}
POOLINGS = ("mean", "cls", "last", "weighted", "max", "latent", "prompt")


@dataclass(frozen=True)
class Run:
    """How to train; together with the data and the seed, enough to repeat it.

    Args:
        recipe: the training method, "auto", or path/to/file.py:function for one of your own.
        model: of texts, a sentence-transformers folder, a transformers backbone, a run of ours, a name on the hub, or one from
            nothing: "transformer:layers=4,width=256" or "static:width=256"; of arrays "mlp", "mlp:depth=2,hidden=64,width=32",
            or a run of ours. None: all-MiniLM-L6-v2, and "mlp".
        out: the run folder; None: runs/<data>-<recipe>-<n>.
        steps: updates at most. epochs: passes over the training rows. minutes: wall-clock budget of training. With
            none of the three, one epoch of texts, 2,000 steps on arrays.
        batch: rows an update; each of the others in it serves as a negative.
        micro: texts that the encoder sees at a time; None: all of a batch. The loss sees the whole batch either way, with
            the same gradient; a step takes memory for `micro` texts, and about a third more time.
        order: how batches are put together, one of `counterpoint.data.orders`. order_settings: its arguments.
            source_weights: source -> how many times as often its rows are drawn.
        lr: peak learning rate; None: 5e-5 for texts, 1e-3 for arrays; 5e-4 for a new transformer, 2e-2 for a new table.
        schedule: of the rate after it has risen for a tenth of the run: "linear" or "cosine" to 0, or "constant".
        layer_decay: each layer's rate is this times that of the layer above it; embeddings are lowest. 1: one rate for all.
        head_lr: peak rate of parts beside the model, such as a training head; None: `lr`.
        freeze: "embeddings", or a number of layers: embeddings and the first layers stay as they are.
        pooling: how token states become a vector, of mean, cls, last, weighted, max, latent and prompt; None: the model's own.
        lora: rank of adapters that train in place of the weights, folded into them at the end; None: no adapters.
        accumulate: batches an update. Each has negatives of its own: more of them come from `batch` with `micro`.
        seed: decides the split, the order, dropout, and the resamples of the intervals.
        split_seed: decides the split, the questions and the resamples in place of `seed`, so that runs of several seeds are
            asked the same; None: `seed`.
        dropout: rate while training; None: the model's own. 0 is faster and takes less memory.
        settings: arguments of the recipe, such as temperature.
        prompts: role -> text put before every text of that role. lengths: role -> tokens.
        precision: of the encoder's matrix products; "auto" measures whether bf16 pays on this machine.
        device: "auto", "cuda", "mps" or "cpu".
        corpus: a file whose texts retrieval ranks against; None: all distinct positives of the data.
        evals: name -> other data that the model is measured on before and after, such as what it must not forget.
        roles: role -> column. delimiter: of csv and tsv. match: the label value that says "these two belong together".
        allow: codes of `check` to go on in spite of.
        trust_remote_code: run code that the model's folder carries.
        evaluations: how often dev is measured while training.
        patience: measurements of dev without a new best before training ends; None: it goes to its end.
        tensorboard: write the curves of steps.jsonl as TensorBoard events too.
        save_minutes: between two checkpoints, from which a run that was killed goes on; save_steps: likewise in steps.
        select: how the kept step is chosen: "dev", by the metric on dev; without labels "rankme" or "neighbours" (see
            `training.selection.label_free` for how far they can be trusted); "last".
        on_sick: "warn" says what is wrong with a run; "stop" ends it where it will hardly recover.
        mine_every: epochs after which the model mines new negatives for its training rows; None: never.
        mining: which ones: fields of `pairs.limits.Mining`, such as count and depth.
        shard: several processes divide the weights of the model and all that is kept for each, instead of each having all.
    """

    recipe: str = "auto"
    model: str | None = None
    out: str | None = None
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    batch: int = 64
    micro: int | None = None
    order: str = "shuffled"
    order_settings: Mapping[str, Any] = field(default_factory=dict)
    source_weights: Mapping[str, float] = field(default_factory=dict)
    lr: float | None = None
    schedule: str = "linear"
    layer_decay: float = 1.0
    head_lr: float | None = None
    freeze: str | int | None = None
    pooling: str | None = None
    lora: int | None = None
    accumulate: int = 1
    seed: int = 0
    split_seed: int | None = None
    dropout: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    precision: str = "auto"
    device: str = "auto"
    corpus: str | None = None
    evals: Mapping[str, Any] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    delimiter: str | None = None
    match: str | None = None
    allow: tuple[str, ...] = ()
    trust_remote_code: bool = False
    evaluations: int = 4
    patience: int | None = None
    tensorboard: bool = False
    save_minutes: float = 10.0
    save_steps: int | None = None
    select: str = "dev"
    on_sick: str = "warn"
    mine_every: int | None = None
    mining: Mapping[str, Any] = field(default_factory=dict)
    shard: bool = False

    def __post_init__(self) -> None:
        self._check_types()
        for name in ABOVE_ZERO:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise Refusal("a number above 0", value, where=flag_of(name))
        self._check_training()
        self.negatives_between_epochs()
        if self.lr is not None and self.lr > 1:
            raise Refusal("a learning rate of at most 1", self.lr, where="--lr", remedy="5e-5 is the default")
        if self.batch < 2:
            remedy = "the negatives of a row are the others of its batch"
            raise Refusal("a batch of at least 2", self.batch, where="--batch", remedy=remedy)
        if self.precision not in PRECISIONS:
            raise Refusal("a precision: " + ", ".join(PRECISIONS), f"'{self.precision}'", where="--precision")
        for flag, value, known in (("select", self.select, SELECT), ("on-sick", self.on_sick, ON_SICK)):
            if value not in known:
                raise Refusal("one of " + ", ".join(known), f"'{value}'", where=f"--{flag}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise Refusal("a dropout rate from 0 up to 1", self.dropout, where="--dropout")
        for name, seed in (("--seed", self.seed), ("--split-seed", self.asked_by)):
            if not 0 <= seed < 2**63:
                raise Refusal("a seed of at least 0", seed, where=name)

    def _check_training(self) -> None:
        if self.layer_decay > 1:
            remedy = "0.95 lets lower layers learn more slowly"
            raise Refusal("a layer decay of at most 1", self.layer_decay, where="--layer-decay", remedy=remedy)
        if self.head_lr is not None and self.head_lr > 1:
            raise Refusal("a learning rate of at most 1", self.head_lr, where="--head-lr")
        if self.schedule not in SCHEDULES:
            raise Refusal("a schedule: " + ", ".join(SCHEDULES), f"'{self.schedule}'", where="--schedule")
        if self.patience is not None and self.patience >= self.evaluations:
            wanted = f"a patience below the {self.evaluations} measurements of dev"
            remedy = f"--evaluations {4 * self.patience} measures it more often"
            raise Refusal(wanted, self.patience, where="--patience", remedy=remedy)
        layers_to_freeze(self.freeze)
        if self.pooling is not None and self.pooling not in POOLINGS:
            raise Refusal("a pooling: " + ", ".join(POOLINGS), f"'{self.pooling}'", where="--pooling")

    @property
    def asked_by(self) -> int:
        """The seed of all that decides what a model is asked, and not how it is trained.

        >>> Run(seed=3).asked_by, Run(seed=3, split_seed=0).asked_by
        (3, 0)
        """
        return self.seed if self.split_seed is None else self.split_seed

    def for_kind(self, kind: str) -> Run:
        """The same settings, with what was left open decided for a kind of data.

        >>> Run().for_kind("arrays").model
        'mlp'
        """
        own = DEFAULTS[kind]
        open_ended = self.steps is None and self.epochs is None and self.minutes is None
        return replace(
            self,
            model=own.model if self.model is None else self.model,
            lr=FRESH_LR.get(str(self.model).partition(":")[0], own.lr) if self.lr is None else self.lr,
            steps=own.steps if open_ended else self.steps,
        )

    def negatives_between_epochs(self) -> Mining | None:
        """Which negatives are mined between epochs; None: none are.

        Raises:
            Refusal: for a setting that mining does not have, or mining that never happens.
        """
        known = {f.name for f in fields(Mining)}
        unknown = next((name for name in self.mining if name not in known), None)
        if unknown is not None:
            raise Refusal("a setting of mining", f"'{unknown}'", where="--mining", remedy=closest(unknown, known))
        if self.mine_every is None and self.mining:
            raise Refusal("--mine-every EPOCHS beside --mining", "none", remedy="--mine-every 1 mines after each epoch")
        return None if self.mine_every is None else Mining(**{"seed": self.seed, **self.mining})

    def _check_types(self) -> None:
        """What a Python caller may get wrong; the command line hands over the right types."""
        for name, kind in NUMBERS.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
                raise Refusal("a whole number" if kind is Integral else "a number", repr(value), where=flag_of(name))
        for name in ("recipe", "model", "precision", "device", "schedule", "order"):
            if not (isinstance(getattr(self, name), str | PurePath) or (name == "model" and self.model is None)):
                remedy = "a recipe of your own is named by path/to/file.py:function" if name == "recipe" else None
                raise Refusal("a text", type(getattr(self, name)).__name__, where=f"--{name}", remedy=remedy)
        for source, weight in self.source_weights.items():
            number = isinstance(weight, Real) and not isinstance(weight, bool)
            if not (number and math.isfinite(weight) and weight > 0):
                raise Refusal("a weight above 0", repr(weight), where=f"--source-weight {source}")
        for name, path in self.evals.items():
            if not isinstance(path, str | PurePath):
                raise Refusal("a data file", type(path).__name__, where=f"--eval {name}")
        object.__setattr__(self, "evals", {name: str(path) for name, path in self.evals.items()})
        for role, prompt in self.prompts.items():
            if not isinstance(prompt, str):
                raise Refusal("a text", repr(prompt), where=f"--prompt {role}")
        for role, length in self.lengths.items():
            if not isinstance(length, int) or length < SHORTEST:
                raise Refusal(f"at least {SHORTEST} tokens", repr(length), where=f"--length {role}")
