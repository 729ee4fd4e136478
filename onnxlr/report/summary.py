"""The one record of a rewrite: everything the terminal, the JSON file and the Python API show comes from here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxlr.cost.timing import Speedup, Timing
    from onnxlr.report.allocated import Allocated
    from onnxlr.report.searched import Accuracy, Searched
    from onnxlr.target import Description
    from onnxlr.validation.numeric import OutputDifference

_VERSION = 1
# Chains run at most this much faster than their MACs say before the figure is doubted rather than shown off.
_SUSPICIOUS = 1.5
_ROUNDING = 1e-12  # of a drop that is exactly the limit
_MISJUDGED = 0.1  # a realised speed-up this far from the predicted one, relative, is told
_FAR = 0.9  # cosine with the original's output below which a reader is warned; the default limit of validate


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One rewritten layer. ``error`` is the relative Frobenius error of the weights; MACs count a run of the model.

    ``output_error`` is that of the layer's output on the calibration data, relative to its standard deviation.
    """

    node: str
    site: str
    op: str
    shape: str
    scheme: str
    ranks: tuple[int, ...]
    macs_before: int
    macs_after: int
    error: float
    output_error: float | None = None

    @property
    def pays(self) -> bool:
        """Whether the chain has fewer multiply-adds than the layer."""
        return self.macs_after < self.macs_before


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """One Conv, Gemm or MatMul that stays as it is."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One thing done to the graph before any layer was rewritten; ``node`` is a node or a value, "" for the graph."""

    made_by: str
    node: str
    what: str


@dataclass(frozen=True, slots=True)
class Totals:
    """The whole model: ``macs`` of Conv, Gemm and MatMul in one run, ``parameters`` in numbers, ``size`` in bytes."""

    macs: int
    parameters: int
    size: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What running both models on the target showed; see :class:`onnxlr.prove.Proof`.

    ``incomparable`` says why ``outputs`` is empty, where it is.
    """

    target: Description
    shapes: dict[str, tuple[int, ...]]
    seed: int
    surgery: float | None
    outputs: tuple[OutputDifference, ...]
    latency_before: Timing
    latency_after: Timing
    speedup: Speedup
    incomparable: str | None = None
    compared_on: str = "random inputs"


@dataclass(frozen=True, slots=True)
class Summary:
    """A rewrite from end to end. ``measured`` is None where nothing was run (a dry run, ``--no-validate``).

    ``notes`` sum up ``changes``, a line for each pass that made some. ``written`` is the new model's file with its
    SHA-256, both empty where none was written yet.
    """

    model: str
    model_sha256: str
    onnxlr: str
    budget: str
    dry_run: bool
    layers: tuple[LayerRow, ...]
    skipped: tuple[SkippedRow, ...]
    before: Totals
    after: Totals
    notes: tuple[str, ...]
    changes: tuple[ChangeRow, ...]
    measured: Measured | None
    written: str = ""
    written_sha256: str = ""
    searched: Searched | None = None
    accuracy: Accuracy | None = None
    allocated: Allocated | None = None

    @property
    def kept_macs(self) -> float:
        """Share of multiply-adds kept, 0 to 1."""
        return self.after.macs / self.before.macs if self.before.macs else 1.0

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know before believing or deploying the result."""
        found = []
        idle = [row for row in self.layers if not row.pays]
        if idle:
            found.append(f"{len(idle)} of {len(self.layers)} rewritten layers cost as many MACs as before, or more")
        if self.after.macs >= self.before.macs:
            found.append("the rewritten model has no fewer MACs than the original")
        if self.measured is not None:
            found += [*_output_warnings(self.measured), *_timing_warnings(self.measured, self.kept_macs)]
        elif not self.dry_run:
            found.append("the rewritten model was never run: neither its outputs nor its speed are proven")
        if self.searched is not None:
            found += _search_warnings(self.searched, self.accuracy)
        return tuple(found)

    def to_json(self) -> str:
        """Return the record as JSON text."""
        data = {"onnxlr_summary": _VERSION, **asdict(self), "kept_macs": self.kept_macs, "warnings": self.warnings}
        return json.dumps(finite(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def finite(value: object) -> object:
    """Return what JSON can hold: numbers that are not finite become None, within dicts and lists too."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def is_slower(gain: Speedup) -> bool:
    """Whether the second model is slower than the first, beyond what two sessions of one model differ by."""
    return gain.significant and gain.high < 1.0


def _output_warnings(measured: Measured) -> list[str]:
    if measured.incomparable is not None:
        return [f"outputs were not compared with the original's: {measured.incomparable}"]
    far = [output for output in measured.outputs if not output.cosine >= _FAR]
    if not far:
        return []
    how = f"cosine {far[0].cosine:.2f} in {far[0].name!r}"
    return [f"outputs on {measured.compared_on} are far from the original's ({how}): expect a loss of accuracy"]


def _search_warnings(searched: Searched, accuracy: Accuracy | None) -> list[str]:
    found = []
    trial, limit = searched.trial, searched.max_loss
    if accuracy is None:
        found.append("accuracy not proven: there were no evaluation data, only outputs were compared")
    elif limit is not None and accuracy.drop.value > limit + _ROUNDING:
        unit = accuracy.unit
        found.append(
            f"on the samples held out the drop is {accuracy.drop.value * unit.scale:.2f} {unit.drop_name}, above the"
            f" {limit * unit.scale:g} allowed, though within twice its standard error"
        )
    if abs(trial.predicted / trial.faster - 1.0) > _MISJUDGED:
        found.append(f"measured layer by layer {trial.predicted:.2f}x was predicted, {trial.faster:.2f}x was realised")
    if trial.timings > 1:
        found.append(f"the timing of the chosen model was restless and was repeated, {trial.timings} times in all")
    return found


def _timing_warnings(measured: Measured, kept: float) -> list[str]:
    found = []
    gain = measured.speedup
    if is_slower(gain):
        found.append(f"the rewritten model is SLOWER ({gain.ratio:.2f}x): keep the original on this target")
    elif not gain.significant:
        found.append(f"no speed-up was measured ({gain.ratio:.2f}x, 95 % interval {gain.low:.2f} to {gain.high:.2f})")
    if kept > 0.0 and gain.low * kept > 1.0:
        how = "far above" if gain.ratio * kept > _SUSPICIOUS else "above"
        found.append(f"{gain.ratio:.2f}x is {how} the MAC ratio of {1 / kept:.2f}x: check that the machine was idle")
    if measured.latency_before.unstable or measured.latency_after.unstable:
        found.append("the timing was unstable: another process may be using the cores")
    return found
