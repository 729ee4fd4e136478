"""Models measured one beside the other: a row for each, kept in a file, and what their differences come to."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr.evaluation.estimates import Estimate, standard_error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from onnxlr.evaluation import Unit


@dataclass(frozen=True, slots=True)
class Row:
    """One model: times faster than the original, what it loses on each sample, in the metric's unit, and its shift."""

    way: str
    strength: str
    faster: float
    losses: tuple[float, ...]
    shift: float
    plan: str

    @property
    def lost(self) -> Estimate:
        """The mean loss."""
        return mean_of([self.losses])

    def text(self, unit: Unit) -> str:
        """Return one line."""
        return (
            f"{self.way:14} {self.strength:10} {self.faster:6.2f}x  loses {scaled(self.lost, unit)} {unit.drop_name}, "
            f"outputs shift by {self.shift:.4f}"
        )


def mean_of(losses: Sequence[Sequence[float]]) -> Estimate:
    """Return the mean over models (k) of losses on the same samples (n); the error is that of drawing samples."""
    of_samples: np.ndarray[Any, np.dtype[np.float64]] = np.asarray(losses, dtype=np.float64).mean(axis=0)
    return Estimate(float(of_samples.mean()), standard_error(of_samples))


def more_lost(theirs: Row, ours: Row) -> list[float]:
    """Return what ``theirs`` loses more on each sample."""
    return [one - other for one, other in zip(theirs.losses, ours.losses, strict=True)]


def scaled(estimate: Estimate, unit: Unit) -> str:
    """Return an estimate as a reader is told it."""
    return f"{unit.scale * estimate.value:.2f} ± {unit.scale * estimate.error:.2f}"


class Record:
    """The rows measured so far, in a file; those of another setting are forgotten."""

    def __init__(self, path: Path, setting: dict[str, object]) -> None:
        self.path, self.setting = path, setting
        self.rows: list[Row] = []
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["setting"] == setting:
                self.rows = [Row(**{**row, "losses": tuple(row["losses"])}) for row in found["rows"]]

    def of(self, way: str, strength: str, plan: str | None = None) -> Row | None:
        """Return the row of this way and plan, or of this strength where no plan is said."""
        same = (
            row
            for row in self.rows
            if row.way == way and (row.strength == strength if plan is None else row.plan == plan)
        )
        return next(same, None)

    def add(self, row: Row) -> None:
        """Add one and write all."""
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"setting": self.setting, "rows": [asdict(one) for one in self.rows]}
        self.path.write_text(json.dumps(content) + "\n", encoding="utf-8")
