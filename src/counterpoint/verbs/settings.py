"""The settings of a run: plain values, the one home of every default, checked before anything is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
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
    "dropout": Real,
    "mine_every": Integral,
}
SHORTEST = 4  # tokens: a beginning, an end, and two of a text
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class Run:
    """How to train; together with the data and the seed, enough to repeat it.

    Args:
        recipe: the training method, "auto", or path/to/file.py:function for one of your own.
        model: a sentence-transformers folder, a transformers backbone, a run of ours, or a name on the hub.
        out: the run folder; None: runs/<data>-<recipe>-<n>.
        steps: updates at most. epochs: passes over the training rows. minutes: wall-clock budget of training. With
            none of the three, one epoch.
        batch: rows an update; each of the others in it serves as a negative.
        micro: texts that the encoder sees at a time; None: all of a batch. The loss sees the whole batch either way, with
            the same gradient; a step takes memory for `micro` texts, and about a third more time.
        lr: peak learning rate.
        seed: decides the split, the order, dropout, and the resamples of the intervals.
        dropout: rate while training; None: the model's own. 0 is faster and takes less memory.
        settings: arguments of the recipe, such as temperature.
        prompts: role -> text put before every text of that role. lengths: role -> tokens.
        precision: of the encoder's matrix products; "auto" measures whether bf16 pays on this machine.
        device: "auto", "cuda", "mps" or "cpu".
        corpus: a file whose texts retrieval ranks against; None: all distinct positives of the data.
        roles: role -> column. delimiter: of csv and tsv. match: the label value that says "these two belong together".
        allow: codes of `check` to go on in spite of.
        trust_remote_code: run code that the model's folder carries.
        evaluations: how often dev is measured while training.
        mine_every: epochs after which the model mines new negatives for its training rows; None: never.
        mining: which ones: fields of `pairs.limits.Mining`, such as count and depth.
    """

    recipe: str = "auto"
    model: str = MINILM
    out: str | None = None
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    batch: int = 64
    micro: int | None = None
    lr: float = 5e-5
    seed: int = 0
    dropout: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    precision: str = "auto"
    device: str = "auto"
    corpus: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    delimiter: str | None = None
    match: str | None = None
    allow: tuple[str, ...] = ()
    trust_remote_code: bool = False
    evaluations: int = 4
    mine_every: int | None = None
    mining: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_types()
        for name in ("lr", "steps", "epochs", "minutes", "batch", "micro", "mine_every"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise Refusal("a number above 0", value, where=f"--{name.replace('_', '-')}")
        self.negatives_between_epochs()
        if self.lr > 1:
            raise Refusal("a learning rate of at most 1", self.lr, where="--lr", remedy="5e-5 is the default")
        if self.batch < 2:
            remedy = "the negatives of a row are the others of its batch"
            raise Refusal("a batch of at least 2", self.batch, where="--batch", remedy=remedy)
        if self.precision not in PRECISIONS:
            raise Refusal("a precision: " + ", ".join(PRECISIONS), f"'{self.precision}'", where="--precision")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise Refusal("a dropout rate from 0 up to 1", self.dropout, where="--dropout")
        if not 0 <= self.seed < 2**63:
            raise Refusal("a seed of at least 0", self.seed, where="--seed")

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
                raise Refusal("a whole number" if kind is Integral else "a number", repr(value), where=f"--{name}")
        for name in ("recipe", "model", "precision", "device"):
            if not isinstance(getattr(self, name), str | PurePath):
                remedy = "a recipe of your own is named by path/to/file.py:function" if name == "recipe" else None
                raise Refusal("a text", type(getattr(self, name)).__name__, where=f"--{name}", remedy=remedy)
        for role, prompt in self.prompts.items():
            if not isinstance(prompt, str):
                raise Refusal("a text", repr(prompt), where=f"--prompt {role}")
        for role, length in self.lengths.items():
            if not isinstance(length, int) or length < SHORTEST:
                raise Refusal(f"at least {SHORTEST} tokens", repr(length), where=f"--length {role}")
