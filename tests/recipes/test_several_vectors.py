"""What recipes with several vectors a text, and distilled ones, do that their parents do not: in batch, pairs and gradient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import cross_entropy

from counterpoint.data.batches import Rows
from counterpoint.data.identity import content_id
from counterpoint.encoders.characters import embed_phrases
from counterpoint.encoders.cross import judge_pairs, load_cross, save_cross
from counterpoint.encoders.text import load
from counterpoint.encoders.tokens import token_sets
from counterpoint.objectives.softmax import infonce
from counterpoint.pairs.listed import listed
from counterpoint.recipes.distilled import dse
from counterpoint.recipes.parts_of_texts import sub_sentence
from counterpoint.recipes.phrases import pearl
from counterpoint.recipes.tokens import agrame, clrcmd, colbert, relevant_units
from counterpoint.training.method import Method
from counterpoint.types import Batch, Embeddings
from counterpoint.views.units import sentences

PASSAGES = ["d1 w1. q2 d3. w5 w6.", "d4 w2. d5 q6 w3.", "w7 d8. w9 d9 q1. d2."]
RELEVANT = ["q2 d3.", "d5 q6 w3.", "w7 d8."]
FRAME = pl.DataFrame(
    {
        "anchor": ["q1 w2", "q3 q4 w5", "q5"],
        "positive": [[passage, unit] for passage, unit in zip(PASSAGES, RELEVANT, strict=True)],
        "negative": [["d7 d8"], [], ["w1"]],
        "label": ["x", "y", "x"],
    }
)
TRAIN = Rows.of(FRAME)
PAIRS = Rows.of(FRAME.with_columns(positive=pl.Series([[p] for p in PASSAGES])))


def encoded(method: Method, rows: Rows = PAIRS) -> tuple[dict[str, Batch], dict[str, Embeddings]]:
    views = method.views(rows.take(np.arange(len(rows))), torch.Generator().manual_seed(0))
    method.modules.eval()
    return views, method.encode(method.modules, views)


def cosines(x: Embeddings, y: Embeddings) -> list[list[torch.Tensor]]:
    return [
        [a[am] @ c[cm].T for c, cm in zip(y.z, y.facts["mask"], strict=True)]
        for a, am in zip(x.z, x.facts["mask"], strict=True)
    ]


@pytest.mark.proves(row=161, fact="reference")
def test_clrcmd_is_a_softmax_of_both_directions_of_matching(tiny: Path) -> None:
    """src/clrcmd/models.py at github.com/sh0416/clrcmd: RelaxedWordMoverSimilarity over the temperature, cross-entropy on
    the diagonal; negatives behind the positives."""
    method = clrcmd(load(str(tiny)), PAIRS, tokens=12)
    views, sets = encoded(method)
    assert len(views["candidate"]["text"]) == 5  # a positive of each row, and the two negatives that there are
    pairs = cosines(sets["anchor"], sets["candidate"])
    score = torch.stack([torch.stack([(s.max(1)[0].mean() + s.max(0)[0].mean()) / 2 for s in row]) for row in pairs])
    place = [views["candidate"]["text"].index(p) for p in PASSAGES]
    wanted = cross_entropy(score / 0.05, torch.tensor(place))
    outcome = method.objective(method.modules, sets)
    assert outcome.loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    weight = method.modules["tokens"].weight
    ours, theirs = (torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in (outcome.loss, wanted))
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert method.modules["tokens"].bias is not None


def test_clrcmd_of_one_token_is_the_parent_on_one_vector(tiny: Path) -> None:
    method = clrcmd(load(str(tiny)), PAIRS, tokens=1)
    _, sets = encoded(method)
    plain = [replace(s, z=s.z[:, 0]) for s in (sets["anchor"], sets["candidate"])]
    wanted = infonce(*plain, rule=listed(PAIRS.relation), temperature=0.05).loss
    assert method.objective(method.modules, sets).loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_colbert_adds_the_best_of_each_token_of_the_query(tiny: Path) -> None:
    method = colbert(load(str(tiny)), PAIRS, width=8, tokens=12)
    views, sets = encoded(method)
    assert sets["anchor"].z.shape[1:] == (12, 8)
    score = torch.stack(
        [torch.stack([s.max(1)[0].sum() for s in row]) for row in cosines(sets["anchor"], sets["candidate"])]
    )
    place = [views["candidate"]["text"].index(p) for p in PASSAGES]
    wanted = cross_entropy(score, torch.tensor(place))
    assert method.objective(method.modules, sets).loss.item() == pytest.approx(wanted.item(), rel=1e-4)


@pytest.mark.proves(row=149, fact="closed-form")
def test_agrame_adds_a_softmax_over_the_sentences_of_the_own_passage(tiny: Path) -> None:
    method = agrame(load(str(tiny)), TRAIN, width=8, tokens=16, unit_weight=0.5, marker="w9 ")
    views, sets = encoded(method, TRAIN)
    assert views["candidate"]["text"] == PASSAGES  # a listed sentence is no passage
    assert views["unit anchor"]["text"] == ["w9 " + text for text in TRAIN.anchors]
    outcome = method.objective(method.modules, sets)
    asked, whole, costs = sets["unit anchor"], sets["candidate"], []
    for i in range(3):
        query, tokens = asked.z[i][asked.facts["mask"][i]], whole.z[i]
        of = whole.facts["units"][i]
        found = torch.stack([(query @ tokens[m].T).max(1)[0].sum() for m in of if m.any()])
        ids = [int(u) for u, m in zip(whole.facts["unit_ids"][i], of, strict=True) if m.any()]
        costs.append(cross_entropy(found, torch.tensor(ids.index(content_id(RELEVANT[i])))))
    wanted = torch.stack(costs).mean()
    assert outcome.terms["units"].item() == pytest.approx(wanted.item(), rel=1e-4)
    assert outcome.weights == {"passages": 1.0, "units": 0.5}
    parent = colbert(method.modules["encoder"], TRAIN, width=8, tokens=16)
    assert outcome.terms["passages"].item() == pytest.approx(
        parent.objective(parent.modules, sets).loss.item(), rel=1e-5
    )


def test_agrame_without_known_sentences_is_its_parent_and_a_teacher_tells_them(tiny: Path, tmp_path: Path) -> None:
    untold = agrame(load(str(tiny)), PAIRS, width=8, tokens=16)
    _, sets = encoded(untold)
    assert untold.objective(untold.modules, sets).terms["units"].item() == 0.0
    torch.manual_seed(0)
    teacher = load_cross(tiny)
    save_cross(teacher, tmp_path / "teacher")
    told = agrame(load(str(tiny)), PAIRS, teacher=str(tmp_path / "teacher"), width=8, tokens=16)
    assert told.objective(told.modules, sets).terms["units"].item() > 0.1


@pytest.mark.proves(row=145, fact="reference")
def test_sub_sentence_is_supcon_of_marked_parts(tiny: Path) -> None:
    """model/losses.py at github.com/schen149/sub-sentence-encoder: SupConLoss of pytorch_metric_learning, as it is."""
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    left = ["[[q1 q2]] w1 w2", "q1 q2 [[w1 w2]]", "q9 [[w4]]"]
    right = ["d1 [[d2]] w3", "[[d4 w5]] d6", "d7"]
    rows = Rows.of(pl.DataFrame({"anchor": left, "positive": [[text] for text in right]}))
    method = sub_sentence(load(str(tiny)), rows)
    views, sets = encoded(method, rows)
    both = Embeddings.cat([sets["anchor"], sets["candidate"]])
    assert both.facts["label"].tolist() == [content_id(text) for text in left] * 2
    label = torch.tensor([0, 1, 2, 0, 1, 2])
    wanted = losses.SupConLoss()(both.z, label)
    outcome = method.objective(method.modules, sets)
    assert outcome.loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    weights = list(method.modules["propositions"].parameters())
    ours, theirs = (torch.autograd.grad(loss, weights, retain_graph=True) for loss in (outcome.loss, wanted))
    assert all(torch.allclose(o, t, atol=1e-5) for o, t in zip(ours, theirs, strict=True))
    calls = []
    hook = method.modules["encoder"].model[0].register_forward_pre_hook(lambda _, given: calls.append(given))
    method.encode(method.modules, {"anchor": views["anchor"]})
    hook.remove()
    assert [len(given[0]["input_ids"]) for given in calls] == [2]  # two texts, three propositions


@pytest.mark.proves(row=140, fact="reference")
def test_pearl_is_nt_xent_of_phrases_and_edits_and_two_costs_of_kinds(tiny: Path) -> None:
    """source/main.py and loss.py at github.com/tigerchen52/PEARL: NTXentLoss at 0.07, and the cross-entropy of both views."""
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    method = pearl(load(str(tiny)), TRAIN, rate=1.0, type_weight=0.5)
    views, sets = encoded(method, TRAIN)
    first, second = views["first"]["text"], views["second"]["text"]
    assert first == [*TRAIN.anchors, "d7 d8", "w1"]  # given negatives are phrases of the batch
    assert first != second
    z = [sets[name].z for name in ("first", "second")]
    assert torch.allclose(z[0], embed_phrases(method.modules["encoder"], first), atol=1e-5)
    assert z[0].shape[1] == 32 + 8
    wanted = losses.NTXentLoss(temperature=0.07)(torch.cat(z), torch.arange(5).repeat(2))
    outcome = method.objective(method.modules, sets)
    assert outcome.terms["phrases"].item() == pytest.approx(wanted.item(), rel=1e-4)
    kinds = [cross_entropy(method.modules["types"](x[:3]), TRAIN.labels) for x in z]
    assert outcome.terms["types"].item() == pytest.approx(torch.stack(kinds).sum().item(), rel=1e-4)
    assert outcome.weights["types"] == 0.5


def test_pearl_without_kinds_has_no_head_for_them(tiny: Path) -> None:
    assert "types" not in pearl(load(str(tiny)), TRAIN, type_weight=0.0).modules
    assert "types" not in pearl(load(str(tiny)), replace(TRAIN, labels=None)).modules


def test_letters_alone_find_a_typo(tiny: Path) -> None:
    torch.manual_seed(0)
    letters = pearl(load(str(tiny)), TRAIN).modules["characters"]
    words = ["contrastive", "cooperation", "representation", "transformer"]
    z = torch.nn.functional.normalize(letters(["contrsative", "cooepration", "represnetation", "trasnformer", *words]))
    assert (z[:4] @ z[4:].T).argmax(1).tolist() == [0, 1, 2, 3]


@pytest.mark.proves(row=251, fact="reference")
@pytest.mark.parametrize("head", ["compare", "dot"])
def test_dse_fits_the_scores_of_its_teacher(head: str, tiny: Path, tmp_path: Path) -> None:
    """feature_extractors.py and dse_trainer.py at github.com/microsoft/Distilled-Sentence-Embedding: squares of the
    difference of logits, mixed with the task by a coefficient."""
    torch.manual_seed(0)
    teacher = load_cross(tiny)
    save_cross(teacher, tmp_path / "teacher")
    method = dse(load(str(tiny)), PAIRS, teacher=str(tmp_path / "teacher"), share=0.75, head=head, negatives=2)  # type: ignore[arg-type]
    views, sets = encoded(method)
    pair = views["pair"]
    u, v = method.modules["encoder"](pair["text"]), method.modules["encoder"](pair["other"], "positive")
    layers = method.modules["pairs"].layers
    seen = torch.cat([u, v, u * v, (u - v).abs()], 1) if head == "compare" else (u * v).sum(1, keepdim=True)
    score, judged = layers(seen)[:, 0], teacher.eval()(pair["text"], pair["other"]).detach()
    apart = (score - judged).square().mean()
    task = torch.nn.functional.binary_cross_entropy_with_logits(score, pair["positive"].float())
    wanted, outcome = 0.75 * apart + 0.25 * task, method.objective(method.modules, sets)
    assert outcome.loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert not any(p.requires_grad for p in method.modules["teacher"].parameters())
    method.modules.train()  # the teacher does not drop anything, whatever the student does
    again = method.encode(method.modules, views)["pair"].facts["teacher"]
    assert torch.allclose(again, judged, atol=1e-5)


def test_dse_without_a_teacher_is_the_task_alone(tiny: Path) -> None:
    method = dse(load(str(tiny)), PAIRS)
    assert set(method.objective(method.modules, encoded(method)[1]).terms) == {"task"}


LISTED = Rows.of(
    FRAME.with_columns(positive=pl.Series([[p] for p in PASSAGES]), negative=pl.Series([["d7", "d8 w1"]] * 3))
)
PROMPTS = {"anchor": "w9 ", "positive": "w8 w7 "}


@pytest.mark.parametrize("recipe", [colbert, clrcmd])
def test_late_interaction_takes_as_many_negatives_as_it_is_told(recipe, tiny: Path) -> None:
    views, _ = encoded(recipe(load(str(tiny)), LISTED, negatives=2), LISTED)
    assert len(views["candidate"]["text"]) == 3 + 6


def test_both_sides_of_agrame_are_read_in_their_roles(tiny: Path) -> None:
    method = agrame(load(str(tiny), prompts=PROMPTS), TRAIN, width=8, tokens=16, marker="w6 ")
    views, sets = encoded(method, TRAIN)
    for name, role in (("anchor", "anchor"), ("unit anchor", "anchor"), ("candidate", "positive")):
        wanted = token_sets(method.modules["encoder"], views[name]["text"], role, tokens=16).z
        assert torch.allclose(sets[name].z, wanted, atol=1e-5)


def test_a_teacher_gives_each_sentence_its_share_of_the_passage(tiny: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_cross(load_cross(tiny), tmp_path / "teacher")
    found = relevant_units(PAIRS, str(tmp_path / "teacher"), units=8)
    graded = dict(
        zip(zip(found.anchor_id.tolist(), found.candidate_id.tolist(), strict=True), found.grade.tolist(), strict=True)
    )
    for query, text in zip(PAIRS.anchors, PASSAGES, strict=True):
        parts = [text[a:b] for a, b in sentences(text)]
        shares = judge_pairs(load_cross(tmp_path / "teacher"), [query] * len(parts), parts).softmax(0).tolist()
        given = [graded[content_id(query), content_id(part)] for part in parts]
        assert given == pytest.approx(shares, rel=1e-4)


def test_propositions_are_read_in_their_role(tiny: Path) -> None:
    rows = Rows.of(pl.DataFrame({"anchor": ["[[q1 q2]] w1", "q3 [[q4]]"], "positive": [["d1 [[d2]]"], ["[[d3]] d4"]]}))
    method = sub_sentence(load(str(tiny), prompts=PROMPTS), rows)
    encoder, (_, sets) = method.modules["encoder"], encoded(method, rows)
    for name, role, text, place in (
        ("anchor", "anchor", "q1 q2 w1", slice(2, 4)),
        ("candidate", "positive", "d1 d2", slice(4, 5)),
    ):
        states = encoder.model[0](encoder.model.preprocess([PROMPTS[role] + text]))["token_embeddings"][0, place]
        assert torch.allclose(sets[name].z[0], method.modules["propositions"](states.mean(0)), atol=1e-5)


def test_phrases_get_typos_and_take_as_many_negatives_as_they_are_told(tiny: Path) -> None:
    words = ["letters", "wonderful", "something", "represent"] * 3
    rows = Rows.of(pl.DataFrame({"anchor": [f"{w}{i}" for i, w in enumerate(words)], "negative": [["d7", "d8"]] * 12}))
    views, _ = encoded(pearl(load(str(tiny)), rows, rate=1.0, negatives=2), rows)
    first, second = views["first"], views["second"]
    assert len(first["text"]) == 12 + 24
    assert len(first["row"].unique()) == 12 + 2  # equal negatives draw alike, and nothing else does
    changed = [(a, b) for a, b in zip(first["text"], second["text"], strict=True) if a != b]
    assert changed
    assert all(sorted(a) == sorted(b) for a, b in changed)


def test_spelling_is_a_mean_over_pieces(tiny: Path) -> None:
    letters = pearl(load(str(tiny)), TRAIN).modules["characters"]
    assert torch.allclose(letters(["cat"]), letters(["cat cat"]), atol=1e-6)


def test_dse_reads_both_sides_in_their_roles_and_keeps_its_sizes(tiny: Path) -> None:
    method = dse(load(str(tiny), prompts=PROMPTS), LISTED, hidden=7, negatives=2)
    views, sets = encoded(method, LISTED)
    pair, encoder, head = views["pair"], method.modules["encoder"], method.modules["pairs"]
    assert len(pair["text"]) == 3 * (1 + 2)
    assert head.layers[0].out_features == 7
    wanted = head(encoder(pair["text"], "anchor"), encoder(pair["other"], "positive"))
    assert torch.allclose(sets["pair"].facts["score"], wanted, atol=1e-5)
