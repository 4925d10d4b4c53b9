"""Sparse codes that still tell rows apart: what their decoder gets wrong, and contrast of the codes."""

from __future__ import annotations

import torch
from torch import Tensor

from counterpoint._ops.reduce import mean, moments
from counterpoint.objectives.custom import Rule
from counterpoint.objectives.softmax import infonce
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome, same_sample


def _error(rows: Embeddings, fact: str) -> Tensor:
    """The mean squared difference of a fact and the input, over rows and coordinates."""
    return mean((rows.facts[fact] - rows.facts["input"]).square().sum(1)) / rows.facts["input"].shape[1]


def _rest(rows: Embeddings) -> Tensor:
    """How much of what the code leaves over the dead units miss, over its variance; 0 where nothing varies."""
    over = (rows.facts["input"] - rows.facts["decoded"]).detach()
    spread = moments(over, diagonal=True).covariance.sum()
    missed = mean((rows.facts["dead"] - over).square().sum(1))
    return torch.where(spread > 0, missed / torch.where(spread > 0, spread, torch.ones_like(spread)), 0.0)


@paper(row=132)
def csr(
    anchors: Embeddings,
    candidates: Embeddings | None = None,
    *,
    rule: Rule = same_sample,
    temperature: float = 0.2,
    weights: tuple[float, float, float, float] = (1.0, 1 / 8, 1 / 32, 0.1),
) -> Outcome:
    """Codes of few units have to give back their input, at k and 4 k units, and to tell samples apart.

    For an input x, what the codes of k and of 4 k units make of it, x_k and x_4k, and what dead units alone make, e,

        decoded = mean |x - x_k|^2 / d,          wide = mean |x - x_4k|^2 / d
        dead    = mean |e - sg(x - x_k)|^2 / mean |x - x_k - mean|^2
        loss    = w_1 decoded + w_2 wide + w_3 dead + w_4 infonce(codes)

    Args:
        anchors: n codes, at least 0, with the facts of `encoders.sparse.SparseCode.facts`.
        candidates: m codes with the same facts, such as of another view or kind of data. None: the anchors themselves,
            whose views are each other's positives.
        rule: who pairs with whom and who repels whom.
        temperature: t > 0, of the cosine of codes.
        weights: of the four terms, at least 0; as in the authors' code.

    Returns:
        Four terms, "decoded", "wide", "dead" and "contrast", averaged over the two sets. Notes as of `infonce`.

    Raises:
        KeyError: for rows without the facts.

    Differs:
        In the authors' code for images the second view is the same pass again, so that contrast only repels; and all
        three passes have their own statistics of dead units.

    Relations:
        Without contrast it is a sparse autoencoder (Gao et al. 2024, arXiv:2406.04093).

    References:
        Wen et al. 2025, arXiv:2503.01776; github.com/neilwen987/CSR_Adaptive_Rep, Vision/main_visual.py.

    >>> x = torch.eye(2)
    >>> facts = {"input": x, "decoded": x, "wide": x, "dead": torch.zeros(2, 2)}
    >>> one, two = (Embeddings.of(x, view=v, facts=facts) for v in (0, 1))
    >>> {name: round(term.item(), 4) for name, term in csr(one, two, temperature=1.0).terms.items()}
    {'decoded': 0.0, 'wide': 0.0, 'dead': 0.0, 'contrast': 0.3133}
    """
    sides = [anchors] if candidates is None else [anchors, candidates]
    for rows in sides:
        missing = [name for name in ("input", "decoded", "wide", "dead") if name not in rows.facts]
        if missing:
            raise KeyError(
                f"wanted codes with the facts input, decoded, wide and dead, they lack: {', '.join(missing)}"
            )
    contrast = infonce(anchors, candidates, rule=rule, temperature=temperature)
    terms = {
        "decoded": torch.stack([_error(rows, "decoded") for rows in sides]).sum() / len(sides),
        "wide": torch.stack([_error(rows, "wide") for rows in sides]).sum() / len(sides),
        "dead": torch.stack([_rest(rows) for rows in sides]).sum() / len(sides),
        "contrast": contrast.loss,
    }
    return Outcome(terms, dict(zip(terms, weights, strict=True)), contrast.notes)
