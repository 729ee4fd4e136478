"""What a search for the whole trade between speed and accuracy found."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import isfinite
from typing import TYPE_CHECKING

from onnxlr.report.search_view import with_error
from onnxlr.report.summary import finite
from onnxlr.report.svg import Point, scatter

if TYPE_CHECKING:
    from onnxlr.report.searched import Protocol, Trial

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Front:
    """Every trial, fastest last, and the indices of those that none beats in both speed and loss.

    ``macs`` and ``original_ms`` are those of the original, which is the front's end at no loss.
    """

    model: str
    model_sha256: str
    protocol: Protocol
    macs: int
    original_ms: float
    trials: tuple[Trial, ...]
    best: tuple[int, ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """Return the front as JSON text; every trial has its plan."""
        return json.dumps(finite({"onnxlr_front": _VERSION, **asdict(self)}), indent=1, ensure_ascii=False) + "\n"

    def to_svg(self) -> str:
        """Return a plot of speed against loss: every trial, those on the front joined by a line from the original."""
        unit, on_front = self.protocol.unit, set(self.best)
        points = [Point(1.0, 0.0, 0.0, "the original", bold=True)]
        points += [
            Point(
                trial.faster,
                trial.loss * unit.scale,
                trial.loss_error * unit.scale if isfinite(trial.loss_error) else 0.0,
                f"{trial.faster:.2f}x, {with_error(trial.loss, trial.loss_error, unit, drop=True)}",
                bold=index in on_front,
            )
            for index, trial in enumerate(self.trials)
        ]
        lost = f"drop of {self.protocol.metric}" if self.protocol.choosing else self.protocol.metric
        return scatter(
            f"{self.model.rpartition('/')[2]}: speed and loss",
            "times faster, measured",
            f"{lost} ({unit.drop_name})" if unit.drop_name else lost,
            points,
        )
