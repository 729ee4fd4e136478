"""Sliding windows: kernel, stride, dilation and pads of convolutions and pools, explicit or by ``auto_pad``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from onnxlr.training.executor.call import Node


@dataclass(frozen=True, slots=True)
class Window:
    """A window over ``len(kernel)`` spatial axes; ``pads`` holds (begin, end) per axis, resolved for one input size."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """Extent of the dilated kernel."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def symmetric(self) -> bool:
        """Whether every axis has as much padding at its begin as at its end."""
        return all(begin == end for begin, end in self.pads)

    @property
    def begins(self) -> tuple[int, ...]:
        """The padding before each axis."""
        return tuple(begin for begin, _ in self.pads)


def read_window(node: Node, kernel: Sequence[int], size: Sequence[int]) -> Window:
    """Read strides, dilations and pads of a node; SAME pads follow from the spatial input ``size``."""
    n = len(kernel)
    strides = node.integers("strides") or (1,) * n
    dilations = node.integers("dilations") or (1,) * n
    flat = node.integers("pads") or (0,) * (2 * n)
    mode = node.text("auto_pad", "NOTSET")
    if not len(strides) == len(dilations) == n or len(flat) != 2 * n or len(size) != n:
        raise node.refusal("its attributes do not fit its input")
    pads = tuple(zip(flat[:n], flat[n:], strict=True))
    if mode == "VALID":
        pads = ((0, 0),) * n
    elif mode in {"SAME_UPPER", "SAME_LOWER"}:
        totals = [
            max((-(-length // s) - 1) * s + d * (k - 1) + 1 - length, 0)
            for length, k, s, d in zip(size, kernel, strides, dilations, strict=True)
        ]
        pads = tuple((t // 2, t - t // 2) if mode == "SAME_UPPER" else (t - t // 2, t // 2) for t in totals)
    return Window(tuple(kernel), strides, dilations, pads)


def padded(value: Tensor, pads: Sequence[tuple[int, int]], fill: float = 0.0) -> Tensor:
    """Pad the last ``len(pads)`` axes by (begin, end); negative pads crop."""
    if not any(begin or end for begin, end in pads):
        return value
    return functional.pad(value, [amount for pair in reversed(pads) for amount in pair], value=fill)
