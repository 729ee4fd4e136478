"""How far the outputs of two models are apart on the same feeds."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr.target import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnxruntime as ort

    from onnxlr.target import Feeds

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """Difference of one output between a reference and a new model, over all feeds.

    Parameters
    ----------
    shape
        Shape of the output for the first feeds.
    max_abs
        Largest absolute difference of an element.
    relative_l2
        ||new - reference|| / ||reference||; relative to ||new|| where the reference is all zeros.
    cosine
        <new, reference> / (||new|| ||reference||), -1 to 1; 1 where both are all zeros, 0 where just one is.
    top1
        Share of samples whose largest class is the same, for floating-point outputs that are class scores: (n, c) or
        (n, c, 1, 1, ...), c at least 2. None for others.
    new_nonfinite
        Elements that are NaN or infinite in the new model but not in the reference. Elements not finite in either one
        are left out of the figures above.

    Text is compared as 0 and 1: an element of the new output that is not the reference's is 1 off.
    """

    name: str
    shape: tuple[int, ...]
    max_abs: float
    relative_l2: float
    cosine: float
    top1: float | None
    new_nonfinite: int


def compare(
    reference: ort.InferenceSession,
    new: ort.InferenceSession,
    feeds: Sequence[Feeds],
    progress: Callable[[float], None] | None = None,
) -> tuple[OutputDifference, ...]:
    """Run both models on every feed and measure the difference of each output the reference has.

    Outputs are matched by name; call it for models that agree in their signatures (``signature_mismatches``).

    Raises
    ------
    ModelError
        ONNX Runtime cannot run one of the models.
    OutputShapeError
        An output's shape differs between the two.
    """
    names = [output.name for output in reference.get_outputs()]
    position = {output.name: index for index, output in enumerate(new.get_outputs())}
    sums = [_Sums(name) for name in names]
    for done, feed in enumerate(feeds, start=1):
        expected, got = run(reference, feed), run(new, feed)
        for total, array in zip(sums, expected, strict=True):
            total.add(array, got[position[total.name]])
        if progress is not None:
            progress(done / len(feeds))
    return tuple(total.result() for total in sums)


def differences(
    names: Sequence[str], reference: Sequence[Sequence[Array]], new: Sequence[Sequence[Array]]
) -> tuple[OutputDifference, ...]:
    """Measure the difference of outputs that were kept: for each of ``names``, one array per feed.

    Raises
    ------
    OutputShapeError
        An output's shape differs between the two.
    """
    sums = [_Sums(name) for name in names]
    for total, expected, got in zip(sums, reference, new, strict=True):
        for one, other in zip(expected, got, strict=True):
            total.add(one, other)
    return tuple(total.result() for total in sums)


class OutputShapeError(ValueError):
    """An output has another shape in the new model; the message says which."""


class _Sums:
    """Running sums of one output's differences, in float64."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shape: tuple[int, ...] | None = None
        self.max_abs = 0.0
        self.difference2 = self.reference2 = self.new2 = self.product = 0.0
        self.samples = self.agreed = 0
        self.new_nonfinite = 0

    def add(self, reference: Array, new: Array) -> None:
        """Count one pair of outputs."""
        if reference.shape != new.shape:
            text = f"output '{self.name}' has shape {new.shape}, the reference's has {reference.shape}"
            raise OutputShapeError(text)
        if self.shape is None:
            self.shape = reference.shape
        if is_class_scores(reference):
            self.samples += reference.shape[0]
            self.agreed += int(np.count_nonzero(reference.argmax(axis=1) == new.argmax(axis=1)))
        r, n = _as_numbers(reference, new)
        finite, new_finite = np.isfinite(r), np.isfinite(n)
        self.new_nonfinite += int(np.count_nonzero(finite & ~new_finite))
        both = finite & new_finite
        r, n = r[both], n[both]
        difference = n - r
        self.max_abs = max(self.max_abs, float(np.max(np.abs(difference), initial=0.0)))
        self.difference2 += float(difference @ difference)
        self.reference2 += float(r @ r)
        self.new2 += float(n @ n)
        self.product += float(r @ n)

    def result(self) -> OutputDifference:
        """Give the figures over all that was added."""
        scale = self.reference2 or self.new2
        if self.reference2 and self.new2:
            cosine = max(-1.0, min(1.0, self.product / sqrt(self.reference2) / sqrt(self.new2)))
        else:
            cosine = 1.0 if self.reference2 == self.new2 else 0.0
        return OutputDifference(
            name=self.name,
            shape=self.shape or (),
            max_abs=self.max_abs,
            relative_l2=sqrt(self.difference2 / scale) if scale else 0.0,
            cosine=cosine,
            top1=self.agreed / self.samples if self.samples else None,
            new_nonfinite=self.new_nonfinite,
        )


def is_class_scores(output: Array) -> bool:
    """Whether ``output`` looks like scores of classes: floating point, (n, c) or (n, c, 1, ...), at least 2 classes."""
    shape = output.shape
    return output.dtype.kind == "f" and output.ndim >= 2 and shape[1] >= 2 and all(size == 1 for size in shape[2:])


def _as_numbers(reference: Array, new: Array) -> tuple[Array, Array]:
    """Flatten both to float64 vectors; text becomes 1 in the reference, and 1 or 0 in the new one: the same or not."""
    if reference.dtype.kind in "OUS":
        return np.ones(reference.size), (reference == new).astype(np.float64).ravel()
    if reference.dtype.kind == "c":
        parts = [np.stack([array.real, array.imag]).astype(np.float64).ravel() for array in (reference, new)]
        return parts[0], parts[1]
    return reference.astype(np.float64).ravel(), new.astype(np.float64).ravel()
