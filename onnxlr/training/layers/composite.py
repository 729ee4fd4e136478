"""Composite layers (Ioannou et al. 2016): filters of different shapes side by side, and his variants of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from torch import nn

from onnxlr.schemes.mixed import Mixed
from onnxlr.training.layers.chain import LowRankConv
from onnxlr.training.layers.geometry import AnyConv, Sizes, make_geometry
from onnxlr.training.layers.separable import SeparableConv2d
from onnxlr.training.layers.solve import bias_of, factors, like
from onnxlr_passes.chain import Stage, blank
from onnxlr_passes.geometry import Geometry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Branch = tuple[int, int, int]
"""Height and width of the filters, and how many."""

Variant = Literal["sf", "lr", "lr-2x", "lr-join", "lr-lde", "lr-join-wfull"]


class CompositeConv2d(LowRankConv):
    """Groups of filters of several sizes, centred in the kernel and concatenated; ``join``: a 1x1 behind.

    Without a join the filters are the layer's output, so that their number is ``out_channels``.

    Parameters
    ----------
    branches
        (height, width, number) of each group.
    join
        Whether a 1x1 to ``out_channels`` follows.
    initialisation
        ``shared`` (the paper, section 3): one sigma for all groups, sqrt(2 / sum of w h d); ``per-group``: each its
        own, sqrt(2 / (w h d)), which the paper shows to fail.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        bias: bool = True,
        *,
        branches: Sequence[Branch],
        join: bool = True,
        initialisation: Literal["shared", "per-group"] = "shared",
    ) -> None:
        geometry = make_geometry(2, kernel_size, stride, padding, dilation, 1)
        stages = tuple(
            Stage(f"{h}x{w}_{i}", blank(count, in_channels, h, w), _centred(geometry, (h, w)))
            for i, (h, w, count) in enumerate(branches)
        )
        width = sum(count for _, _, count in branches)
        if not join and width != out_channels:
            raise ValueError(f"{width} filters are not the {out_channels} output channels: join them")
        self.join, self.initialisation = join, initialisation
        one = Geometry.plain((1, 1))
        steps = (stages, (Stage("join", blank(out_channels, width, 1, 1), one),)) if join else (stages,)
        super().__init__(steps, geometry, bias=bias)

    @classmethod
    def from_conv(cls, conv: AnyConv, *, filters: tuple[int, int, int], inputs: Tensor | None = None) -> Self:
        """Return the best cross-shaped filters, (1 x kw, kh x 1, kh x kw) of each, and their join.

        With ``inputs`` (n, S, ...), such as the layer receives, it keeps what the layer makes of these.

        Raises
        ------
        ValueError
            When no cross lies in the kernel: not 2-D, grouped, or without padding.
        """
        chain = factors(Mixed(), conv, filters, inputs)
        into, out, kernel, stride, padding, dilation, _, bias = like(conv)
        branches = [(*stage.geometry.kernel, stage.out_channels) for stage in chain.steps[0]]
        sizes = [(height, width, count) for height, width, count in branches]
        made = cls(into, out, kernel, stride, padding, dilation, bias, branches=sizes)
        return made.to(conv.weight.dtype).load_chain(chain, bias_of(conv, chain))

    def reset_parameters(self) -> None:
        """Draw normal values; the join, where there is one, by its own fan-out as any other layer."""
        every = list(self.convs())
        filters = every[:-1] if self.join else every
        fans = [conv.weight[0, 0].numel() * conv.weight.shape[0] for conv in filters]
        for conv, fan in zip(filters, fans, strict=True):
            nn.init.normal_(conv.weight, std=(2.0 / (sum(fans) if self.initialisation == "shared" else fan)) ** 0.5)
        if self.join:
            nn.init.normal_(every[-1].weight, std=(2.0 / self.out_channels) ** 0.5)
        for conv in every:
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)


def ioannou(
    variant: Variant,
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    stride: int = 1,
    padding: int | None = None,
    bias: bool = True,
    *,
    initialisation: Literal["shared", "per-group"] = "shared",
) -> LowRankConv:
    """Return one of the paper's layers in the place of a square convolution.

    ``sf``: vertical, then horizontal filters, ``out_channels`` of each. ``lr``: half of the output channels horizontal,
    half vertical. ``lr-2x``: twice as many, so that the layer has 2 ``out_channels`` outputs. ``lr-join``: ``lr`` and a
    1x1. ``lr-lde``: ``lr-2x`` and a 1x1 down to ``out_channels``, the low-dimensional embedding. ``lr-join-wfull``: a
    quarter of full filters, three eighths of each direction, and a 1x1.
    """
    k = kernel_size
    padding = k // 2 if padding is None else padding
    if variant == "sf":
        return SeparableConv2d(in_channels, out_channels, k, stride, padding, bias=bias, rank=out_channels)
    total = out_channels * (2 if variant in {"lr-2x", "lr-lde"} else 1)
    whole = total // 4 if variant == "lr-join-wfull" else 0
    across = (total - whole + 1) // 2
    groups = [(1, k, across), (k, 1, total - whole - across), (k, k, whole)]
    branches = [group for group in groups if group[2]]
    out = total if variant == "lr-2x" else out_channels
    join = variant in {"lr-join", "lr-lde", "lr-join-wfull"}
    return CompositeConv2d(
        in_channels, out, k, stride, padding, bias=bias, branches=branches, join=join, initialisation=initialisation
    )


def _centred(geometry: Geometry, size: tuple[int, int]) -> Geometry:
    """Return where filters of a smaller size lie in the middle of the kernel."""
    pads = []
    for own, whole, (begin, end), dilation in zip(
        size, geometry.kernel, geometry.pads, geometry.dilations, strict=True
    ):
        less, odd = divmod(whole - own, 2)
        if own > whole or odd or begin < less * dilation or end < less * dilation:
            raise ValueError(f"filters of {size} have no place in the middle of {geometry.kernel} padded by {begin}")
        pads.append((begin - less * dilation, end - less * dilation))
    dilations = tuple(1 if own == 1 else d for own, d in zip(size, geometry.dilations, strict=True))
    return Geometry(size, geometry.strides, dilations, tuple(pads), 1)
