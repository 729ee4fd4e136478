"""CP layers (Lebedev et al. 2015): a 1x1, depthwise convolutions, a 1x1."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from onnxlr.schemes.base import LayerShape
from onnxlr.schemes.cp import Cp3, Cp4
from onnxlr.training.layers.chain import LowRankConv
from onnxlr.training.layers.geometry import AnyConv, Sizes, make_geometry
from onnxlr.training.layers.solve import bias_of, factors, like

if TYPE_CHECKING:
    from torch import Tensor

Form = Literal["cp3", "cp4"]


class CPConv2d(LowRankConv):
    """(R, S, 1, 1), depthwise, (T, R, 1, 1); R is ``rank``, per group.

    ``cp4`` (the paper) has one depthwise convolution per axis with a kernel, ``cp3`` a single one over all. As products
    of three or four factors these need a smaller learning rate than other layers.
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
        form: Form = "cp3",
        batchnorm: bool = False,
    ) -> None:
        geometry = make_geometry(self.dims, kernel_size, stride, padding, dilation, groups)
        steps = _scheme(form).template(LayerShape(out_channels, in_channels, geometry), (rank,)).steps
        super().__init__(steps, geometry, bias=bias, batchnorm=batchnorm)

    @classmethod
    def from_conv(cls, conv: AnyConv, *, rank: int, form: Form = "cp3", inputs: Tensor | None = None) -> Self:
        """Return a CP decomposition of a trained layer.

        With ``inputs`` (n, S, ...), such as the layer receives, it keeps what the layer makes of these.

        Raises
        ------
        ValueError
            When the kernel is pointwise or depthwise, or for ``cp4`` has a single axis.
        """
        chain = factors(_scheme(form), conv, (rank,), inputs)
        return cls(*like(conv), rank=rank, form=form).to(conv.weight.dtype).load_chain(chain, bias_of(conv, chain))


class CPConv1d(CPConv2d):
    """The same over one axis; only ``cp3``."""

    dims: ClassVar[int] = 1


class CPConv3d(CPConv2d):
    """The same over three axes."""

    dims: ClassVar[int] = 3


def _scheme(form: Form) -> Cp3 | Cp4:
    return Cp4() if form == "cp4" else Cp3()
