"""Whether a new model may stand in for a reference: same signature, finite, near enough on the same feeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxlr.errors import UsageError
from onnxlr.model_io import runnable
from onnxlr.validation.numeric import OutputDifference, OutputShapeError, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnxruntime as ort

    from onnxlr.model_io import Model
    from onnxlr.target import Feeds, Target


@dataclass(frozen=True, slots=True)
class Limits:
    """How near the new outputs must be.

    Parameters
    ----------
    min_cosine
        Least cosine with the reference, of every output. The default 0.9 lets a lossy rewrite pass whose outputs still
        point the same way, and stops a broken one; it says nothing of accuracy. A large constant part of an output
        hides differences from it: give ``max_error`` for those.
    max_error
        Largest relative L2 error of an output; None for no such limit.

    Raises
    ------
    UsageError
        ``min_cosine`` out of -1 to 1, or ``max_error`` below 0.
    """

    min_cosine: float = 0.9
    max_error: float | None = None

    def __post_init__(self) -> None:
        if not -1.0 <= self.min_cosine <= 1.0:
            raise UsageError(f"--min-cosine {self.min_cosine}: a cosine is between -1 and 1")
        if self.max_error is not None and not self.max_error >= 0.0:
            raise UsageError(f"--max-error {self.max_error}: an error is at least 0")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome: ``reasons`` has one line for each thing that failed, and ``passed`` is that there are none.

    ``outputs`` is empty when the signatures or the outputs' shapes differ. ``feeds`` is the number of feeds compared.
    """

    passed: bool
    reasons: tuple[str, ...]
    outputs: tuple[OutputDifference, ...]
    limits: Limits
    feeds: int


def validate(
    reference: Model,
    new: Model,
    target: Target,
    feeds: Sequence[Feeds],
    *,
    limits: Limits = Limits(),
    progress: Callable[[float], None] | None = None,
) -> Verdict:
    """Run both models on ``feeds`` and judge the new one.

    Raises
    ------
    ModelError
        One of the models cannot be loaded or run. That their signatures or outputs differ is a failed verdict instead.
    """
    with runnable(reference.proto, reference.folder) as old_source, runnable(new.proto, new.folder) as new_source:
        old_session = target.session(old_source, name=str(reference.path or "the reference"))
        new_session = target.session(new_source, name=str(new.path or "the new model"))
        reasons = signature_mismatches(old_session, new_session)
        if reasons:
            return Verdict(passed=False, reasons=reasons, outputs=(), limits=limits, feeds=0)
        try:
            outputs = compare(old_session, new_session, feeds, progress)
        except OutputShapeError as error:
            return Verdict(passed=False, reasons=(str(error),), outputs=(), limits=limits, feeds=len(feeds))
    reasons = tuple(line for output in outputs for line in _failures(output, limits))
    return Verdict(passed=not reasons, reasons=reasons, outputs=outputs, limits=limits, feeds=len(feeds))


def signature_mismatches(reference: ort.InferenceSession, new: ort.InferenceSession) -> tuple[str, ...]:
    """List where names, order, types or fixed sizes of inputs and outputs differ; empty when nothing does.

    A size that one of the two leaves free differs from nothing, nor does a shape that one does not declare.
    """
    return (
        *_mismatches("input", reference.get_inputs(), new.get_inputs()),
        *_mismatches("output", reference.get_outputs(), new.get_outputs()),
    )


def _mismatches(kind: str, reference: Sequence[ort.NodeArg], new: Sequence[ort.NodeArg]) -> list[str]:
    old_names, new_names = [arg.name for arg in reference], [arg.name for arg in new]
    if old_names != new_names:
        return [f"the {kind}s are {', '.join(new_names) or 'none'}, the reference's {', '.join(old_names) or 'none'}"]
    lines = []
    for old, now in zip(reference, new, strict=True):
        if old.type != now.type:
            lines.append(f"{kind} '{old.name}' is a {now.type}, the reference's a {old.type}")
        elif _shapes_differ(old.shape, now.shape):
            lines.append(f"{kind} '{old.name}' has shape {now.shape}, the reference's {old.shape}")
    return lines


def _shapes_differ(old: Sequence[int | str | None], new: Sequence[int | str | None]) -> bool:
    if not old or not new:  # a scalar, or not declared: ONNX Runtime shows both as []
        return False
    return len(old) != len(new) or any(
        isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(old, new, strict=True)
    )


def _failures(output: OutputDifference, limits: Limits) -> list[str]:
    """Say what of one output is out of the limits; written so that a NaN fails."""
    lines = []
    if output.new_nonfinite:
        lines.append(
            f"output '{output.name}': {output.new_nonfinite} values are NaN or infinite, not so in the reference"
        )
    if not output.cosine >= limits.min_cosine:
        lines.append(f"output '{output.name}': cosine {output.cosine:.4f} is below {limits.min_cosine:g}")
    if limits.max_error is not None and not output.relative_l2 <= limits.max_error:
        lines.append(f"output '{output.name}': relative error {output.relative_l2:.4g} is above {limits.max_error:g}")
    return lines
