"""Counterpoint: contrastive representation learning on your own data.

Give it your data: it trains an embedding model with the published method you choose, proves whether the model is better
than what you had, and lets you search with the result. Importing this package imports nothing heavy; the names below
load what they need when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from counterpoint.errors import Refusal
    from counterpoint.evaluation.mteb_adapter import as_mteb
    from counterpoint.verbs.check import check
    from counterpoint.verbs.compare import compare
    from counterpoint.verbs.demo import demo
    from counterpoint.verbs.diagnose import diagnose
    from counterpoint.verbs.embed import embed
    from counterpoint.verbs.evaluate import evaluate
    from counterpoint.verbs.fit import fit
    from counterpoint.verbs.mine import mine
    from counterpoint.verbs.model import load, search
    from counterpoint.verbs.stages import stages

__version__ = "0.1.0"
__all__ = [
    "Refusal", "as_mteb", "check", "compare", "demo", "diagnose", "embed", "evaluate", "fit", "load", "mine",
    "search", "stages",
]  # fmt: skip

_HOMES = {
    "Refusal": "counterpoint.errors",
    "as_mteb": "counterpoint.evaluation.mteb_adapter",
    "check": "counterpoint.verbs.check",
    "compare": "counterpoint.verbs.compare",
    "demo": "counterpoint.verbs.demo",
    "diagnose": "counterpoint.verbs.diagnose",
    "embed": "counterpoint.verbs.embed",
    "evaluate": "counterpoint.verbs.evaluate",
    "fit": "counterpoint.verbs.fit",
    "load": "counterpoint.verbs.model",
    "mine": "counterpoint.verbs.mine",
    "search": "counterpoint.verbs.model",
    "stages": "counterpoint.verbs.stages",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'counterpoint' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
