"""All parts on a GPU are what they are on the CPU, in value and gradient. Skipped where PyTorch sees no GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from counterpoint._ops.neighbours import neighbours
from counterpoint._ops.sweep import sweeping
from counterpoint.types import Embeddings
from tests.contracts.test_parts import CASES
from tests.objectives.contract import two_sets

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="wanted a GPU that PyTorch sees, found none")


def on(device: str, rows: Embeddings) -> Embeddings:
    """The same rows on a device."""
    facts = {name: fact.to(device) for name, fact in rows.facts.items()}
    columns = {name: getattr(rows, name).to(device) for name in ("z", "id", "view", "part", "age")}
    return replace(rows, **columns, facts=facts)


def found(name: str, device: str, dtype: torch.dtype, memory: int) -> list[Tensor]:
    """The loss of a case and its gradients."""
    case = CASES[name]
    a, c, z = two_sets(37, 41, 0, dtype)
    if case.replicated:
        c = replace(c, placement="replicated")
    with sweeping(memory=memory, precision="fp32"):
        loss = case.loss(on(device, a), on(device, c)).loss
        inputs = [*z, *case.learnable]
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True) if loss.requires_grad else []
    return [loss.detach().cpu(), *(torch.zeros(()) if g is None else g.cpu() for g in gradients)]


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_gpu_computes_what_the_cpu_does(name: str) -> None:
    for dtype, relative in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        wanted = found(name, "cpu", dtype, 3000)
        for memory in (3000, 2**30):
            for k, (ours, theirs) in enumerate(zip(found(name, "cuda", dtype, memory), wanted, strict=True)):
                largest = max(1.0, float(theirs.abs().max()))
                assert float((ours - theirs).abs().max()) <= relative * largest, f"{dtype}, {memory} bytes, number {k}"


def test_neighbours_on_a_gpu_are_those_of_the_cpu() -> None:
    a, c, _ = two_sets(300, 2000, 0, torch.float64)
    wanted, ours = (neighbours(on(d, a), on(d, c), 10) for d in ("cpu", "cuda"))
    assert torch.equal(wanted.index, ours.index.cpu())


def test_training_steps_on_a_gpu_are_those_of_the_cpu() -> None:
    from counterpoint.encoders.text import autocast
    from counterpoint.training.loop import Schedule, optimizer_for
    from counterpoint.training.method import step
    from tests.contracts.test_parts import tiny_batch, tiny_method

    for micro in (None, 3):
        weights = []
        for device in ("cpu", "cuda"):
            method = tiny_method(CASES["infonce, both"])
            method.modules.to(device)
            batch = {side: {name: x.to(device) for name, x in rows.items()} for side, rows in tiny_batch().items()}
            optimizer = optimizer_for(method, Schedule(steps=5, lr=0.01))
            for _ in range(5):
                step(
                    method, [batch], optimizer, generator=torch.Generator(), autocast=autocast(device, "fp32"),
                    clip=1.0, micro=micro,
                )  # fmt: skip
            weights.append([p.detach().cpu() for p in method.modules.parameters()])
        for one, other in zip(*weights, strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_a_queue_and_a_teacher_follow_on_a_gpu() -> None:
    from torch import nn

    from counterpoint.encoders.momentum import Queue, follow, teacher_of

    student = nn.Linear(3, 3).cuda()
    teacher, queue = teacher_of(student), Queue(4, 3).cuda()
    with torch.no_grad():
        student.weight += 1
    follow(teacher, student, momentum=0.5)
    assert torch.allclose(student.weight - teacher.weight, torch.full((3, 3), 0.5, device="cuda"))
    queue.push(Embeddings.of(torch.eye(3, device="cuda"), id=torch.tensor([4, 5, 6])))
    assert queue.rows().z.device.type == "cuda"
    assert sorted(queue.rows().id.tolist()) == [4, 5, 6]
