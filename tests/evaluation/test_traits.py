"""What is told of a space beside its faults, against the functions and plain numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from counterpoint.evaluation import diagnosis
from counterpoint.evaluation import traits as told
from counterpoint.evaluation.geometry import isotropy, modality_gap
from counterpoint.evaluation.geometry_labels import tolerance
from counterpoint.evaluation.space import Space, Variants, look
from counterpoint.types import Embeddings, Relation


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pairs(n: int = 200, m: int = 300) -> Space:
    a, c = drawn(n, 16), drawn(m, 16, seed=1)
    c[:n] += 2 * a
    anchors = Embeddings.of(a, id=torch.arange(n), facts={"frequency": torch.arange(n).float()})
    relation = Relation.of(torch.arange(n), torch.arange(n) + 1000)
    return Space.of(anchors, Embeddings.of(c, id=torch.arange(m) + 1000), relation=relation)


def test_numbers_of_pairs() -> None:
    space = pairs()
    a, c = space.anchors.z, space.others.z
    found = told.statistics(look(space))
    assert set(found) == set(told.TRAITS) - {"tolerance", "compactness"}
    assert found["alignment"] == pytest.approx(float((a - c[:200]).square().sum(1).mean()), rel=1e-5)
    apart = torch.pdist(a).square()
    assert found["uniformity"] == pytest.approx(float((-2 * apart).exp().mean().log()), abs=1e-4)
    assert found["modality-gap"] == pytest.approx(modality_gap(a, c))
    assert found["isotropy"] == pytest.approx(isotropy(a))
    counts = torch.bincount((a @ c.T).topk(10, 1).indices.flatten(), minlength=300)
    assert found["never-found"] == pytest.approx(float((counts == 0).float().mean()))
    assert abs(found["frequency"]) < 0.05


def test_numbers_of_labels_and_of_frequency() -> None:
    z = drawn(200, 16)
    facts = {"label": torch.arange(200) % 4, "frequency": (torch.arange(200) % 10).float()}
    z[:, :10] += 3 * torch.eye(10)[torch.arange(200) % 10]
    space = Space.of(Embeddings.of(z, id=torch.arange(200), facts=facts))
    found = told.statistics(look(space))
    assert not {"alignment", "modality-gap"} & set(found)
    assert found["tolerance"] == pytest.approx(tolerance(space.anchors.z, facts["label"]))
    assert found["frequency"] > 0.3


def test_contrast_sets_count_who_is_nearer() -> None:
    eye = torch.eye(3).repeat(20, 1)
    near, far = eye + 0.1, eye + 0.3
    right = torch.arange(60) % 3 > 0
    typo = torch.where(right[:, None], near, far)
    changed = torch.where(right[:, None], far, near)
    found = told.contrast({"order": Variants(eye, typo, changed), "number": Variants(eye[:49], near[:49], far[:49])})
    assert list(found) == ["order"]  # 49 are too few
    assert found["order"].value == pytest.approx(2 / 3)
    assert found["order"].low < 2 / 3 < found["order"].high
    assert (
        told.contrast({"order": Variants(eye, near, near)})["order"].value == 0.5
    )  # who sees no difference is not right
    assert told.contrast({"order": Variants(eye, 5 * near, 2 * far)})["order"].value == 1.0  # length says nothing


def test_a_diagnosis_tells_them_of_all_that_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "PAIRED", 50)  # effects are measured on few, numbers are not
    space = pairs()
    assert diagnosis.diagnose(space).statistics == told.statistics(look(space))
