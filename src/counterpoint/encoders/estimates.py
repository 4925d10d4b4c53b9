"""What is remembered of each training sample: a running mean of its exponentials, and its own temperature."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from counterpoint._ops.processes import everywhere
from counterpoint._ops.scores import FLOOR
from counterpoint.papers import paper
from counterpoint.types import Embeddings, Outcome


@paper(row=187)
class Estimates(nn.Module):
    """A running denominator and a temperature for each sample, by the fact `row`; on all processes, in every checkpoint.

    `of` gives rows the facts that `objectives.estimated` reads; `follow` takes its notes:

        u <- estimate,    m <- (1 - beta) m + beta slope,    t <- clip(t - eta m, least, most)

    where the rows of a sample, such as its two views, count by their mean.

    Args:
        size: how many samples there are.
        temperature: where all start, above 0.
        eta: step of the temperature; 0 leaves all at where they start, which is SogCLR.
        beta: what of the slope's running mean is new, from 0 to 1.
        least, most: between which temperatures stay.

    Differs:
        u is kept as its logarithm, so that no temperature is too low for it. A sample that was never seen starts with
        what its first batch gives; the authors' code asks whether a whole batch is new.

    References:
        Qiu et al. 2023, arXiv:2305.11965; libauc/losses/contrastive.py of github.com/Optimization-AI/LibAUC, whose
        defaults for one modality are those here; for two it has least 0.005, most 0.05 and two tables.

    >>> estimates = Estimates(3, temperature=0.2)
    >>> rows = estimates.of(Embeddings.of(torch.eye(2), facts={"row": torch.tensor([2, 0])}))
    >>> rows.facts["temperature"].tolist() == [estimates.temperature[0].item()] * 2
    True
    """

    log_u: Tensor
    temperature: Tensor
    slope: Tensor

    def __init__(
        self,
        size: int,
        *,
        temperature: float = 0.1,
        eta: float = 0.01,
        beta: float = 0.9,
        least: float = 0.05,
        most: float = 0.7,
    ) -> None:
        super().__init__()
        if not 0 < least <= most or not temperature > 0 or not 0 <= beta <= 1 or not eta >= 0:
            raise ValueError(
                "wanted a temperature, least and most above 0, beta from 0 to 1, eta of at least 0, "
                f"got {temperature}, {least}, {most}, {beta}, {eta}"
            )
        self.eta, self.beta, self.least, self.most = eta, beta, least, most
        self.register_buffer("log_u", torch.full((size,), FLOOR))
        self.register_buffer("temperature", torch.full((size,), float(temperature)))
        self.register_buffer("slope", torch.zeros(size))

    def of(self, rows: Embeddings) -> Embeddings:
        """The rows with the facts `estimate` (log u; -1e9 where there is none) and `temperature`, without gradient."""
        row = rows.facts["row"]
        facts = {"estimate": self.log_u[row], "temperature": self.temperature[row]}
        return replace(rows, facts={**rows.facts, **facts})

    @torch.no_grad()
    def follow(self, rows: Embeddings, outcome: Outcome, *, term: str | None = None) -> None:
        """Take over what `estimated` noted of these anchors, of all processes.

        Args:
            rows: the anchors.
            outcome: what `estimated` said of them, or an `Outcome.of` that has it among its terms.
            term: the name of that term, where several have estimates, such as two directions with a table each.

        Raises:
            ValueError: for notes of other rows.
            KeyError: for an outcome without estimates.
        """
        wanted = [f"{term} {name}" if term else name for name in ("estimate", "slope")]
        if missing := [name for name in wanted if name not in outcome.notes]:
            known = ", ".join(sorted(outcome.notes)) or "none"
            raise KeyError(f"wanted an outcome of `estimated` with the notes {missing}, it has: {known}")
        notes = torch.stack([outcome.notes[name].to(self.log_u) for name in wanted], 1)
        if len(notes) != len(rows):
            raise ValueError(f"wanted the anchors that were noted, {len(notes)} rows, got {len(rows)}")
        told = everywhere(replace(rows, z=notes, facts={"row": rows.facts["row"]}))
        estimate, slope = told.z.T
        known = estimate > FLOOR / 2
        row, place = told.facts["row"][known].unique(return_inverse=True)
        times = torch.bincount(place, minlength=len(row)).to(self.log_u)
        new = estimate[known]
        best = new.new_full((len(row),), FLOOR).scatter_reduce(0, place, new, "amax")
        total = torch.zeros_like(best).index_add(0, place, (new - best[place]).exp())
        self.log_u[row] = best + (total / times).log()
        slope = torch.zeros_like(best).index_add(0, place, slope[known]) / times
        self.slope[row] = (1 - self.beta) * self.slope[row] + self.beta * slope
        if self.eta:
            moved = self.temperature[row] - self.eta * self.slope[row]
            self.temperature[row] = moved.clamp(self.least, self.most)
