"""Where a convolution looks: kernel, strides, dilations, pads and groups, one entry per spatial axis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod


@dataclass(frozen=True, slots=True)
class Geometry:
    """The geometry of one convolution over ``len(kernel)`` spatial axes; none at all is a linear map.

    ``pads`` holds (begin, end) per axis. ``auto_pad`` is ``NOTSET`` when ``pads`` says all there is to say, or
    ``SAME_UPPER``/``SAME_LOWER`` when the pads depend on an input size known only at run time.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    group: int = 1
    auto_pad: str = "NOTSET"

    def __post_init__(self) -> None:
        if not len(self.kernel) == len(self.strides) == len(self.dilations) == len(self.pads):
            raise ValueError(f"geometry axes disagree: {self}")

    @classmethod
    def plain(cls, kernel: tuple[int, ...], group: int = 1) -> Geometry:
        """Stride 1, no dilation, no padding."""
        n = len(kernel)
        return cls(kernel, (1,) * n, (1,) * n, ((0, 0),) * n, group)

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def taps(self) -> int:
        """Kernel positions: kh kw, and 1 for a linear map."""
        return prod(self.kernel)

    def output_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial output size for a spatial input size.

        Raises
        ------
        ValueError
            When the kernel does not fit in the padded input.
        """
        out = []
        for axis, n in enumerate(size):
            stride = self.strides[axis]
            if self.auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
                out.append(-(-n // stride))
                continue
            span = self._span(axis, n)
            if span < 0:
                reach = n + sum(self.pads[axis]) - span
                raise ValueError(f"a kernel reaching {reach} does not fit an input of {n} padded by {self.pads[axis]}")
            out.append(span // stride + 1)
        return tuple(out)

    def fits(self, size: tuple[int, ...]) -> bool:
        """Whether the kernel fits in a padded input of a spatial size, so that there is an output."""
        fitted = self.auto_pad in {"SAME_UPPER", "SAME_LOWER"}
        return fitted or all(self._span(axis, n) >= 0 for axis, n in enumerate(size))

    def _span(self, axis: int, n: int) -> int:
        """Return by how much the kernel can move along an axis of size ``n``."""
        return n + sum(self.pads[axis]) - (self.dilations[axis] * (self.kernel[axis] - 1) + 1)

    def only(self, *axes: int, group: int | None = None) -> Geometry:
        """Keep kernel, stride, dilation and pads of ``axes``; the others become pointwise with stride 1.

        The rule of every chain here: what an axis does (its kernel, stride and pads) is done by one convolution.
        """
        kept = [axis in axes for axis in range(self.rank)]
        moved = any(k > 1 or s > 1 for k, s, keep in zip(self.kernel, self.strides, kept, strict=True) if keep)
        return Geometry(
            tuple(k if keep else 1 for k, keep in zip(self.kernel, kept, strict=True)),
            tuple(s if keep else 1 for s, keep in zip(self.strides, kept, strict=True)),
            tuple(d if keep else 1 for d, keep in zip(self.dilations, kept, strict=True)),
            tuple(p if keep else (0, 0) for p, keep in zip(self.pads, kept, strict=True)),
            self.group if group is None else group,
            self.auto_pad if moved else "NOTSET",
        )

    def with_group(self, group: int) -> Geometry:
        """Return the same geometry with another number of groups."""
        return replace(self, group=group)
