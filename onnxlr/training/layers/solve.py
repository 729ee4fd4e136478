"""Factors of a trained convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxlr.schemes.base import Layer
from onnxlr.training.layers.geometry import AnyConv, geometry_of

if TYPE_CHECKING:
    from onnxlr.schemes.base import Ranks, Scheme
    from onnxlr_passes.chain import Chain

Arguments = tuple[int, int, tuple[int, ...], tuple[int, ...], tuple[int, ...] | str, tuple[int, ...], int, bool]


def factors(scheme: Scheme, conv: AnyConv, ranks: Ranks) -> Chain:
    """Return the chain of a trained convolution, its bias apart.

    Raises
    ------
    ValueError
        When the scheme does not apply to it, or not at these ranks.
    """
    layer = Layer(conv.weight.detach().double().numpy(), geometry_of(conv))
    refusal = scheme.refusal(layer.shape)
    if refusal is not None:
        raise ValueError(f"{scheme.name} does not apply: {refusal}")
    full = scheme.full_rank(layer.shape)
    if len(ranks) != len(full) or not all(0 <= rank <= most for rank, most in zip(ranks, full, strict=True)):
        raise ValueError(f"{scheme.name} has no ranks {ranks} here: at most {full}")
    return scheme.solver(layer).chain(ranks)


def like(conv: AnyConv) -> Arguments:
    """Return the arguments that make a layer of the same shape."""
    bias = conv.bias is not None
    sizes = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    return (conv.in_channels, conv.out_channels, *sizes, conv.groups, bias)
