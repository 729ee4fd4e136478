"""What inspect found, as a value."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One Conv, Gemm or MatMul.

    ``macs`` and ``mac_share`` count one run of the model (None where the input size is unknown); ``time_share`` is the
    measured share of kernel time (None where it could not be told). ``rank95`` is the rank of the output-channel
    unfolding that holds 95 % of the kernel's energy, of ``full_rank``. ``families`` can save MACs here; ``skipped``
    says why nothing is tried.
    """

    node: str
    op: str
    shape: str
    macs: int | None
    mac_share: float | None
    time_share: float | None
    rank95: int | None
    full_rank: int | None
    families: tuple[str, ...]
    skipped: str | None


@dataclass(frozen=True, slots=True)
class Inspection:
    """Every finding, in node order; ``latency_ms`` is the median of the profiled runs, None where they failed."""

    model: str
    shapes: dict[str, tuple[int, ...]]
    macs: int
    findings: tuple[Finding, ...]
    latency_ms: float | None
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """Return the findings as JSON text."""
        return json.dumps({"onnxlr_inspection": 1, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"
