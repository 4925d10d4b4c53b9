"""Weights, gradients and optimizer state divided over processes: each holds its part, and gathers a layer when it is used.

The work is `fully_shard` of torch (Zhao et al.: PyTorch FSDP, arXiv:2304.11277, 2023; Rajbhandari et al.: ZeRO,
arXiv:1910.02054, 2019). Ours is what surrounds it: gradients are summed, once a step; all processes make as many passes;
checkpoints hold whole tensors, so that a run goes on with any number of processes, divided or not.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from counterpoint._ops.pace import keeping_pace
from counterpoint._ops.world import count, rank
from counterpoint.encoders.cross import CrossEncoder
from counterpoint.encoders.layers import stack_of
from counterpoint.encoders.text import TextEncoder
from counterpoint.errors import Refusal

SMALL = 1e-6  # beside the norm that gradients are divided by; that of torch.nn.utils.clip_grad_norm_
Sharded = TextEncoder | CrossEncoder


def is_divided(x: Tensor) -> bool:
    """Whether this process holds only a part of a tensor.

    >>> is_divided(torch.ones(2))
    False
    """
    return hasattr(x, "placements") and hasattr(x, "full_tensor")


@contextmanager
def sharded(modules: nn.ModuleDict) -> Iterator[None]:
    """While the block runs, the encoders of a method are divided over all processes; at its end each has all of them again.

    Every process has to make the same passes through them, `passes` of `_ops.pace` sees to that. With one process nothing
    is divided. A block that fails leaves them as they are.

    Args:
        modules: of a method; "encoder" is one of texts or pairs of texts, and so may others be, such as a teacher.

    Raises:
        Refusal: an encoder without a list of layers, or one that is not of texts.
    """
    stacks = stacks_of(modules)
    if count() == 1:
        yield
        return
    undivided = [_husk(encoder.model) for encoder, _ in stacks]
    for encoder, stack in stacks:
        _divide(encoder.model, stack, encoder.device.type)
    with keeping_pace(), warnings.catch_warnings():
        # that a view is changed in place: what leaves our encoders never is
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
        yield
    for (encoder, _), model in zip(stacks, undivided, strict=True):
        _fill(model, encoder.model)
        encoder.model = model


def stacks_of(modules: nn.ModuleDict) -> list[tuple[Sharded, str]]:
    """The encoders that can be divided, and the name of the list of layers in each.

    Args:
        modules: of a method.

    Raises:
        Refusal: as for `sharded`.
    """
    if not isinstance(modules["encoder"], Sharded):
        raise Refusal("a model of texts for --shard", "one of arrays", remedy="it is small: train it undivided")
    encoders = [module for module in modules.values() if isinstance(module, Sharded)]
    return [(encoder, stack_of(encoder.model, where="--shard")[0]) for encoder in encoders]


def _husk(model: nn.Module) -> Any:
    """A copy with weights of size 0."""
    empty = {id(p): nn.Parameter(p.detach().new_empty(0), requires_grad=p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, empty)


@torch.no_grad()
def _fill(husk: nn.Module, divided: nn.Module) -> None:
    """Whole weights for a copy of what was divided."""
    for p, part in zip(husk.parameters(), divided.parameters(), strict=True):
        p.data = _whole(part.detach())
    for buffer, now in zip(husk.buffers(), divided.buffers(), strict=True):
        buffer.copy_(now)
    husk.train(divided.training)


def _divide(model: Any, stack: str, device: str) -> None:
    """Each layer is gathered by itself, all else together; gradients are kept until `reduce_gradients`."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    numbers = {p for p in model.parameters() if p.ndim == 0}  # cannot be divided
    how: dict[str, Any] = {"mesh": init_device_mesh(device, (count(),)), "reshard_after_forward": True}
    for part in (*model.get_submodule(stack).children(), model):
        fully_shard(part, ignored_params=numbers, **how)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no sum with a factor
    model.set_requires_gradient_sync(False)


def reduce_gradients(modules: nn.ModuleDict) -> None:
    """Sum the gradients of divided weights over processes, once a step; each process then has its part of the sum.

    A pass without rows brings zeros, and with them all that was kept. Where nothing is divided, nothing happens.
    """
    for encoder in modules.values():
        if isinstance(encoder, Sharded) and _trains_divided(encoder):
            model: Any = encoder.model
            model.set_requires_gradient_sync(True)
            z = encoder([], []) if isinstance(encoder, CrossEncoder) else encoder([])
            z.sum().backward()
            model.set_requires_gradient_sync(False)


def _trains_divided(module: nn.Module) -> bool:
    return any(p.requires_grad and is_divided(p) for p in module.parameters())


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale gradients so that their norm, over divided and whole ones together, is at most a number; returns it before.

    Args:
        parameters: the same on all processes.
        most: > 0.

    >>> w = nn.Parameter(torch.zeros(2)); w.grad = torch.tensor([3.0, 4.0])
    >>> clip_gradients([w], 1.0), [round(x, 3) for x in w.grad.tolist()]
    (tensor(5.), [0.6, 0.8])
    """
    parameters = list(parameters)
    found = [p.grad for p in parameters if p.grad is not None]
    parts = [g for g in found if is_divided(g)]
    if not parts:
        return nn.utils.clip_grad_norm_(parameters, most)
    whole = [g for g in found if not is_divided(g)]
    norm = torch.linalg.vector_norm(torch.stack([_whole(nn.utils.get_total_norm(g)) for g in (parts, whole) if g]))
    scale = (most / (norm + SMALL)).clamp(max=1.0)
    for gradient in found:
        _own(gradient).mul_(scale)
    return norm


def apart(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups of parameters in which divided and whole ones are not mixed, as optimizers want it."""
    both = (
        {**group, "params": [p for p in group["params"] if is_divided(p) == kind]}
        for group in groups
        for kind in (True, False)
    )
    return [group for group in both if group["params"]]


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, whole and on the CPU; where some are divided, process 0 alone gets them, and all have to ask.

    >>> gathered({"w": torch.ones(1)})
    {'w': tensor([1.])}
    """
    if not any(is_divided(x) for x in tensors.values()):
        return dict(tensors)
    found = {}
    for name, x in tensors.items():
        whole = _whole(x.detach())
        if rank() == 0:
            found[name] = whole.cpu().clone()
    return found


@torch.no_grad()
def load_state(modules: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load whole tensors into modules; where some are divided, those of process 0, of which each process takes its part.

    Args:
        modules: of a method.
        tensors: of `gathered`, or of a checkpoint.
    """
    own = modules.state_dict()
    if not any(is_divided(x) for x in own.values()):
        modules.load_state_dict(tensors)
        return
    for name, x in own.items():
        value = torch.empty(x.shape, dtype=x.dtype, device=x.device) if rank() else tensors[name].to(x.device, x.dtype)
        if is_divided(x):
            _own(x).copy_(_own(divided_like(x, value)))
        else:
            dist.broadcast(value, 0)
            x.copy_(value)


def divided_like(x: Any, value: Tensor) -> Tensor:
    """A whole tensor of process 0, divided as another of its shape is; as it is, where that is not divided."""
    if not is_divided(x) or value.shape != x.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, x.device_mesh, x.placements)


def any_divided(modules: nn.Module) -> bool:
    """Whether processes hold only parts of the weights."""
    return any(is_divided(x) for x in chain(modules.parameters(), modules.buffers()))


def _whole(x: Any) -> Tensor:
    return x.full_tensor() if is_divided(x) else x


def _own(x: Any) -> Tensor:
    return x.to_local() if is_divided(x) else x
