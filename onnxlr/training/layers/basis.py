"""BasisConv (Tayyab and Mahalanobis 2019): filters that are given, and a 1x1 that learns to mix them."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import nn

from onnxlr.schemes.base import LayerShape
from onnxlr.schemes.basis import Basis
from onnxlr.training.layers.chain import LowRankConv
from onnxlr.training.layers.geometry import AnyConv, Sizes, make_geometry, set_weight
from onnxlr.training.layers.solve import bias_of, factors, like


class BasisConv2d(LowRankConv):
    """(r, S, kh, kw), then (T, r, 1, 1); r is ``rank``, per group.

    From scratch the basis is random and orthogonal, each group's filters of norm 1 and at most S kh kw of them; from a
    trained layer it is its eigenfilters. ``frozen`` (the paper) keeps the basis in a buffer, so that only the mixing is
    learnt; otherwise it is trained, best with ``batchnorm`` between the two and the penalty
    :func:`onnxlr.training.layers.overlap` on it (the successor of 2021).
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
        frozen: bool = True,
        batchnorm: bool = False,
    ) -> None:
        geometry = make_geometry(self.dims, kernel_size, stride, padding, dilation, groups)
        steps = Basis().template(LayerShape(out_channels, in_channels, geometry), (rank,)).steps
        super().__init__(steps, geometry, bias=bias, batchnorm=batchnorm, frozen=(0,) if frozen else ())
        self.frozen = frozen

    @classmethod
    def from_conv(cls, conv: AnyConv, *, rank: int, frozen: bool = True, inputs: torch.Tensor | None = None) -> Self:
        """Return the eigenfilters of a trained layer and the 1x1 that mixes them, the best at this rank.

        With ``inputs`` (n, S, ...), such as the layer receives, it keeps what the layer makes of these.

        Raises
        ------
        ValueError
            When the layer has nothing to save.
        """
        chain = factors(Basis(), conv, (rank,), inputs)
        return cls(*like(conv), rank=rank, frozen=frozen).to(conv.weight.dtype).load_chain(chain, bias_of(conv, chain))

    @property
    def basis(self) -> torch.Tensor:
        """The basis filters, (g r, S, ...): a buffer when frozen."""
        return next(self.convs()).weight

    def reset_parameters(self) -> None:
        """Draw a random orthogonal basis and a normal 1x1."""
        super().reset_parameters()
        first = next(self.convs())
        group = self.geometry.group
        parts = torch.empty_like(first.weight.detach()).flatten(1).chunk(group)
        set_weight(first, torch.cat([nn.init.orthogonal_(part.clone()) for part in parts]).reshape(first.weight.shape))


class BasisConv1d(BasisConv2d):
    """The same over one axis."""

    dims: ClassVar[int] = 1


class BasisConv3d(BasisConv2d):
    """The same over three axes."""

    dims: ClassVar[int] = 3
