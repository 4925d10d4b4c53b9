"""What recipes for a few labelled texts draw, ask and score."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from counterpoint.data.batches import Rows
from counterpoint.encoders.masked import words_of
from counterpoint.encoders.text import embed, load
from counterpoint.errors import Refusal
from counterpoint.recipes.few_shot import lm_supcon, prompted, setfit, with_partners, word_numbers
from counterpoint.training.method import Method
from counterpoint.types import Embeddings, Outcome

from ..conftest import toy_rows

TEXTS = [row["query"] for row in toy_rows(14)]
CLASSES = ["w1", "w2", "w3"]  # each is a word of the tiny model
LABELS = [CLASSES[0]] * 6 + [CLASSES[1]] * 7 + [CLASSES[2]]
DATA = Rows.of(pl.DataFrame({"anchor": TEXTS, "label": LABELS}))


def made(recipe: Any, folder: Path, **settings: Any) -> Method:
    torch.manual_seed(0)
    return recipe(load(str(folder)), DATA, **settings)


def run(method: Method) -> tuple[dict[str, Any], dict[str, Embeddings], Outcome]:
    torch.manual_seed(1)
    method.modules.train()
    views = method.views(DATA.take(np.arange(14)), torch.Generator().manual_seed(0))
    sets = method.encode(method.modules, views)
    return views, sets, method.objective(method.modules, sets)


# ---- SetFit


@pytest.mark.proves(row=122, fact="closed-form")
def test_setfit_draws_as_many_pairs_of_a_class_as_of_two_and_none_with_itself() -> None:
    seen: Counter[tuple[int, int]] = Counter()
    for seed in range(60):
        found = with_partners(DATA, DATA.take(np.arange(14)), torch.Generator().manual_seed(seed))["candidate"]
        assert found["label"].tolist() == [1] * 14 + [0] * 14
        for row, text, good in zip(found["row"].tolist(), found["text"], found["label"].tolist(), strict=True):
            other = TEXTS.index(text)
            assert (LABELS[other] == LABELS[row]) == bool(good)
            assert other != row or LABELS.count(LABELS[row]) == 1
            seen[row, other] += 1
    assert all(seen[0, k] for k in range(14) if k)  # every partner comes, of its class and of another
    assert max(seen[0, k] for k in range(1, 6)) < 30


@pytest.mark.proves(row=122, fact="closed-form")
def test_setfit_is_the_mean_square_of_what_its_cosines_lack(tiny: Path) -> None:
    _, sets, outcome = run(made(setfit, tiny))
    anchors, candidates = sets["anchor"].z.repeat(2, 1), sets["candidate"].z
    wanted = torch.tensor([1.0, 0.0]).repeat_interleave(14)
    loss = (torch.cosine_similarity(anchors, candidates) - wanted).square().mean()
    assert outcome.loss.item() == pytest.approx(loss.item(), rel=1e-5)


def test_setfit_without_a_step_leaves_the_regression_what_it_was(tiny: Path) -> None:
    method = made(setfit, tiny)
    assert torch.equal(embed(method.model(method.modules), TEXTS), embed(load(str(tiny)), TEXTS))
    assert list(dict(method.modules.named_children())) == ["encoder"]


def test_setfit_needs_two_classes(tiny: Path) -> None:
    with pytest.raises(Refusal, match="two classes"):
        setfit(load(str(tiny)), Rows.of(pl.DataFrame({"anchor": ["a", "b"], "label": ["x", "x"]})))


# ---- LM-SupCon


def test_a_prompt_shows_other_rows_of_each_class_with_its_word() -> None:
    (text,) = prompted(
        DATA, "{text} is {mask}", words=["u", "v", "w"], mask="[MASK]", numbers=[[0.0, 0.99, 0.5]], rows=[0]
    )
    assert text == f"{TEXTS[0]} is [MASK] {TEXTS[1]} is u {TEXTS[12]} is v {TEXTS[13]} is w"
    (alone,) = prompted(DATA, "{text} {mask}", words=["u", "v", "w"], mask="[MASK]", numbers=[[0.0] * 3], rows=[13])
    assert alone == f"{TEXTS[13]} [MASK] {TEXTS[0]} u {TEXTS[6]} v"  # nobody else is of its class


def lone_supcon(z: torch.Tensor, label: torch.Tensor, t: float) -> torch.Tensor:
    """SupConLoss of src/losses.py at github.com/yiren-jian/LM-SupCon, re-stated: all views are anchors."""
    z, costs = normalize(z, dim=1), []
    for i in range(len(z)):
        rest = [k for k in range(len(z)) if k != i]
        logits = z[i] @ z[rest].T / t
        good = label[rest] == label[i]
        costs.append(-(logits - logits.logsumexp(0))[good].mean())
    return torch.stack(costs).mean()


@pytest.mark.proves(row=118, fact="reference")
def test_lm_supcon_guesses_the_word_of_the_class_and_draws_masks_of_a_class_together(tiny: Path) -> None:
    method = made(lm_supcon, tiny, weight=0.5)
    method.modules["encoder"].set_dropout(0.0)
    views, _, outcome = run(method)
    model = method.modules["encoder"].model
    tokens, states, costs = model.tokenizer, [], []
    numbers = torch.tensor(tokens.convert_tokens_to_ids(CLASSES))
    for name in ("first", "second"):
        for text, label in zip(views[name]["text"], DATA.labels.tolist(), strict=True):
            features = model.preprocess([text])
            hidden = model[0](features)["token_embeddings"][0]
            (state,) = hidden[features["input_ids"][0] == tokens.mask_token_id]
            states.append(state)
            table = model[0].auto_model.get_input_embeddings().weight
            logits = words_of(method.modules["encoder"])(state[None], table)[:, numbers]
            costs.append(cross_entropy(logits, torch.tensor([label])))
    assert outcome.terms["word"].item() == pytest.approx(torch.stack(costs[:14]).mean().item(), rel=1e-4)
    contrast = lone_supcon(torch.stack(states), DATA.labels.repeat(2), 0.07)
    assert outcome.loss.item() == pytest.approx((torch.stack(costs[:14]).mean() + 0.5 * contrast).item(), rel=1e-3)
    assert views["first"]["text"] != views["second"]["text"]


def test_without_weight_lm_supcon_is_prompt_tuning(tiny: Path) -> None:
    _, sets, outcome = run(made(lm_supcon, tiny, weight=0.0))
    assert torch.equal(outcome.loss, sets["first"].facts["word"].mean())
    outcome.loss.backward()


def test_equal_prompts_have_equal_masks(tiny: Path) -> None:
    form = "{text} {mask}"
    method = made(lm_supcon, tiny, template=form, second=form)
    method.modules["encoder"].set_dropout(0.0)
    batch = DATA.take(np.arange(14))
    views = method.views(batch, torch.Generator().manual_seed(0))
    views["second"] = {**views["second"], "text": views["first"]["text"]}
    sets = method.encode(method.modules, views)
    assert torch.equal(sets["first"].z, sets["second"].z)


@pytest.mark.parametrize(("settings", "said"), [({"template": "{text}"}, "template"), ({"words": "a,b"}, "3 words")])
def test_what_cannot_be_asked_is_refused(settings: dict[str, str], said: str, tiny: Path) -> None:
    with pytest.raises(Refusal, match=said):
        made(lm_supcon, tiny, **settings)


def test_a_mask_that_is_cut_off_is_refused(tiny: Path) -> None:
    encoder = load(str(tiny), lengths={"anchor": 4})
    method = lm_supcon(encoder, DATA)
    with pytest.raises(Refusal, match="cut off"):
        method.encode(method.modules, method.views(DATA.take(np.arange(14)), torch.Generator()))


def test_partners_and_demonstrations_are_drawn_for_each_row(tiny: Path) -> None:
    batch = DATA.take(np.arange(14))
    found = with_partners(DATA, batch, torch.Generator().manual_seed(0))["candidate"]["text"]
    assert len(set(found[6:13])) > 2  # of seven rows of a class
    assert len(set(found[20:27])) > 2
    first = made(lm_supcon, tiny).views(batch, torch.Generator().manual_seed(0))["first"]["text"]
    shown = [text.split(" It was ")[2].split(". ")[1] for text in first[:6]]  # of the second class
    assert len(set(shown)) > 2


def test_the_second_prompt_has_its_own_words(tiny: Path) -> None:
    views = made(lm_supcon, tiny).views(DATA.take(np.arange(14)), torch.Generator())
    assert all(" It was [MASK] ." in text and "I think" not in text for text in views["first"]["text"])
    assert all(" I think it is [MASK] ." in text and "It was" not in text for text in views["second"]["text"])


def test_a_word_of_several_tokens_is_asked_for_by_its_first(tiny: Path) -> None:
    encoder = load(str(tiny))
    tokens = encoder.model.tokenizer
    assert word_numbers(encoder, ["w1 w2", "w3"]).tolist() == tokens.convert_tokens_to_ids(["w1", "w3"])
