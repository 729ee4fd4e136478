"""The rows of bench_accuracy.py as lines of text, as a Markdown table and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxlr.evaluation import Unit

BASELINE = "BALF rule"
WAYS = ("weights", "data", "refit", "outlook", "allocation")
HEADS = {"weights": "weights only"} | {way: f"+ {way}" for way in WAYS[1:]}


@dataclass(frozen=True, slots=True)
class Row:
    """How one model did.

    ``value`` and ``error`` (one standard error) are in the unit of the metric, ``lost`` and ``lost_error`` the paired
    difference from the original. ``agreement`` and ``kl`` (nats) are of classes, None of other outputs; ``l2`` is the
    relative L2 difference of those. ``kept`` is a share of the MACs; ``seconds`` is what making the model took, 0 where
    it was given.
    """

    way: str
    scheme: str
    keep: float | None
    kept: float
    value: float
    error: float
    lost: float
    lost_error: float
    agreement: float | None
    kl: float | None
    l2: float | None
    seconds: float

    def text(self, unit: Unit) -> str:
        """Return one line for the terminal."""
        value, error, lost, spread = (unit.scale * x for x in (self.value, self.error, self.lost, self.lost_error))
        asked = "" if self.keep is None else f"{self.keep:g}"
        same = "" if self.agreement is None else f"{self.agreement:8.1%}"
        away = f"{self.l2:8.4f}" if self.kl is None else f"{self.kl:8.4f}"
        return (
            f"{asked:>5} {self.way:9} {self.scheme:12} {self.kept:6.3f} {value:7.2f} +- {error:4.2f} "
            f"{lost:7.2f} +- {spread:4.2f} {same:>8} {away} {self.seconds:6.0f} s"
        )


def heading(metric: str, unit: Unit, *, classes: bool) -> str:
    """Return the line above those of :meth:`Row.text`."""
    away = "KL" if classes else "rel. L2"
    same = "agrees" if classes else ""
    value = f"{metric}, {unit.name}"
    return (
        f"{'keep':>5} {'how':9} {'scheme':12} {'kept':>6} {value:>15} {'lost':>15} {same:>8} {away:>8} {'made in':>8}"
    )


def markdown(rows: Sequence[Row], unit: Unit, name: str) -> str:
    """Return a table of the values: a line for each scheme, a group of columns for each share kept."""
    keeps = list(dict.fromkeys(row.keep for row in rows if row.keep is not None))
    found = {(row.way, row.scheme, row.keep): row for row in rows}
    original = found["original", "", None]

    def cell(way: str, scheme: str, keep: float) -> str:
        row = found.get((way, scheme, keep))
        return "-" if row is None else f"{unit.scale * row.value:.2f}"

    baseline = any(row.way == BASELINE for row in rows)
    used = [way for way in WAYS if any(row.way == way for row in rows) or (way == "data" and baseline)]
    heads = [f"{HEADS[way]}, {keep:g}" for keep in keeps for way in used]
    lines = [f"| {name} | {' | '.join(heads)} |", f"| --- |{' --- |' * len(heads)}"]
    schemes = dict.fromkeys(row.scheme for row in rows if row.way in WAYS)
    lines += [
        f"| `{scheme}` | {' | '.join(cell(way, scheme, keep) for keep in keeps for way in used)} |"
        for scheme in schemes
    ]
    if baseline:
        cells = [cell(BASELINE, "basis", keep) if way == "data" else "" for keep in keeps for way in used]
        lines.append(f"| {BASELINE} | {' | '.join(cells)} |")
    start = f"{unit.scale * original.value:.2f} ± {unit.scale * original.error:.2f} {unit.name}"
    return "\n".join([*lines, "", f"Original: {start}."])


def as_json(rows: Sequence[Row], about: dict[str, object]) -> str:
    """Return the whole record as JSON text; what is not a number is null."""
    plain = [
        {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in asdict(row).items()}
        for row in rows
    ]
    return json.dumps({**about, "rows": plain}, indent=2) + "\n"
