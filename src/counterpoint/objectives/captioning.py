"""Captioning beside contrast: an image finds its text, and a decoder writes it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from counterpoint._ops.reduce import mean
from counterpoint.objectives.custom import Directions, Rule
from counterpoint.objectives.softmax import Temperature, infonce
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, same_sample


def caption_cost(
    logits: Float[Tensor, "n t v"], labels: Int[Tensor, "n t"], *, padding: int = 0
) -> dict[str, Float[Tensor, " n"]]:
    """What each caption costs its decoder, row by row, as facts: "cost", the sum of -log p of its tokens, and "tokens".

    Args:
        logits: of the next token at each place, with the places before it as the decoder's input.
        labels: the token that stands there.
        padding: the label that does not count.

    >>> found = caption_cost(torch.zeros(1, 3, 4), torch.tensor([[2, 1, 0]]))
    >>> round(found["cost"].item(), 4), found["tokens"].item()      # 2 log 4
    (2.7726, 2.0)
    """
    there = (labels != padding).to(logits)
    found = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
    return {"cost": -(found * there).sum(1), "tokens": there.sum(1)}


@paper(row=271)
def coca(
    anchors: Embeddings,
    candidates: Embeddings,
    *,
    rule: Rule = same_sample,
    temperature: Temperature = 0.07,
    directions: Directions = "both",
    captioning: float = 2.0,
    contrast: float = 1.0,
) -> Outcome:
    """Contrast of images with texts, and the cost of writing each text from its image.

        loss = w_con infonce + w_cap sum_j cost_j / sum_j tokens_j

    Args:
        anchors: n images.
        candidates: m texts, with the facts "cost" and "tokens" of `caption_cost`.
        rule: who pairs with whom.
        temperature: of `infonce`.
        directions: of `infonce`.
        captioning: weight of the cost of a token, at least 0; 2 in the paper.
        contrast: weight of `infonce`, at least 0; 1 in the paper.

    Returns:
        Two terms, "contrast" and "captioning", in nats; notes as of `infonce`.

    Raises:
        KeyError: for texts without their costs.

    Differs:
        The paper adds the two directions of the contrast up; here as in open_clip they are averaged.

    Relations:
        With captioning = 0 it is CLIP's loss. The mean is over tokens, so a long caption counts more than a short one.

    References:
        Yu et al. 2022, arXiv:2205.01917, equation 4; CoCaLoss of github.com/mlfoundations/open_clip, loss.py.

    >>> facts = caption_cost(torch.zeros(2, 3, 4), torch.tensor([[2, 1, 0], [3, 0, 0]]))
    >>> outcome = coca(Embeddings.of(torch.eye(2)), Embeddings.of(torch.eye(2), view=1, facts=facts), temperature=1.0)
    >>> {name: round(term.item(), 4) for name, term in outcome.terms.items()}
    {'contrast': 0.3133, 'captioning': 1.3863}
    """
    missing = [name for name in ("cost", "tokens") if name not in candidates.facts]
    if missing:
        raise KeyError(f"wanted texts with the facts cost and tokens, they lack: {', '.join(missing)}")
    both = infonce(anchors, candidates, rule=rule, temperature=temperature, directions=directions)
    cost, tokens = candidates.facts["cost"], candidates.facts["tokens"]
    written = mean(cost / torch.where(tokens > 0, tokens, torch.ones_like(tokens)), tokens)
    terms = {"contrast": both.loss, "captioning": written}
    return Outcome(terms, {"contrast": contrast, "captioning": captioning}, both.notes)
