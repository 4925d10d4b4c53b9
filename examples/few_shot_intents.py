"""Few labels: eight examples of each intent, a model tuned on them, and a logistic regression on its vectors.

python examples/few_shot_intents.py intents.tsv        (columns split, label, text)
"""

from __future__ import annotations

import sys

import polars as pl
from sklearn.linear_model import LogisticRegression

import counterpoint

SHOTS = 8


def main(path: str) -> None:
    """Accuracy on the test before and after."""
    rows = pl.read_csv(path, separator="\t", quote_char=None)
    train = rows.filter(pl.col("split") == "train").sample(fraction=1.0, shuffle=True, seed=0)
    few = train.group_by("label", maintain_order=True).head(SHOTS)
    test = rows.filter(pl.col("split") == "test")
    run = counterpoint.fit(few.select("text", "label"), minutes=2)
    assert run is not None
    for name, model in (("before", "all-MiniLM-L6-v2"), ("after", run.path)):
        encoder = counterpoint.load(model)
        reader = LogisticRegression(C=10, max_iter=1000).fit(encoder.encode(few["text"].to_list()), few["label"])
        right = reader.predict(encoder.encode(test["text"].to_list())) == test["label"].to_numpy()
        print(
            f"{name:<7}accuracy {right.mean():.3f} on {len(test):,} questions, {SHOTS} examples of each of 77 intents"
        )


if __name__ == "__main__":
    main(sys.argv[1])
