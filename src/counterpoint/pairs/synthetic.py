"""Made rows: mixtures, noise, hallucinations. Whose they are, and whom they attract.

A made row that belongs to a row has the id -1 - id of its owner, and its owner's view and part. That is arithmetic and
no fact, since a set that is joined with one without the fact loses it, and ids are never lost; and it is an id below 0,
so that a made row is no sample's. It takes owners that are samples (ids of at least 0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from counterpoint._ops.hashed import hashed_uniform
from counterpoint._ops.join import matches
from counterpoint.papers import paper
from counterpoint.types import Edges, Embeddings, Pairs, densify

ATTRACTS = "attracts"  # the fact of made rows that says how strongly they attract their owner; the rest of 1 repels it
SOURCES, SHARES = "sources", "shares"  # the facts [n, k] of a mixture: content ids, and how much of each is in it


def _made_id(rows: Embeddings) -> Int[Tensor, " n"]:
    """The ids of what is made of the given rows; what is made of a made row would have the id of a sample."""
    if bool((rows.id < 0).any()):
        raise ValueError(
            f"wanted rows of samples, with ids of at least 0, got an id of {int(rows.id.min())}: a made row"
        )
    return -1 - rows.id


def made(
    owners: Embeddings, z: Float[Tensor, "n ..."], *, attracts: float, facts: Mapping[str, Tensor] | None = None
) -> Embeddings:
    """Made rows that belong to given rows, one to each.

    Args:
        owners: n rows of samples, ids of at least 0.
        z: the made vectors.
        attracts: how strongly each is a positive of its owner, from 0 to 1; the rest makes it a negative.
        facts: what else is known of each.

    Raises:
        ValueError: for owners that are made themselves.

    >>> made(Embeddings.of(torch.eye(2), id=torch.tensor([7, 0])), torch.ones(2, 2), attracts=0.0).id.tolist()
    [-8, -1]
    """
    weight = torch.full((len(z),), attracts, dtype=z.dtype, device=z.device)
    return replace(owners, z=z, id=_made_id(owners), facts={**(facts or {}), ATTRACTS: weight})


def by_identity(
    generator: torch.Generator, rows: Embeddings, number: Int[Tensor, " n"], columns: int
) -> Float[Tensor, "n k"]:
    """Numbers in [0, 1) for each row, by its id, view and part, its number and one draw of the generator, on nothing else.

    >>> rows, number = Embeddings.of(torch.eye(3)), torch.zeros(3, dtype=torch.int64)
    >>> whole = by_identity(torch.Generator(), rows, number, 2)
    >>> torch.equal(by_identity(torch.Generator(), rows.rows(torch.tensor([2])), number[:1], 2), whole[2:])
    True
    """
    salt = torch.empty((), dtype=torch.int64, device=generator.device).random_(generator=generator).cpu()
    keys = (rows.id, rows.view, rows.part, number)
    column = torch.arange(columns)
    return hashed_uniform(salt, *(key[:, None] for key in keys), column).to(rows.z.device)


@dataclass(frozen=True)
class PrivateTo:
    """The rule between rows and what was made of them; made by `private_to`."""

    by: Literal["row", "sample"]

    elsewhere = (0.0, 0.0)

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The dense form."""
        return densify(self.edges(a, c), self.elsewhere, a, c)

    def edges(self, a: Embeddings, c: Embeddings) -> Edges:
        """One edge for every made row and every row that owns it, whichever side the made rows are on."""
        row, col = matches(-1 - a.id, c.id)
        if self.by == "row":
            own = (a.view[row] == c.view[col]) & (a.part[row] == c.part[col])
            row, col = row[own], col[own]
        attract = torch.zeros(len(row)).to(a.z)
        for rows, at in ((a, row), (c, col)):
            if ATTRACTS in rows.facts:
                attract = torch.where(rows.id[at] < 0, rows.facts[ATTRACTS][at].to(a.z), attract)
        return Edges(row, col, attract, 1 - attract, torch.zeros_like(attract))


def private_to(by: Literal["row", "sample"] = "row") -> PrivateTo:
    """Made rows attract and repel their owner alone; all other pairs are ignored, and never computed.

    attract_ij = [id_j = -1 - id_i] attracts_j; repel_ij = [id_j = -1 - id_i] (1 - attracts_j).

    Args:
        by: "row": owner and made row have one view and part, as where each of two views has its own mixtures; "sample":
            what was made of any view belongs to all views, as where a positive made of the key is the query's.

    Differs:
        Rows of one sample, view and part are one row: where a text stands twice in a batch, both own what was made of
        either.

    Relations:
        `infonce_private` scores these pairs beside those of another rule.

    >>> a = Embeddings.of(torch.eye(2), id=torch.tensor([7, 0]))
    >>> private_to()(a, made(a, torch.ones(2, 2), attracts=0.25)).repel.tolist()
    [[0.75, 0.0], [0.0, 0.75]]
    """
    return PrivateTo(by)


def sources_of(rows: Embeddings) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """The content ids that each row is made of, and the share of each; a row that is no mixture is made of itself.

    >>> sources_of(Embeddings.of(torch.eye(2), id=torch.tensor([7, 0])))[0].tolist()
    [[7], [0]]
    """
    if SOURCES in rows.facts:
        return rows.facts[SOURCES], rows.facts[SHARES]
    return rows.id[:, None], torch.ones(len(rows), 1).to(rows.z)


@dataclass(frozen=True)
class SharedSources:
    """The rule that compares what rows are made of; made by `shared_sources`."""

    weighted: bool

    elsewhere = (0.0, 1.0)

    def __call__(self, a: Embeddings, c: Embeddings) -> Pairs:
        """The dense form."""
        return densify(self.edges(a, c), self.elsewhere, a, c)

    def edges(self, a: Embeddings, c: Embeddings) -> Edges:
        """One edge for every two rows with a source in common, or of equal id."""
        (ids_a, part_a), (ids_c, part_c) = sources_of(a), sources_of(c)
        left, right = matches(ids_a.flatten(), ids_c.flatten())
        product = part_a.flatten()[left] * part_c.flatten()[right]
        same_row, same_col = matches(a.id, c.id)
        row = torch.cat([torch.div(left, ids_a.shape[1], rounding_mode="floor"), same_row])
        col = torch.cat([torch.div(right, ids_c.shape[1], rounding_mode="floor"), same_col])
        pair, place = torch.unique(row * len(c) + col, return_inverse=True)
        common = torch.zeros(len(pair)).to(a.z).index_add(0, place[: len(product)], product.to(a.z))
        row, col = torch.div(pair, max(len(c), 1), rounding_mode="floor"), pair % max(len(c), 1)
        same = a.id[row] == c.id[col]
        oneself = same & (a.view[row] == c.view[col]) & (a.part[row] == c.part[col]) & (a.age[row] == c.age[col])
        stale = same & ((a.age[row] > 0) | (c.age[col] > 0))
        attract = common if self.weighted else (common > 0).to(common)
        attract = torch.where(oneself | stale, torch.zeros_like(attract), attract)
        repel = (~same & (common == 0)).to(attract)
        return Edges(row, col, attract, repel, torch.zeros_like(attract))


@paper(row=88)
@paper(row=207)
def shared_sources(*, weighted: bool = True) -> SharedSources:
    """Rows with a source in common attract, others repel: a mixture attracts everything that is in it.

    With the share p_is of source s in row i, and 1 for the one source of a row that is no mixture,

        attract_ij = sum_s p_is p_js      (weighted), or [sum_s p_is p_js > 0]

    Where nothing is shared the pair repels. Oneself and stale rows of one's own id are ignored; equal id never repels.

    Args:
        weighted: whether the shares weigh (M3CoL), or every source counts alike (SSCD).

    Differs:
        Sources are content ids, so a mixture attracts copies of its sources in other rows and on other processes too;
        SSCD looks at the process's own rows alone. Where a row is mixed with itself its shares add up, so that attract
        weights of a mixed row sum to 1; the public code of M3CoL keeps the second share alone.

    Relations:
        Without mixtures this is `same_sample`. M3CoL's loss is `infonce` with `directions="both"` and
        `normalize="none"`; SSCD's is `infonce_separate` with `weighted=False`. `of_sources` tells a row its sources.

    References:
        Kumar et al. 2024, arXiv:2409.17777; model/utils.py at github.com/RaghavSinghal10/M3CoL. Pizzi et al.
        2022, arXiv:2202.10261; sscd/train.py at github.com/facebookresearch/sscd-copy-detection.

    >>> plain = Embeddings.of(torch.eye(3), id=torch.tensor([4, 5, 6]))
    >>> half = of_sources(plain.rows(slice(0, 1)), torch.tensor([5]), 0.75)
    >>> shared_sources()(half, plain).attract.tolist(), shared_sources()(half, plain).repel.tolist()
    ([[0.75, 0.25, 0.0]], [[0.0, 0.0, 1.0]])
    """
    return SharedSources(weighted)


def of_sources(rows: Embeddings, partner: Int[Tensor, " n"], share: float | Float[Tensor, " n"]) -> Embeddings:
    """Rows whose inputs were mixed before they were encoded, told what is in them.

    Args:
        rows: n rows; row i is a mixture of the sample that its id names, and of another.
        partner: [n] content ids of the others.
        share: of the first, from 0 to 1.

    Returns:
        The same vectors, with ids below 0 and the facts `sources` and `shares`.

    Raises:
        ValueError: for rows that are made themselves.
    """
    first = torch.as_tensor(share, dtype=rows.z.dtype, device=rows.z.device).expand(len(rows))
    facts = {SOURCES: torch.stack([rows.id, partner.to(rows.id)], 1), SHARES: torch.stack([first, 1 - first], 1)}
    return replace(rows, id=_made_id(rows), facts={**rows.facts, **facts})
