"""Separable layers (Tai et al. 2015): one spatial axis, then the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from onnxlr.schemes.base import LayerShape
from onnxlr.schemes.separable import Separable
from onnxlr.training.layers.chain import LowRankConv
from onnxlr.training.layers.geometry import AnyConv, Sizes, make_geometry
from onnxlr.training.layers.solve import bias_of, factors, like

if TYPE_CHECKING:
    from torch import Tensor

Order = Literal["vh", "hv"]


class SeparableConv2d(LowRankConv):
    """(K, S, kh, 1), then (T, K, 1, kw); ``order="hv"`` the other way round. K is ``rank``, per group.

    ``batchnorm`` normalises between the two, as the paper does from scratch.
    """

    dims: ClassVar[int] = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rank: int,
        order: Order = "vh",
        batchnorm: bool = False,
    ) -> None:
        geometry = make_geometry(self.dims, kernel_size, stride, padding, dilation, groups)
        steps = Separable(order).template(LayerShape(out_channels, in_channels, geometry), (rank,)).steps
        super().__init__(steps, geometry, bias=bias, batchnorm=batchnorm)

    @classmethod
    def from_conv(cls, conv: AnyConv, *, rank: int, order: Order = "vh", inputs: Tensor | None = None) -> Self:
        """Return the best approximation of a trained layer (Tai et al., theorem 1).

        With ``inputs`` (n, S, ...), such as the layer receives, it keeps what the layer makes of these.

        Raises
        ------
        ValueError
            When the kernel has no two axes to take apart.
        """
        chain = factors(Separable(order), conv, (rank,), inputs)
        return cls(*like(conv), rank=rank, order=order).to(conv.weight.dtype).load_chain(chain, bias_of(conv, chain))


class SeparableConv3d(SeparableConv2d):
    """The temporal axis, then the two others (``hv``: the other way round)."""

    dims: ClassVar[int] = 3
