"""A codebook: each row stands for the nearest of a few learned rows."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from counterpoint._ops.neighbours import neighbours
from counterpoint._ops.reduce import mean
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome


class Quantised(NamedTuple):
    """The code of each row, its entry with the gradient of the row, and what both cost."""

    code: Int[Tensor, " n"]
    z: Float[Tensor, "n d"]
    cost: Outcome


@paper(row=167)
class Codebook(nn.Module):
    """Quantises each row to the nearest entry, which learns to lie where its rows are.

    For the entry e_c nearest to row x, with sg for no gradient,

        cost = mean_i |e_c(i) - sg(x_i)|^2 + commitment mean_i |sg(e_c(i)) - x_i|^2

    and the gradient of the quantised row goes to the row as if it had not been quantised (straight through).

    Args:
        entries: [k, d], where they start; TSCTM starts from the unit matrix, one entry for each topic.
        commitment: how strongly rows are drawn to their entries, at least 0; 0.1 in TSCTM.

    Differs:
        Squared distances are added up over the width, as in TSCTM; the code of VQ-VAE takes their mean. Without
        augmentation the authors' loss counts each row among its own positives with a similarity of 0, and lets a row that
        is alone in its code repel; here it does not count. It adds 1e-10 inside the logarithm.

    Relations:
        The code is a fact of a row: `infonce` with positives_compete=False is the loss of TSCTM, under labelled("code") its
        term of equal codes, under without(same_sample, equal("code")) that of two views; `Outcome.of` weighs them.

    References:
        van den Oord, Vinyals, Kavukcuoglu 2017, arXiv:1711.00937; Wu, Luu, Dong 2022, arXiv:2211.12878;
        models/TopicDistQuant.py of github.com/BobXWu/TSCTM.

    >>> found = Codebook(torch.eye(2))(torch.tensor([[0.9, 0.1], [0.0, 2.0]]))
    >>> found.code.tolist(), found.z.tolist(), round(found.cost.loss.item(), 4)      # 1.1 (0.02 + 1) / 2
    ([0, 1], [[1.0, 0.0], [0.0, 1.0]], 0.561)
    """

    def __init__(self, entries: Float[Tensor, "k d"], *, commitment: float = 0.1) -> None:
        super().__init__()
        if not len(entries) or not commitment >= 0:
            raise ValueError(f"wanted entries and a commitment of at least 0, got {len(entries)} and {commitment}")
        self.entries, self.commitment = nn.Parameter(entries.detach().clone()), commitment

    @torch.no_grad()
    def code(self, z: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
        """The number of the nearest entry of each row: of the largest x . e - |e|^2 / 2."""
        entries = self.entries.to(z)
        height = entries.square().sum(1, keepdim=True) / -2
        rows = Embeddings.of(torch.cat([z, torch.ones_like(z[:, :1])], 1))
        there = replace(Embeddings.of(torch.cat([entries, height], 1)), placement="replicated")
        return neighbours(rows, there, 1).index[:, 0]

    def forward(self, z: Float[Tensor, "n d"]) -> Quantised:
        """Quantise rows; the cost is the mean over the rows of all processes."""
        code = self.code(z)
        entry = self.entries[code]
        terms = {
            "entries": mean((entry - z.detach()).square().sum(1)),
            "commitment": mean((entry.detach() - z).square().sum(1)),
        }
        weights = {"entries": 1.0, "commitment": self.commitment}
        return Quantised(code, z + (entry - z).detach(), Outcome(terms, weights, {}))
