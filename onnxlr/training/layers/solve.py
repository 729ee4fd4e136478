"""Factors of a trained convolution, from its weights alone or for what it sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from onnxlr.calibration.observe import positions_each, ridge_of
from onnxlr.calibration.positions import draw, patches
from onnxlr.calibration.statistics import Moments, lifted
from onnxlr.schemes.base import Layer
from onnxlr.schemes.fitted import fitted_solver
from onnxlr.schemes.metric import Covariance
from onnxlr.schemes.observed import Observed
from onnxlr.training.layers.geometry import AnyConv, geometry_of

if TYPE_CHECKING:
    from onnxlr.schemes.base import Ranks, Scheme
    from onnxlr_passes.chain import Chain
    from onnxlr_passes.geometry import Geometry

Arguments = tuple[int, int, tuple[int, ...], tuple[int, ...], tuple[int, ...] | str, tuple[int, ...], int, bool]


def factors(scheme: Scheme, conv: AnyConv, ranks: Ranks, inputs: torch.Tensor | None = None) -> Chain:
    """Return the chain of a trained convolution, whose own bias is apart.

    With ``inputs`` (n, S, ...), which the layer receives, it keeps what the kernel makes of these; the chain's bias
    then makes up for the mean of its error.

    Raises
    ------
    ValueError
        When the scheme does not apply to it, or not at these ranks, or the inputs are not the layer's.
    """
    layer = Layer(conv.weight.detach().double().numpy(), geometry_of(conv))
    refusal = scheme.refusal(layer.shape)
    if refusal is not None:
        raise ValueError(f"{scheme.name} does not apply: {refusal}")
    full = scheme.full_rank(layer.shape)
    if len(ranks) != len(full) or not all(0 <= rank <= most for rank, most in zip(ranks, full, strict=True)):
        raise ValueError(f"{scheme.name} has no ranks {ranks} here: at most {full}")
    if inputs is None:
        return scheme.solver(layer).chain(ranks)
    return fitted_solver(scheme, Observed(layer, _seen(conv, layer.geometry, inputs))).chain(ranks)


def bias_of(conv: AnyConv, chain: Chain) -> torch.Tensor | None:
    """Return the bias (T,) of a chain of ``conv``, None where it has none."""
    if conv.bias is None or chain.bias is None:
        return conv.bias
    return conv.bias + torch.from_numpy(chain.bias).to(conv.bias)


def _seen(conv: AnyConv, geometry: Geometry, inputs: torch.Tensor) -> Covariance:
    """Return the metric of the patches at positions of all inputs; about zero for a layer that has no bias."""
    if inputs.ndim != conv.weight.ndim or inputs.shape[1] != conv.in_channels or len(inputs) == 0:
        raise ValueError(f"inputs of shape {tuple(inputs.shape)} are not those of {conv}")
    x = inputs.detach().cpu().float().numpy()
    columns = conv.weight[0].numel()
    where = draw(0, len(x), geometry.output_size(x.shape[2:]), positions_each(columns, len(x)), 0)
    moments = Moments.of(patches(x, geometry, where))
    if conv.bias is None:
        moments = moments.uncentred()
    return Covariance(lifted(moments.covariance, ridge_of(columns, moments.count)), moments.mean)


def like(conv: AnyConv) -> Arguments:
    """Return the arguments that make a layer of the same shape."""
    bias = conv.bias is not None
    sizes = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    return (conv.in_channels, conv.out_channels, *sizes, conv.groups, bias)
