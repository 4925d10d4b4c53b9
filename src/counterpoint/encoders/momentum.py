"""What a method remembers between steps: a teacher that follows the encoder slowly, and a queue of past embeddings."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from counterpoint._ops.processes import everywhere
from counterpoint.types import Embeddings

NOTHING = -(2**62)  # the id of a place of the queue that was never filled


def teacher_of(encoder: nn.Module) -> nn.Module:
    """A copy of an encoder that no gradient reaches; `follow` moves it.

    >>> [p.requires_grad for p in teacher_of(nn.Linear(1, 1)).parameters()]
    [False, False]
    """
    return copy.deepcopy(encoder).requires_grad_(False)


@torch.no_grad()
def follow(teacher: nn.Module, encoder: nn.Module, *, momentum: float) -> None:
    """Move the teacher a little: teacher <- momentum * teacher + (1 - momentum) * encoder; buffers are copied.

    Args:
        teacher: made by `teacher_of` from this encoder.
        encoder: what is trained.
        momentum: from 0 (a copy) to 1 (never moves).

    References:
        He et al. 2020, arXiv:1911.05722, equation 2; 0.999 there.

    >>> student = nn.Linear(1, 1, bias=False)
    >>> teacher = teacher_of(student)
    >>> with torch.no_grad(): student.weight += 1
    >>> before = teacher.weight.item(); follow(teacher, student, momentum=0.75)
    >>> round(teacher.weight.item() - before, 4)
    0.25
    """
    for weight, followed in zip(teacher.parameters(), encoder.parameters(), strict=True):
        weight.lerp_(followed, 1 - momentum)
    for buffer, copied in zip(teacher.buffers(), encoder.buffers(), strict=True):
        buffer.copy_(copied)


class Queue(nn.Module):
    """The last rows that were put in, first in first out; the same on every process, and in every checkpoint.

    Args:
        size: rows that are remembered, at least 1.
        width: d.
        facts: name -> type of the facts that it remembers too, one number a row, such as a label.

    >>> queue = Queue(3, 2)
    >>> queue.push(Embeddings.of(torch.eye(2), id=torch.tensor([5, 6])))
    >>> queue.push(Embeddings.of(torch.ones(2, 2), id=torch.tensor([7, 8])))
    >>> rows = queue.rows()
    >>> sorted(zip(rows.id.tolist(), rows.age.tolist()))
    [(6, 2), (7, 1), (8, 1)]
    """

    z: Tensor
    id: Tensor
    born: Tensor
    pushes: Tensor
    at: Tensor

    def __init__(self, size: int, width: int, *, facts: Mapping[str, torch.dtype] | None = None) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"wanted a queue of at least 1 row, got {size}")
        self.facts = tuple(facts or {})
        for name, kind in (facts or {}).items():
            self.register_buffer(f"fact_{name}", torch.zeros(size, dtype=kind))
        self.register_buffer("z", torch.zeros(size, width))
        self.register_buffer("id", torch.full((size,), NOTHING))
        self.register_buffer("born", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("pushes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("at", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, rows: Embeddings) -> None:
        """Put the rows of all processes in, over the oldest; of more rows than fit, the last ones stay.

        Raises:
            ValueError: for rows of another width.
            KeyError: for rows without a fact that it remembers.
        """
        if rows.z.shape[1:] != self.z.shape[1:]:
            raise ValueError(f"wanted rows of width {self.z.shape[1]} in the queue, got {list(rows.z.shape)}")
        rows = everywhere(rows)
        self.pushes += 1
        start = int(self.at) + len(rows)
        kept = rows.rows(slice(-len(self.z), None))
        place = torch.arange(start - len(kept), start, device=self.z.device) % len(self.z)
        self.z[place], self.id[place], self.born[place] = kept.z.to(self.z), kept.id, self.pushes
        for name in self.facts:
            self.get_buffer(f"fact_{name}")[place] = kept.facts[name]
        self.at.fill_(start % len(self.z))

    def rows(self) -> Embeddings:
        """What is in it, with the number of pushes since as age; without gradient."""
        filled = self.id != NOTHING
        zeros = torch.zeros_like(self.id[filled])
        age = self.pushes - self.born[filled] + 1
        facts = {name: self.get_buffer(f"fact_{name}")[filled] for name in self.facts}
        return Embeddings(self.z[filled].clone(), self.id[filled], zeros, zeros, age, facts, placement="replicated")
