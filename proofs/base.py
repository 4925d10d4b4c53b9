"""A base without any contrast: a small transformer that has only guessed masked words, on technical texts.

Unsupervised methods are compared on it, since a pretrained sentence encoder has seen pairs. The model is not committed; this
makes it again, in less than half an hour on two cores: the same texts, tokenizer, seed and steps.

    python proofs/base.py --data path/to/data --out evidence/base.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from texts import sts, technical

import counterpoint
from counterpoint.training.machine import describe

HOME = Path(__file__).parents[1] / ".cache" / "base"
MODEL = "transformer:layers=4,width=256,length=64,dropout=0.0"  # few passes over the texts: nothing to regularise
STEPS, BATCH, RATE = 2400, 128, 1e-3
HIDDEN = 0.2  # of the words: more than in BERT, since each text is seen so few times
SEED = 0


def main() -> None:
    """Pre-train, and say what its mean pooling is worth on STS-B dev before and after."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=HOME, help="where the model goes")
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    texts = technical(given.data)
    with tempfile.TemporaryDirectory() as scratch:
        pairs = Path(scratch) / "sts.parquet"
        sts(given.data).write_parquet(pairs)
        trained = counterpoint.fit(
            {"anchor": texts}, recipe="mlm", settings={"rate": HIDDEN}, model=MODEL, steps=given.steps, batch=BATCH, lr=RATE,
            seed=SEED, select="last", evaluations=1, evals={"stsb": str(pairs)}, out=f"{scratch}/run",
        )  # fmt: skip
        assert trained is not None
        shutil.rmtree(given.model, ignore_errors=True)
        shutil.copytree(trained.path / "model", given.model)
        cost = json.loads((trained.path / "cost.json").read_text(encoding="utf-8"))
    commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False)
    found = {
        "commit": commit.stdout.strip() or "unknown",
        "what": "a transformer that has only guessed masked words; mean pooling on STS-B dev (Spearman)",
        "model": MODEL, "steps": given.steps, "batch": BATCH, "lr": RATE, "hidden": HIDDEN, "seed": SEED, "texts": len(texts),
        "stsb": trained.metrics["others"]["stsb"], "cost": cost, "machine": describe(), "loss": trained.metrics["loss"][-1],
    }  # fmt: skip
    given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
