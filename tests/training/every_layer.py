"""A low-rank layer of every kind, from a trained convolution and from scratch, and inputs for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from onnxlr.training import layers
from onnxlr.training.layers import LowRankConv, ioannou

if TYPE_CHECKING:
    from collections.abc import Callable

VARIANTS = ("sf", "lr", "lr-2x", "lr-join", "lr-lde", "lr-join-wfull")


def dense(*sizes: int, **more: Any) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """A convolution of ``sizes`` (S, T, kernel...) with weights of float32."""
    torch.manual_seed(0)
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(sizes) - 2]
    return kind(sizes[0], sizes[1], sizes[2:], **more)


# From a trained layer at full rank.
FULL: dict[str, Callable[[], tuple[nn.Module, LowRankConv]]] = {
    "separable-vh": lambda: pair(dense(6, 8, 3, 3, padding=1, stride=2), layers.SeparableConv2d, rank=18),
    "separable-hv": lambda: pair(dense(4, 8, 3, 5, padding=(1, 2)), layers.SeparableConv2d, rank=20, order="hv"),
    "separable-3d": lambda: pair(dense(3, 4, 3, 2, 2), layers.SeparableConv3d, rank=9),
    "separable-grouped": lambda: pair(dense(6, 8, 3, 3, groups=2), layers.SeparableConv2d, rank=9),
    "basis": lambda: pair(dense(6, 8, 3, 3, padding="same"), layers.BasisConv2d, rank=8),
    "basis-trained": lambda: pair(dense(6, 8, 3, 3, dilation=2), layers.BasisConv2d, rank=8, frozen=False),
    "basis-1d": lambda: pair(dense(6, 8, 5), layers.BasisConv1d, rank=8),
    "basis-3d": lambda: pair(dense(2, 5, 2, 2, 2), layers.BasisConv3d, rank=5),
    "tucker": lambda: pair(dense(6, 8, 3, 3, padding=1, bias=False), layers.TuckerConv2d, rank=(6, 8)),
    "tucker-1d": lambda: pair(dense(6, 8, 5), layers.TuckerConv1d, rank=(6, 8)),
    "tucker-3d": lambda: pair(dense(2, 5, 2, 2, 2), layers.TuckerConv3d, rank=(2, 5)),
    "cp3": lambda: pair(dense(3, 4, 3, 3, padding=1), layers.CPConv2d, rank=12),
    "cp4": lambda: pair(dense(3, 4, 3, 3, padding=1), layers.CPConv2d, rank=27, form="cp4"),
    "cp-1d": lambda: pair(dense(3, 4, 5), layers.CPConv1d, rank=12),
    "cp-3d": lambda: pair(dense(2, 3, 2, 2, 2), layers.CPConv3d, rank=6),
    "composite": lambda: pair(dense(6, 8, 3, 3, padding=1), layers.CompositeConv2d, filters=(8, 8, 8)),
}


def pair(conv: nn.Module, kind: Any, **options: Any) -> tuple[nn.Module, LowRankConv]:
    """A convolution and the layer made from it."""
    return conv, kind.from_conv(conv, **options)


def scratch() -> dict[str, LowRankConv]:
    """One layer of every kind from scratch, from 4 to 8 channels."""
    torch.manual_seed(1)
    made = {
        "separable": layers.SeparableConv2d(4, 8, 3, padding=1, rank=3),
        "separable-norm": layers.SeparableConv2d(4, 8, 3, rank=3, batchnorm=True),
        "basis": layers.BasisConv2d(4, 8, 3, padding=1, rank=5),
        "basis-trained": layers.BasisConv2d(4, 8, 3, padding=1, rank=5, frozen=False, batchnorm=True),
        "cp3": layers.CPConv2d(4, 8, 3, padding=1, stride=2, rank=6),
        "cp4": layers.CPConv2d(4, 8, 3, padding=1, rank=6, form="cp4"),
        "tucker": layers.TuckerConv2d(4, 8, 3, padding=1, rank=(3, 5)),
    }
    return made | {name: ioannou(name, 4, 8) for name in VARIANTS}  # type: ignore[arg-type]


def sample(geometry_rank: int, channels: int, seed: int = 0) -> torch.Tensor:
    """Two random inputs of as many axes as the convolution has."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, *(9, 10, 8)[:geometry_rank], generator=generator)
