"""Figures in words, the same in every report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxlr.report.table import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxlr.cost.timing import Timing
    from onnxlr.target import Description


def count(number: float) -> str:
    """Return a count with three digits and K, M or G."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if number >= factor * 0.9995:
            return f"{number / factor:.3g} {unit}"
    return f"{number:.0f}"


def size(number: float) -> str:
    """Return a number of bytes with three digits."""
    text = count(number)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def milliseconds(timing: Timing) -> str:
    """Return the median, marked where it is too restless to be quoted."""
    return f"{timing.median_ms:.3g} ms" + (" (unstable)" if timing.unstable else "")


def shapes_text(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return the input shapes, as ``x 1x3x224x224``."""
    return printable(", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()) or "no inputs")


def setting(target: Description, shapes: Mapping[str, Sequence[int]]) -> str:
    """Return where and on what shapes figures were measured."""
    threads = f"{target.threads} thread{'s' if target.threads > 1 else ''}"
    device = target.gpu or target.cpu
    return f"{target.provider} provider, {threads}, ONNX Runtime {target.onnxruntime}, {device}; {shapes_text(shapes)}"
