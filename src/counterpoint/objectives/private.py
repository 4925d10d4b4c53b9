"""A softmax over candidates that all anchors share, and over some that belong to one anchor alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from counterpoint.objectives.custom import Rule, per_row
from counterpoint.objectives.softmax import Temperature, between, compare, cooled, gaps, logits, picked
from counterpoint.types import Embeddings, Outcome, same_sample


def infonce_private(
    anchors: Embeddings,
    candidates: Embeddings,
    private: Embeddings,
    *,
    own: Rule,
    rule: Rule = same_sample,
    temperature: Temperature = 0.05,
    positives_compete: bool = True,
    unit: bool = True,
) -> Outcome:
    """`infonce` whose anchors have candidates of their own beside those that all share, such as rows made for one query.

    For anchor i with weights w_ij and r_ij from `rule` over the shared candidates and from `own` over the private ones,
    the loss is that of `infonce` over both together, with one denominator. A private rule that lists its pairs and
    ignores the rest (`elsewhere = (0, 0)`) costs only the listed pairs.

    Args:
        anchors: n rows.
        candidates: m rows that all anchors are compared with.
        private: k rows that `own` gives to their anchors; they may carry gradient.
        own: who owns which private row, and whether it attracts or repels.
        rule: who attracts and who repels whom among the shared candidates.
        temperature: t > 0; a number, one for each anchor, or the name of the anchors' fact that holds them.
        positives_compete: whether positives stand in the denominator.
        unit: scale all rows to length 1 first; False: s is the plain dot product.

    Returns:
        One term, "infonce_private", in nats. Notes as of `infonce`, over both sets.

    Raises:
        ValueError: for a temperature that is not above 0.

    Differs:
        An anchor without a positive, or with nothing to compete with it, does not count. Over several processes all
        private rows are brought everywhere like any candidates, since equal rows may lie on two of them.

    Relations:
        Without private rows this is `infonce`; with one set and a rule that says the same it is `infonce` over all rows.

    References:
        The softmax of MoCHi (arXiv:2010.01028), with rows of `mixed_negatives`; of CLAPS (arXiv:2012.07280), with those of
        `adversarial_negatives`; of SupReMix (arXiv:2309.16633) without its weights, with those of `mixed_by_value`.

    >>> from counterpoint.types import Pairs
    >>> each = lambda a, c: Pairs(torch.zeros(len(a), len(c)), torch.eye(len(a), len(c)))
    >>> a, c = Embeddings.of(torch.eye(2)), Embeddings.of(torch.eye(2), view=1)
    >>> round(infonce_private(a, c, c, own=each, temperature=1.0).loss.item(), 4)      # log(2 + exp(-1))
    0.862
    """
    a, c, t, bound = cooled(anchors, candidates, temperature, unit=unit)
    p = replace(private, z=private.z.to(c.z.dtype))
    p = p.to_unit() if unit else p
    both = [
        compare(logits(positives_compete), a, side, rule=says, directions="forward", bounds=between(bound))
        for side, says in ((c, rule), (p, own))
    ]
    shared, mine = (swept.rows for swept in both)
    found = {name: value + mine[name] for name, value in shared.items()}
    found["denominator"] = torch.logaddexp(shared["denominator"], mine["denominator"])
    loss = per_row(partial(picked, compete=positives_compete), replace(both[0], rows=found), "forward")
    return Outcome({"infonce_private": loss}, {"infonce_private": 1.0}, gaps(t, found))
