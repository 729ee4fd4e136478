"""What all low-rank layers are: a chain of convolutions in the place of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor, nn

from onnxlr.schemes.base import LayerShape
from onnxlr.training.layers.geometry import AnyConv, freeze, geometry_of, make_conv, set_weight
from onnxlr_passes.chain import Chain, Stage, Step
from onnxlr_passes.geometry import Geometry

if TYPE_CHECKING:
    from collections.abc import Iterator


class LowRankConv(nn.Module):
    """A chain of convolutions (n, S, ...) -> (n, T, ...) that moves over its input as one convolution does.

    Stages of one step run side by side and are concatenated. Only the last step has a bias. Values are drawn so that
    linear stages keep the variance of their input and the last one doubles it, as a ReLU behind it needs (He et al.
    2015).

    Parameters
    ----------
    steps
        Shapes of the stages; their weights are not read.
    geometry
        Of the convolution it stands for.
    batchnorm
        Normalise between the stages (Tai et al. 2015).
    frozen
        Stages whose weights are buffers, which nothing trains.
    """

    def __init__(
        self,
        steps: tuple[Step, ...],
        geometry: Geometry,
        *,
        bias: bool = True,
        batchnorm: bool = False,
        frozen: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.geometry = geometry
        self.in_channels = steps[0][0].in_channels
        self.out_channels = sum(stage.out_channels for stage in steps[-1])
        self.suffixes = tuple(tuple(stage.suffix for stage in step) for step in steps)
        last = len(steps) - 1
        self.steps = nn.ModuleList(
            nn.ModuleList(make_conv(stage.weight.shape, stage.geometry, bias=bias and at == last) for stage in step)
            for at, step in enumerate(steps)
        )
        widths = [sum(stage.out_channels for stage in step) for step in steps[:-1]]
        norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[geometry.rank]
        self.norms = nn.ModuleList(norm(width) for width in widths) if batchnorm else None
        self.reset_parameters()
        for at, conv in enumerate(self.convs()):
            if at in frozen:
                freeze(conv)

    def forward(self, x: Tensor) -> Tensor:
        """Run the stages; those of one step side by side."""
        for at, step in enumerate(self.steps):
            parts = [conv(x) for conv in _modules(step)]
            x = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
            if self.norms is not None and at < len(self.norms):
                x = self.norms[at](x)
        return x

    def reset_parameters(self) -> None:
        """Draw new values: variance 1 / fan-in for each stage, 2 / fan-in for the last; no bias."""
        last = _modules(self.steps[-1])
        for conv in self.convs():
            gain = 2.0 if conv in last else 1.0
            nn.init.normal_(conv.weight, std=(gain / conv.weight[0].numel()) ** 0.5)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def convs(self) -> Iterator[AnyConv]:
        """Yield every convolution, in the order of the chain's stages."""
        for step in self.steps:
            yield from _modules(step)

    def load_chain(self, chain: Chain, bias: Tensor | None = None) -> Self:
        """Take over the weights of a chain of the same shape, and a bias (T,)."""
        every = list(self.convs())
        for conv, stage in zip(every, chain.stages, strict=True):
            set_weight(conv, torch.from_numpy(np.array(stage.weight)))
        if bias is not None and every[-1].bias is not None:
            with torch.no_grad():
                every[-1].bias.copy_(bias)
        return self

    def chain(self) -> Chain:
        """Return the chain in float64, as the graph pass would write it.

        BatchNorm between the stages is folded by its running statistics; a layer that ends in several stages gets an
        identity to join them.

        Raises
        ------
        ValueError
            When a BatchNorm's shift stands before a padded convolution: no chain without it computes the same at the
            borders.
        """
        scales, bias = self._folded()
        steps = []
        for at, (step, suffixes) in enumerate(zip(self.steps, self.suffixes, strict=True)):
            weights = [conv.weight.detach().double().numpy() for conv in _modules(step)]
            if at < len(scales):
                ends = np.cumsum([len(weight) for weight in weights])[:-1]
                parts = np.split(scales[at].numpy(), ends)
                weights = [w * part.reshape(-1, *(1,) * (w.ndim - 1)) for w, part in zip(weights, parts, strict=True)]
            places = [geometry_of(conv) for conv in _modules(step)]
            named = zip(suffixes, weights, places, strict=True)
            steps.append(tuple(Stage(name, np.ascontiguousarray(weight), place) for name, weight, place in named))
        if len(steps[-1]) > 1:
            point = Geometry.plain((1,) * self.geometry.rank)
            identity = np.eye(self.out_channels).reshape(self.out_channels, -1, *point.kernel)
            steps.append((Stage("join", identity, point),))
        return Chain(tuple(steps), None if bias is None else bias.numpy())

    def to_conv(self) -> AnyConv:
        """Return the dense convolution that the layer computes, exact to rounding.

        Raises
        ------
        ValueError
            See :meth:`chain`.
        """
        chain = self.chain()
        kernel = torch.from_numpy(chain.contract(self.geometry))
        dense = make_conv(tuple(kernel.shape), self.geometry, bias=chain.bias is not None)
        dense = dense.to(next(self.convs()).weight.dtype)
        set_weight(dense, kernel)
        if chain.bias is not None and dense.bias is not None:
            with torch.no_grad():
                dense.bias.copy_(torch.from_numpy(chain.bias))
        return dense

    def shape(self) -> LayerShape:
        """Return the shape of the convolution it stands for."""
        return LayerShape(self.out_channels, self.in_channels, self.geometry)

    def extra_repr(self) -> str:
        """Say what a convolution's own line says, and the widths between the stages."""
        geometry = self.geometry
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={geometry.kernel}, stride={geometry.strides}"]
        if any(begin for begin, _ in geometry.pads):
            parts.append(f"padding={tuple(begin for begin, _ in geometry.pads)}")
        if set(geometry.dilations) != {1}:
            parts.append(f"dilation={geometry.dilations}")
        if geometry.group != 1:
            parts.append(f"groups={geometry.group}")
        widths = tuple(sum(conv.weight.shape[0] for conv in _modules(step)) for step in self.steps)[:-1]
        return ", ".join([*parts, f"channels_between={widths}"])

    def _folded(self) -> tuple[list[Tensor], Tensor | None]:
        """Return the scale of every BatchNorm per channel, and the bias of the last step with all shifts."""
        last = [conv.bias.detach().double() for conv in _modules(self.steps[-1]) if conv.bias is not None]
        bias = torch.cat(last) if last else None
        scales = []
        for at, norm in enumerate(self.norms or ()):
            scale, shift = _affine(norm)
            scales.append(scale)
            if not bool(shift.any()):
                continue
            following = _modules(self.steps[at + 1])
            if at + 2 < len(self.steps) or any(begin for conv in following for begin, _ in geometry_of(conv).pads):
                raise ValueError("a BatchNorm shift before a padded convolution has no equivalent in a chain")
            each = torch.cat([conv.weight.detach().double().flatten(2).sum(2) for conv in following])
            group = following[0].groups
            added = (each.reshape(group, -1, each.shape[1]) * shift.reshape(group, 1, -1)).sum(2).reshape(-1)
            bias = added if bias is None else bias + added
        return scales, bias


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return scale and shift of a BatchNorm by its running statistics."""
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


def _modules(step: nn.Module) -> list[AnyConv]:
    return [conv for conv in step.children() if isinstance(conv, AnyConv)]
