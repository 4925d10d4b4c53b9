"""How fast each weight learns: schedules, and groups of parameters with a rate and a decay of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from counterpoint.encoders.layers import alive, depths, stack_of
from counterpoint.errors import Refusal

ENCODER = "encoder"  # the module of a method that holds what was trained before; all others are new parts
Shape = Callable[[float], float]
Group = dict[str, Any]


def linear(left: float) -> float:
    """A straight line from 1 to 0.

    Args:
        left: the share of the run after warm-up that is still to come, from 1 to 0. So for all schedules.

    Returns:
        The share of the peak rate, in [0, 1]. So for all schedules.

    >>> [linear(left) for left in (1.0, 0.5, 0.0)]
    [1.0, 0.5, 0.0]
    """
    return left


def cosine(left: float) -> float:
    """Half a cosine from 1 to 0: (1 - cos(pi left)) / 2.

    References:
        Loshchilov and Hutter: SGDR, arXiv:1608.03983, 2016, eq. 5 with one period and a minimum of 0.

    >>> [round(cosine(left), 3) for left in (1.0, 0.75, 0.5, 0.0)]
    [1.0, 0.854, 0.5, 0.0]
    """
    return (1 - math.cos(math.pi * left)) / 2


def constant(left: float) -> float:
    """The peak rate to the end.

    >>> constant(0.3)
    1.0
    """
    del left
    return 1.0


def rate(progress: float, *, peak: float, warmup: float, shape: Shape) -> float:
    """The learning rate at a progress: it rises from 0 to the peak in a straight line, then follows the shape.

    Args:
        progress: share of the run that is done, in [0, 1].
        peak: the highest rate, > 0.
        warmup: share of the run in which the rate rises, in [0, 1).
        shape: `linear`, `cosine` or `constant`, or a function of one's own.

    >>> [rate(p, peak=2.0, warmup=0.2, shape=linear) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.0, 1.0, 2.0, 1.0, 0.0]
    """
    if progress < warmup:
        return peak * progress / warmup
    return peak * shape((1 - progress) / (1 - warmup))


def factors(encoder: nn.Module, decay: float) -> dict[str, float]:
    """Layer-wise decay: the factor of a weight's rate is decay^(number of layers above it).

    The last layer and what comes after it have factor 1, the first of L layers decay^(L-1), embeddings decay^L.

    Args:
        encoder: any module; one list of layers in it where decay is below 1.
        decay: in (0, 1]; 1 gives every weight the same rate.

    Returns:
        The name of each weight -> its factor.

    Raises:
        Refusal: no list of layers to count.

    Differs:
        ELECTRA's code puts two more steps of decay between a new head and the last layer. Here the rate of new parts is
        a number of its own.

    References:
        Sun, Qiu, Xu, Huang 2019, arXiv:1905.05583, section 5.3.3; Clark et al. 2020, arXiv:2003.10555.

    >>> layers = nn.ModuleList([nn.Linear(1, 1, bias=False) for _ in range(2)])
    >>> factors(nn.ModuleDict({"words": nn.Embedding(5, 1), "layers": layers}), 0.5)
    {'words.weight': 0.25, 'layers.0.weight': 0.5, 'layers.1.weight': 1.0}
    """
    if decay == 1:
        return {name: 1.0 for name, _ in encoder.named_parameters()}
    found, (_, count) = depths(encoder, where="--layer-decay"), stack_of(encoder, where="--layer-decay")
    return {name: decay ** (count - depth) for name, depth in found.items()}


def groups(
    modules: Mapping[str, nn.Module], *, weight_decay: float, layer_decay: float = 1.0, head: float | None = None
) -> list[Group]:
    """Parameters that train, in groups of one rate and one weight decay, in the order in which the modules hold them.

    Vectors and single numbers (biases, norms, temperatures) are not decayed. A group's `scale` is what the schedule's
    rate is multiplied by; see `set_rates`.

    Args:
        modules: of a method, by name; "encoder" holds the layers, all others are new parts.
        weight_decay: AdamW's, on matrices.
        layer_decay: of `factors`, on the encoder.
        head: scale of all parts beside the encoder, > 0; None: 1.

    Returns:
        Groups for an optimizer of torch, each with `params`, `weight_decay` and `scale`.

    Raises:
        Refusal: a rate for new parts where there are none, or decay by layer where there are no layers.
    """
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[int] = set()
    beside = False
    for part, module in modules.items():
        inside = part == ENCODER
        scale_of = factors(module, layer_decay) if inside else {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))  # a weight that two parts share trains once
            beside = beside or not inside
            scale = scale_of[name] if inside else 1.0 if head is None else head
            key = (scale, weight_decay if parameter.ndim > 1 else 0.0)
            found.setdefault(key, []).append(parameter)
    if head is not None and not beside:
        remedy = "this training method trains the model alone"
        raise Refusal("a part beside the model that trains", "none", where="--head-lr", remedy=remedy)
    return [{"params": ps, "weight_decay": decay, "scale": scale} for (scale, decay), ps in found.items()]


def optimizer_of(grouped: list[Group], lr: float) -> torch.optim.Optimizer:
    """AdamW over groups; each starts with its share of the peak rate.

    Args:
        grouped: of `groups`.
        lr: peak learning rate of a group of scale 1.

    Raises:
        Refusal: nothing to train.
    """
    if not grouped:
        raise Refusal("weights to train", "none", remedy="everything is frozen; freeze fewer layers")
    fused = all(p.device.type in ("cpu", "cuda") for group in grouped for p in group["params"])
    return torch.optim.AdamW([{**group, "lr": group["scale"] * lr} for group in grouped], lr=lr, fused=fused)


def set_rates(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its scale times the schedule's rate.

    >>> adam = optimizer_of([{"params": [nn.Parameter(torch.ones(1))], "weight_decay": 0.0, "scale": 0.5}], lr=1.0)
    >>> set_rates(adam, 0.1)
    >>> adam.param_groups[0]["lr"]
    0.05
    """
    for group in optimizer.param_groups:
        group["lr"] = group["scale"] * rate


def passes(encoder: nn.Module) -> float:
    """What a training step costs in forward passes: 3 where all trains, fewer where weights are frozen.

    One forward; backward one for the gradients of activations and one for those of weights, as far as there are any.

    >>> passes(nn.Linear(2, 2)), passes(nn.Linear(2, 2).requires_grad_(False))
    (3.0, 1.0)
    """
    matrices = [p for m in encoder.modules() if not isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)]
    trained = sum(p.numel() for p in matrices if p.requires_grad) / max(1, sum(p.numel() for p in matrices))
    return 1 + alive(encoder) + trained
