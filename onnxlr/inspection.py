"""inspect: what a model is made of and what could be saved, from its weights and one profiled run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxlr.cost.profile import profile
from onnxlr.errors import ModelError
from onnxlr.model_io import check_finite
from onnxlr.planning.candidates import read_layer
from onnxlr.prepare import Selection, prepare
from onnxlr.report.findings import Finding, Inspection
from onnxlr.schemes.registry import all_schemes
from onnxlr.target import channel_block, seeded_feeds

if TYPE_CHECKING:
    from onnxlr.cost.profile import Profile
    from onnxlr.model_io import Model
    from onnxlr.planning.candidates import Workload
    from onnxlr.prepare import Prepared
    from onnxlr.progress import Progress
    from onnxlr.target import Target

ENERGY = 0.95


def inspect_model(model: Model, target: Target, progress: Progress) -> Inspection:
    """Inspect ``model``.

    Raises
    ------
    UsageError
        When an input's shape must be given.
    ModelError
        When the model cannot be used.
    """
    check_finite(model.proto, model.folder)
    prepared = prepare(model, target, Selection(), simplify=False)
    notes: list[str] = []
    timed: Profile | None = None
    try:
        feeds = seeded_feeds(model.proto, prepared.shapes)[0]
        timed = profile(prepared.proto, model.folder, target, feeds)
    except ModelError as error:
        notes.append(f"no times: {error}")
    findings = {}
    block = channel_block(target.provider)
    for done, workload in enumerate(prepared.workloads, start=1):
        findings[workload.site.key] = _finding(workload, prepared, timed, block)
        progress("inspect", done / len(prepared.workloads))
    for other in prepared.skipped:
        share = None if timed is None else timed.share(other.key)
        findings[other.key] = Finding(other.label, other.op, "", None, None, share, None, None, (), other.reason)
    return Inspection(
        model=str(model.path or "(in memory)"),
        shapes=prepared.shapes,
        macs=prepared.macs,
        findings=tuple(findings.values()),
        latency_ms=None if timed is None else timed.run_ms,
        notes=tuple(notes),
    )


def _finding(workload: Workload, prepared: Prepared, timed: Profile | None, block: int) -> Finding:
    site, shape = workload.site, workload.shape
    layer = read_layer(site)
    energy = layer.energy((0,)).sum(axis=0)
    total = float(energy.sum())
    full = min(shape.T, shape.S * shape.taps)
    rank95 = int(np.searchsorted(np.cumsum(energy), ENERGY * total)) + 1 if total > 0.0 else 0
    paying: dict[str, None] = {}
    for scheme in all_schemes():
        if scheme.refusal(shape) is None:
            costs = (workload.extent.macs(scheme.template(shape, r)) for r in scheme.candidates(shape, block))
            if any(cost < workload.macs for cost in costs):
                paying[scheme.family] = None
    kernel = "x".join(map(str, site.geometry.kernel))
    return Finding(
        node=site.label,
        op=site.op,
        shape=f"{site.in_channels}->{site.out_channels}" + (f" {kernel}" if kernel else ""),
        macs=workload.macs,
        mac_share=workload.macs / prepared.macs if prepared.macs else 0.0,
        time_share=None if timed is None else timed.share(site.output, site.scope),
        rank95=min(rank95, full),
        full_rank=full,
        families=tuple(paying),
        skipped=None if paying else "no chain costs less",
    )
