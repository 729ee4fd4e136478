"""Metrics that run the model themselves: for evaluation loops of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr.errors import UsageError
from onnxlr.evaluation.metrics import PLAIN, Unit

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnxruntime as ort

    Array = np.ndarray[Any, np.dtype[np.float64]]
    Score = Callable[[ort.InferenceSession], Any]


@dataclass(frozen=True, slots=True)
class SessionMetric:
    """Functions of an ONNX Runtime session, higher being better, which bring their own samples.

    Each returns a number, or the scores of its samples, (n,), whose mean is the number: only then is there a standard
    error. The session is on the target that models are judged on, with all cores.

    Parameters
    ----------
    choose
        What models are chosen by.
    report
        What the accuracy of the one chosen is reported by: on other samples, or its figure is too good.
    """

    choose: Score
    report: Score

    @property
    def unit(self) -> Unit:
        """How its figures are shown: as they are."""
        return PLAIN

    @property
    def against_original(self) -> bool:
        """It needs no labels: what outputs are compared with is the original's."""
        return True

    @property
    def name(self) -> str:
        """The name of the function."""
        return str(getattr(self.choose, "__qualname__", type(self.choose).__name__))

    def reporting(self) -> SessionMetric:
        """Return the metric that the model taken is reported by."""
        return SessionMetric(self.report, self.report)

    def of(self, session: ort.InferenceSession) -> tuple[float, Array]:
        """Return the value and the samples' scores; without those, the value alone.

        Raises
        ------
        UsageError
            When the function returns anything else.
        """
        found: object = self.choose(session)
        scores = np.atleast_1d(np.asarray(found))
        if scores.dtype.kind not in "fiub" or scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
            what = f"an array of {scores.dtype} {scores.shape}" if isinstance(found, np.ndarray) else repr(found)
            raise UsageError(
                f"the metric {self.name} returned {what}", "it must return a finite number, or one for each sample"
            )
        parts = scores.astype(np.float64)
        return float(parts.mean()), parts
