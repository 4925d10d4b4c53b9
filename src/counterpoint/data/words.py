"""Words of texts, and how common they are in the data themselves."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

WORD = re.compile(r"\w+")


def frequency(*sides: Sequence[str]) -> list[list[float]]:
    """For each text, how common its words are: the mean of the logarithm of how many texts of all sides hold each.

        f(text) = 1/|words| sum_{w in words} log n_w

    Args:
        sides: distinct texts; case says nothing.

    Returns:
        For each side a number a text: 0 where every word is the text's own, log n where all n texts hold every word; 0
        for a text without words.

    >>> [[round(x, 3) for x in side] for side in frequency(["a cat", "a dog"], ["a"])]
    [[0.549, 0.549], [1.099]]
    """
    words = [[set(WORD.findall(text.lower())) for text in side] for side in sides]
    held = Counter(word for side in words for found in side for word in found)
    return [[sum(math.log(held[w]) for w in found) / max(1, len(found)) for found in side] for side in words]
