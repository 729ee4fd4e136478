"""Tucker-2 layers (Kim et al. 2016): a 1x1, the kernel on few channels, a 1x1."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from onnxlr.schemes.base import LayerShape
from onnxlr.schemes.tucker2 import Tucker2Scheme
from onnxlr.training.layers.chain import LowRankConv
from onnxlr.training.layers.geometry import AnyConv, Sizes, make_geometry
from onnxlr.training.layers.solve import bias_of, factors, like

if TYPE_CHECKING:
    from torch import Tensor


class TuckerConv2d(LowRankConv):
    """(R3, S, 1, 1), (R4, R3, kh, kw), (T, R4, 1, 1); ``rank`` is (R3, R4), per group."""

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
        rank: tuple[int, int],
        batchnorm: bool = False,
    ) -> None:
        geometry = make_geometry(self.dims, kernel_size, stride, padding, dilation, groups)
        steps = Tucker2Scheme().template(LayerShape(out_channels, in_channels, geometry), rank).steps
        super().__init__(steps, geometry, bias=bias, batchnorm=batchnorm)

    @classmethod
    def from_conv(cls, conv: AnyConv, *, rank: tuple[int, int], inputs: Tensor | None = None) -> Self:
        """Return the Tucker-2 decomposition of a trained layer.

        With ``inputs`` (n, S, ...), such as the layer receives, it keeps what the layer makes of these.

        Raises
        ------
        ValueError
            When the kernel is pointwise or has one channel per group.
        """
        chain = factors(Tucker2Scheme(), conv, rank, inputs)
        return cls(*like(conv), rank=rank).to(conv.weight.dtype).load_chain(chain, bias_of(conv, chain))


class TuckerConv1d(TuckerConv2d):
    """The same over one axis."""

    dims: ClassVar[int] = 1


class TuckerConv3d(TuckerConv2d):
    """The same over three axes."""

    dims: ClassVar[int] = 3
