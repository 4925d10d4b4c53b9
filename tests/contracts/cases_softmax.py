"""Objectives that need an argument."""

from __future__ import annotations

from functools import partial

import torch

from counterpoint.objectives.pair_weighting import proxy_anchor, proxy_nca
from counterpoint.objectives.reweighted import hn_nce
from counterpoint.pairs.labels import labelled
from tests.contracts.case import Case, Cases

T = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
CASES: Cases = {
    "hn_nce": Case(partial(hn_nce, beta=0.5, rule=labelled())),
    "hn_nce, forward and learnable": Case(
        partial(hn_nce, beta=0.5, rule=labelled(), directions="forward", temperature=T), (T,)
    ),
    "proxy_nca": Case(partial(proxy_nca, rule=labelled()), sweeps=False, replicated=True),
    "proxy_anchor": Case(partial(proxy_anchor, rule=labelled()), sweeps=False, replicated=True),
}
