"""A run that is killed again and again, at random moments and while it writes a checkpoint, ends as one that never was.

Two runs of the command line on a toy table and a model of two layers, both made here: momentum contrast (a queue, a
teacher) whose batches the current model puts together before each epoch, and pairs whose negatives the current model
mines after each epoch. `kill -9` at moments that the seed draws: while the command starts, after a step, as soon as a
checkpoint is being written, as an epoch ends, and while the result is written. Each time the run goes on by
`counterpoint resume`, or begins anew where no checkpoint was written yet. At the end `model.safetensors` and
`metrics.json`, which holds the loss of every step, are compared byte by byte with those of an undisturbed run.

    python proofs/resume.py --out evidence/resume.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOPICS, ROWS = 40, 600
WORDS = [*(f"{side}{i}" for side in "qd" for i in range(TOPICS)), *(f"w{i}" for i in range(100))]
COMMON = "--batch 32 --save-steps 4 --precision fp32 --lr 1e-3"
PROMPT, PAUSE = 0.002, 0.02  # seconds at most from a checkpoint's beginning, and from a step, to the kill
PATIENCE = 120  # seconds for a moment to come
STATE = "checkpoints"


@dataclass(frozen=True)
class Variant:
    """A run that is killed.

    Args:
        words: of `counterpoint fit`.
        steps: how many it takes; an epoch has 15.
        kinds: of the moments, how many of each.
    """

    words: str
    steps: int
    kinds: dict[str, int]


# The kept step is the last one in the first, so that all of its steps count, and the best on dev in the second.
VARIANTS = {
    "moco, hard batches": Variant(
        "--recipe moco --set queue=256 --set momentum=0.9 --order hard --epochs 8 --select last",
        steps=120,
        kinds={"starting": 3, "step": 6, "checkpoint": 8, "epoch": 2, "result": 1},
    ),
    "pairs, mined negatives": Variant(
        "--recipe pairs_with_negatives --mine-every 1 --epochs 6",
        steps=90,
        kinds={"step": 2, "checkpoint": 3, "epoch": 1},
    ),
}
EPOCH = 15


@dataclass(frozen=True)
class Moment:
    """When to kill: kind, the step that it waits for, seconds after that or after the start, as a share of its longest."""

    kind: str
    step: int
    wait: float


@dataclass(frozen=True)
class Life:
    """One process of a run, and where it writes."""

    process: subprocess.Popen[str]
    scratch: Path
    started: int  # ns since the epoch, as the file system says it

    def fresh(self, path: Path) -> bool:
        """Whether this process wrote it."""
        try:
            return path.stat().st_ctime_ns > self.started
        except OSError:
            return False

    def step(self) -> int:
        """The last step that this process noted; 0: none yet."""
        path = self.scratch / "steps.jsonl"
        if not self.fresh(path):
            return 0
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
        return int(json.loads(whole.rpartition("\n")[2])["step"]) if whole else 0

    def writing(self) -> int:
        """The step whose checkpoint is being written; 0: none."""
        found = [p for p in (self.scratch / STATE).glob(".step-*.unfinished") if self.fresh(p)]
        return max((int(p.name.split("-")[1].split(".")[0]) for p in found), default=0)

    def checkpoint(self) -> int:
        """The step of the last checkpoint that is whole; 0: none."""
        return max((int(p.name.split("-")[1]) for p in (self.scratch / STATE).glob("step-*")), default=0)


def make_model(folder: Path) -> None:
    """A transformers backbone with 2 layers of width 32, dropout, and a token for each word of the toy table."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    vocabulary = {token: i for i, token in enumerate([*names.values(), *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes)
    BertModel(config).save_pretrained(folder)


def make_table(path: Path) -> None:
    """Queries of two topics and documents of the same two, which share no word."""
    draw, lines = random.Random(0), ["query,doc"]
    for _ in range(ROWS):
        i, j = draw.sample(range(TOPICS), 2)
        lines.append(f"q{i} q{j} w{draw.randrange(100)},d{i} d{j} w{draw.randrange(100)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def started(place: Path, *words: str) -> Life:
    """The command in a process of its own."""
    here = str(Path(__file__).parents[1] / "src")  # what is proved is the checkout whose commit is recorded
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    mark = place.parent / "mark"
    mark.write_text("")
    process = subprocess.Popen(
        [sys.executable, "-m", "counterpoint", *words], cwd=place.parent, env=env, stderr=subprocess.PIPE, text=True
    )
    return Life(process, place.with_name(place.name + ".unfinished"), mark.stat().st_mtime_ns)


def plan(variant: Variant, draw: random.Random) -> list[Moment]:
    """The moments in the order of their steps; those while the command starts fall anywhere between."""
    kinds = [kind for kind, count in variant.kinds.items() for _ in range(count) if kind in ("step", "checkpoint")]
    draw.shuffle(kinds)
    at = sorted(
        draw.sample(range(1, variant.steps - 4), len(kinds))
    )  # the last checkpoint is due 4 steps before the end
    ends = draw.sample(range(1, variant.steps // EPOCH), variant.kinds.get("epoch", 0))
    moments = [Moment(kind, step, draw.random()) for kind, step in zip(kinds, at, strict=True)]
    moments = sorted([*moments, *(Moment("epoch", EPOCH * end, draw.random()) for end in ends)], key=lambda m: m.step)
    for _ in range(variant.kinds.get("starting", 0)):
        moments.insert(draw.randrange(len(moments)), Moment("starting", 0, draw.random()))
    return moments + [Moment("result", 0, draw.random()) for _ in range(variant.kinds.get("result", 0))]


def come(life: Life, moment: Moment, seconds: float) -> bool:
    """Wait for a moment; False where the process ended before it. `seconds` is how long a start takes."""
    conditions: dict[str, Callable[[], bool]] = {
        "starting": lambda: True,
        "step": lambda: life.step() >= moment.step,
        "epoch": lambda: life.step() >= moment.step,
        "checkpoint": lambda: life.writing() >= moment.step,
        "result": lambda: life.fresh(life.scratch / "model"),
    }
    longest = {"starting": seconds, "checkpoint": PROMPT}.get(moment.kind, PAUSE)
    until, reached = time.monotonic() + PATIENCE, conditions[moment.kind]
    while not reached():
        if life.process.poll() is not None or time.monotonic() > until:
            return False
        if moment.kind != "checkpoint":  # one of this size takes some milliseconds
            time.sleep(0.001)
    time.sleep(moment.wait * longest)
    return life.process.poll() is None


def kill(life: Life, moment: Moment, begun: float) -> dict[str, Any]:
    """End the process by SIGKILL, and say where it was."""
    life.process.kill()
    said = life.process.communicate()[1]
    writing = life.writing()
    return {
        "kind": moment.kind,
        "seconds": round(time.monotonic() - begun, 3),
        "went_on_after": int(said.split("going on after step ")[1].split()[0]) if "going on after" in said else None,
        "step": life.step(),
        "checkpoint": life.checkpoint(),
        "inside_write_of": writing or None,
    }


def disturbed(variant: Variant, place: Path, words: Sequence[str], draw: random.Random, start: float) -> dict[str, Any]:
    """A run with all of its kills, up to its end."""
    kills: list[dict[str, Any]] = []
    missed: list[str] = []
    for moment in [*plan(variant, draw), None]:
        if place.exists():
            break
        known = any((place.with_name(place.name + ".unfinished") / STATE).glob("step-*"))
        begun = time.monotonic()
        life = started(place, *(["resume", place.name] if known else words))
        if moment is not None and come(life, moment, start):
            kills.append(kill(life, moment, begun) | {"command": "resume" if known else "fit"})
            print(f"  killed {len(kills)}: {kills[-1]}", file=sys.stderr, flush=True)
            continue
        said = life.process.communicate()[1]
        missed += [moment.kind] if moment is not None else []
        if life.process.returncode:
            return {"kills": kills, "missed": missed, "failed": said.strip().splitlines()[-5:]}
    return {"kills": kills, "missed": missed, "failed": None}


def undisturbed(place: Path, words: Sequence[str]) -> float:
    """A run that nothing disturbs; how many seconds it took up to its first step."""
    begun, life, until_first = time.monotonic(), started(place, *words), 0.0
    while life.process.poll() is None:
        if not until_first and life.step():
            until_first = time.monotonic() - begun
        time.sleep(0.01)
    if life.process.returncode:
        raise SystemExit(life.process.communicate()[1])
    return until_first


def ends(place: Path) -> dict[str, str | None]:
    """A checksum of each file that has to be the same."""
    paths = {name: place / name for name in ("model/model.safetensors", "metrics.json")}
    return {n: hashlib.sha256(p.read_bytes()).hexdigest() if p.exists() else None for n, p in paths.items()}


def prove(name: str, variant: Variant, folder: Path, draw: random.Random) -> dict[str, Any]:
    """One variant, undisturbed and disturbed."""
    folder.mkdir()
    make_table(folder / "toy.csv")
    make_model(folder / "tiny")
    words = f"fit toy.csv --model tiny {COMMON} {variant.words} --out".split()
    print(f"{name}: undisturbed", file=sys.stderr, flush=True)
    start = undisturbed(folder / "straight", [*words, "straight"])
    found = disturbed(variant, folder / "killed", [*words, "killed"], draw, start)
    straight, killed = ends(folder / "straight"), ends(folder / "killed")
    metrics = json.loads((folder / "straight" / "metrics.json").read_text(encoding="utf-8"))
    return {
        "command": " ".join(["counterpoint", *words[:-1]]),
        "steps": metrics["steps"],
        "kept_step": metrics["best_step"],
        "killed": len(found["kills"]),
        "killed_inside_a_write": sum(k["inside_write_of"] is not None for k in found["kills"]),
        "identical": straight == killed and None not in straight.values(),
        "sha256": {n: {"undisturbed": straight[n], "killed": killed[n]} for n in straight},
        **found,
    }


def commit() -> str:
    """The commit of this checkout, or unknown."""
    words = ["git", "rev-parse", "--short=10", "HEAD"]
    done = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main() -> None:
    """Run, print, write; the exit code is 1 where a run did not end as the undisturbed one."""
    from counterpoint.training.machine import describe

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    begun, draw = time.monotonic(), random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="resume-") as scratch:
        runs = {
            name: prove(name, variant, Path(scratch) / str(i), draw)
            for i, (name, variant) in enumerate(VARIANTS.items())
        }
    result = {
        "schema": 1,
        "what": "a run killed by SIGKILL and resumed, again and again: its last bytes beside those of an undisturbed run",
        "seed": given.seed,
        "commit": commit(),
        "machine": describe(),
        "seconds": round(time.monotonic() - begun, 1),
        "identical": all(run["identical"] for run in runs.values()),
        "runs": runs,
    }
    brief = {k: {n: v for n, v in run.items() if n != "kills"} for k, run in runs.items()}
    print(json.dumps({**result, "runs": brief}, indent=1))
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(not result["identical"])


if __name__ == "__main__":
    main()
