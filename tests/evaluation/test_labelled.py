"""Few labels, clusters, numbers and the odd one: the answers are those of scikit-learn on the same vectors."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import r2_score, roc_auc_score, v_measure_score
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid, NearestNeighbors

from counterpoint.evaluation.labelled import EPISODES, STARTS, Anomaly, Clustering, FewShot, Regression, few_shot
from counterpoint.evaluation.verdict import value_of

DRAW = np.random.default_rng(0)
CENTRES = DRAW.normal(size=(4, 6))
LABEL = np.arange(200) % 4
CLOUD = CENTRES[LABEL] + DRAW.normal(size=(200, 6))
CLOUD /= np.linalg.norm(CLOUD, axis=1, keepdims=True)
KEYS = [f"x{i}" for i in range(200)]
KNOWN, ASKED = slice(0, 120), slice(120, 200)


def embed(keys: Sequence[str], _role: str) -> torch.Tensor:
    return torch.from_numpy(CLOUD[[int(key[1:]) for key in keys]].astype(np.float32))


def shots(seed: int = 0) -> FewShot:
    return few_shot((KEYS[KNOWN], LABEL[KNOWN]), (KEYS[ASKED], LABEL[ASKED]), np.arange(80), seed=seed)


def test_few_shot_is_scikit_learn_on_each_episode() -> None:
    task = shots()
    found = task.measure(embed)
    readers = {
        "linear": LogisticRegression(max_iter=1000),
        "nearest": KNeighborsClassifier(1, metric="cosine"),
        "mean": NearestCentroid(),
    }
    x, z = embed(task.known, "").numpy(), embed(task.asked, "").numpy()
    for count in (1, 5, 20):
        for name, reader in readers.items():
            if (count, name) == (1, "nearest"):
                continue
            hits = []
            for episode in task.episodes:
                at = episode[:, :count].ravel()
                with np.errstate(invalid="ignore"):  # of one item a class, theirs divides by 0 where we do not look
                    fitted = reader.fit(x[at], task.known_label[at])
                if name == "mean":  # theirs by distance: on the sphere the nearest mean is that of the largest cosine
                    fitted.centroids_ /= np.linalg.norm(fitted.centroids_, axis=1, keepdims=True)
                hits.append(fitted.predict(z) == task.asked_label)
            metric = f"{count}-shot {name}"
            assert found.values[metric] == pytest.approx(np.mean(hits, axis=0), abs=1e-6), metric
            assert found.draws[metric] == pytest.approx([hit.mean() for hit in hits], abs=1e-6)
    assert "1-shot nearest" not in found.values


def test_episodes_hold_so_many_of_each_class_and_nothing_that_is_asked() -> None:
    task = shots()
    assert task.episodes.shape == (EPISODES, 4, 20)
    for episode in task.episodes:
        for c, places in enumerate(episode):
            assert len(set(places.tolist())) == 20
            assert set(task.known_label[places]) == {c}
    assert not set(task.known) & set(task.asked)
    assert len({tuple(episode[:, 0]) for episode in task.episodes}) > 5, "episodes differ"
    other = shots(1)
    assert [task.known[i] for i in task.episodes[0, 0]] != [other.known[i] for i in other.episodes[0, 0]]
    same = shots()
    assert (same.episodes == task.episodes).all()


def test_a_class_with_fewer_gives_all_it_has() -> None:
    label = np.array([0] * 9 + [1] * 6 + [2] * 2)
    task = few_shot(([f"x{i}" for i in range(17)], label), (["x20"], np.array([0])), np.arange(1))
    assert task.shots == (1, 5)
    assert (task.episodes >= 0).sum(axis=2).tolist() == [[5, 5, 2]] * EPISODES
    assert set(task.known_label[task.episodes[0, 2][:2]]) == {2}
    assert set(task.measure(embed).values) == {
        "1-shot linear",
        "1-shot mean",
        "5-shot linear",
        "5-shot mean",
        "5-shot nearest",
    }
    assert few_shot((["a", "b"], np.array([0, 0])), (["c"], np.array([0])), np.arange(1)) is None


def test_clusters_are_those_of_mteb() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mteb._evaluators import clustering_evaluator
    import inspect

    theirs = inspect.getsource(clustering_evaluator)
    assert "batch_size=self.clustering_batch_size" in theirs
    assert 'n_init="auto"' in theirs
    found = Clustering(KEYS, LABEL, np.arange(200), seed=3).measure(embed)
    values = [
        v_measure_score(
            LABEL,
            MiniBatchKMeans(4, batch_size=500, n_init="auto", random_state=seed).fit(embed(KEYS, "").numpy()).labels_,
        )
        for seed in range(3, 3 + STARTS)
    ]
    assert value_of(found.values["v_measure"], "v_measure") == pytest.approx(np.mean(values), abs=1e-6)
    assert found.candidates == 4


def test_clusters_of_equal_vectors_are_measured_without_complaint() -> None:
    found = Clustering(list("abcd"), np.array([0, 0, 1, 1]), np.arange(4)).measure(
        lambda keys, _: torch.ones(len(keys), 2)
    )
    assert value_of(found.values["ari"], "ari") == 0


def test_a_number_is_read_by_ridge_from_known_rows_alone() -> None:
    value = CLOUD @ np.arange(6) + 0.1 * DRAW.normal(size=200)
    task = Regression(KEYS[KNOWN], value[KNOWN], KEYS[ASKED], value[ASKED], np.arange(80))
    found = task.measure(embed)
    vectors = embed(KEYS, "").double().numpy()
    alphas = [10.0**power for power in range(-4, 4)]
    predicted = RidgeCV(alphas=alphas).fit(vectors[KNOWN], value[KNOWN]).predict(vectors[ASKED])
    assert value_of(found.values["r2"], "r2") == pytest.approx(r2_score(value[ASKED], predicted), abs=1e-6)
    assert value_of(found.values["spearman"], "spearman") == pytest.approx(
        spearmanr(predicted, value[ASKED])[0], abs=1e-6
    )
    blind = Regression(KEYS[KNOWN], DRAW.permutation(value[KNOWN]), KEYS[ASKED], value[ASKED], np.arange(80)).measure(
        embed
    )
    assert value_of(blind.values["r2"], "r2") < 0.1, "asked values do not reach the reader"


def test_the_odd_one_lies_further_from_what_is_known() -> None:
    normal = LABEL != 2
    known = [KEYS[i] for i in range(120) if normal[i]]
    task = Anomaly(known, KEYS[ASKED], ~normal[ASKED], np.arange(80))
    rows = task.measure(embed).values["auroc"]
    near = NearestNeighbors(n_neighbors=5, metric="cosine").fit(embed(known, "").numpy())
    distance = near.kneighbors(embed(KEYS[ASKED], "").numpy())[0].mean(1)
    assert rows[:, 0] == pytest.approx(distance, abs=1e-5)
    area = roc_auc_score(~normal[ASKED], distance)
    assert value_of(rows, "auroc") == pytest.approx(area, abs=1e-6)
    assert area > 0.8


def test_an_item_is_no_neighbour_of_itself() -> None:
    task = Anomaly(KEYS[:3], [KEYS[0], KEYS[9]], np.array([False, True]), np.arange(2))
    score = task.measure(embed).values["auroc"][:, 0]
    others = CLOUD[0] @ CLOUD[1:3].T
    assert score[0] == pytest.approx(1 - others.mean(), abs=1e-5)


def test_one_of_each_of_many_classes_is_read_without_complaint() -> None:
    """scikit-learn warns of more classes than half of the rows, which is what one shot means."""
    label = np.arange(120) % 40
    task = few_shot((KEYS[KNOWN], label), (KEYS[ASKED], np.arange(80) % 40), np.arange(80))
    assert task.shots == (1,)
    assert task.metric == "1-shot linear"
    assert len(task.measure(embed).values["1-shot linear"]) == 80
