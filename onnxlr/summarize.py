"""The record of a rewrite, from what was done."""

from __future__ import annotations

from importlib.metadata import version
from math import prod
from typing import TYPE_CHECKING

from onnxlr.model_io import dense_size, every_tensor
from onnxlr.planning.budget import KeepMacs
from onnxlr.report.notes import notes_on
from onnxlr.report.summary import ChangeRow, LayerRow, SkippedRow, Summary, Totals
from onnxlr.schemes.registry import by_family
from onnxlr.target import channel_block
from onnxlr_passes.constants import FLOAT_TYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from onnxlr.build import Built
    from onnxlr.factorize import Factorized
    from onnxlr.model_io import Model
    from onnxlr.planning.candidates import Workload
    from onnxlr.planning.plan import Plan
    from onnxlr.prepare import Prepared
    from onnxlr.request import Request
    from onnxlr.schemes.base import Scheme


def summarize(model: Model, prepared: Prepared, built: Built, plan: Plan, request: Request) -> Summary:
    """Return what can be said before anything is measured."""
    rows = tuple(_row(one) for one in built.made)
    saved = sum(row.macs_before - row.macs_after for row in rows)
    changes = tuple(ChangeRow(made_by, change.node, change.what) for made_by, change in prepared.changes)
    notes = [*notes_on(changes), *_signature_notes(prepared.proto, built.proto)]
    if plan.model_sha256 not in {"", model.sha256}:
        notes.append("the plan was made for another model; its layers fit this one")
    return Summary(
        model=str(model.path or "(in memory)"),
        model_sha256=model.sha256,
        onnxlr=version("onnxlr"),
        budget=plan.budget,
        dry_run=request.dry_run,
        layers=rows,
        skipped=_stays(prepared, plan, request),
        before=Totals(prepared.macs, _parameters(model.proto), model.size),
        after=Totals(prepared.macs - saved, _parameters(built.proto), dense_size(built.proto, model.folder)),
        notes=tuple(notes),
        changes=changes,
        measured=None,
    )


def _signature_notes(before: onnx.ModelProto, after: onnx.ModelProto) -> list[str]:
    """Say what the rewrite itself took from a model's signature: weights that were also inputs."""
    left = {value.name for value in after.graph.input}
    gone = [value.name for value in before.graph.input if value.name not in left]
    notes = []
    if gone:
        names = ", ".join(gone[:3]) + (", ..." if len(gone) > 3 else "")
        notes.append(f"weights of rewritten layers are no longer inputs, they cannot be fed at run time: {names}")
    if before.ir_version != after.ir_version:
        notes.append(f"IR version {before.ir_version} raised to {after.ir_version} for factors that are not inputs")
    return notes


def _stays(prepared: Prepared, plan: Plan, request: Request) -> tuple[SkippedRow, ...]:
    """Return every Conv, Gemm and MatMul that stays as it is, with the reason."""
    planned = {choice.site for choice in plan.choices}
    left = [workload for workload in prepared.workloads if workload.site.key not in planned]
    schemes = by_family(request.schemes, measured=request.goals.searching)
    return (
        *(SkippedRow(other.label, other.op, other.reason) for other in prepared.skipped),
        *(SkippedRow(one.site.label, one.site.op, _why(one, schemes, request)) for one in left),
    )


def _why(workload: Workload, schemes: Sequence[Scheme], request: Request) -> str:
    if request.plan is not None:
        return "not in the plan"
    refusals = [workload.refusal(scheme) for scheme in schemes]
    known = list(dict.fromkeys(refusal for refusal in refusals if refusal is not None))
    if None not in refusals:
        return "no scheme applies: " + "; ".join(known)
    block = channel_block(request.target.provider)
    able = [scheme for scheme, refusal in zip(schemes, refusals, strict=True) if refusal is None]
    templates = (one.template(workload.shape, r) for one in able for r in one.candidates(workload.shape, block))
    if all(workload.extent.macs(template) >= workload.macs for template in templates):
        return "every chain costs as much"
    if request.goals.searching or isinstance(request.budget, KeepMacs):
        return "the budget is better met elsewhere"
    return "no chain that keeps this much is cheaper"


def _row(one: Factorized) -> LayerRow:
    site = one.workload.site
    geometry = site.geometry
    kernel = "x".join(map(str, geometry.kernel))
    extra = [f"/{'x'.join(map(str, geometry.strides))}" if set(geometry.strides) - {1} else ""]
    extra.append(f" g{geometry.group}" if geometry.group > 1 else "")
    return LayerRow(
        node=site.label,
        site=site.key,
        op=site.op,
        shape=f"{site.in_channels}->{site.out_channels}" + (f" {kernel}" if kernel else "") + "".join(extra),
        scheme=one.choice.scheme,
        ranks=one.choice.ranks,
        macs_before=one.workload.macs,
        macs_after=one.macs,
        error=one.error,
        output_error=one.output_error,
    )


def _parameters(proto: onnx.ModelProto) -> int:
    """Count the floating-point numbers the model holds as tensors."""
    return sum(prod(tensor.dims) for tensor in every_tensor(proto) if tensor.data_type in FLOAT_TYPES)
