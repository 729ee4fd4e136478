"""rewrite(): the whole job as one readable function."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.metadata import version
from math import prod
from typing import TYPE_CHECKING

from onnxlr.calibrate import calibrate, fit_to_data
from onnxlr.errors import BudgetError, ModelError
from onnxlr.factorize import factorize
from onnxlr.model_io import check_finite, dense_size, every_tensor
from onnxlr.planning.budget import KeepMacs, choose
from onnxlr.planning.plan import Plan
from onnxlr.prepare import Selection, only, prepare
from onnxlr.progress import silent
from onnxlr.prove import prove, rehearse
from onnxlr.report.notes import notes_on
from onnxlr.report.summary import ChangeRow, LayerRow, Measured, SkippedRow, Summary, Totals
from onnxlr.schemes.registry import by_family
from onnxlr.target import Target, channel_block
from onnxlr_passes.base import PassError
from onnxlr_passes.constants import FLOAT_TYPES
from onnxlr_passes.decompose import Decompose

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx

    from onnxlr.calibrate import Calibration
    from onnxlr.calibration import Source
    from onnxlr.factorize import Factorized
    from onnxlr.model_io import Model
    from onnxlr.planning.budget import Budget
    from onnxlr.planning.candidates import Workload
    from onnxlr.prepare import Prepared
    from onnxlr.progress import Progress
    from onnxlr.schemes.base import Scheme
    from onnxlr_passes.chain import Chain


@dataclass(frozen=True, slots=True)
class Request:
    """What to do with a model: see the command line's options for each."""

    schemes: tuple[str, ...] = ("auto",)
    budget: Budget = field(default_factory=lambda: KeepMacs(0.5))
    selection: Selection = field(default_factory=Selection)
    target: Target = field(default_factory=Target)
    plan: Plan | None = None
    data: Source | None = None
    simplify: bool = True
    validate: bool = True
    dry_run: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The rewritten model (the prepared original after a dry run), the plan it follows and the record of it."""

    proto: onnx.ModelProto
    plan: Plan
    summary: Summary


def run(model: Model, request: Request, progress: Progress = silent) -> Outcome:
    """Rewrite ``model``.

    Raises
    ------
    UsageError
        When the request cannot be honoured: unknown names, missing shapes, ranks that do not exist.
    ModelError
        When the model cannot be used or run on the target.
    BudgetError
        When the budget cannot be met, or nothing is left to rewrite.
    ValidationError
        When the rewritten model is not what it should be.
    """
    check_finite(model.proto, model.folder)
    progress("prepare", 0.0)
    prepared = prepare(model, request.target, request.selection, simplify=request.simplify)
    if request.validate and not request.dry_run:
        rehearse(model.proto, prepared, folder=model.folder, target=request.target, seed=request.seed)
    calibration = None
    if request.data is not None:
        stage = _stage(progress, "calibrate")
        calibration = calibrate(prepared, model.folder, request.target, request.data, request.seed, stage)
    plan = _plan(model, prepared, request, calibration, progress)
    if not plan.choices:
        raise BudgetError(_nothing(prepared, request), "try other schemes or ranks, or onnxlr inspect")
    workloads = only(prepared, [choice.site for choice in plan.choices])
    stage = _stage(progress, "factorize")
    refitted: dict[str, Chain] = {}
    if calibration is None:
        made = factorize(workloads, plan.choices, stage)
    else:
        made, refitted = fit_to_data(prepared, model.folder, request.target, calibration, plan.choices, stage)
    try:
        chains = refitted | {one.choice.site: one.chain for one in made}
        rewritten = Decompose(chains, model.folder)(prepared.proto).model
    except PassError as error:
        raise ModelError(str(error), "exclude that layer with --exclude") from error
    summary = _summarize(model, prepared, rewritten, made, plan, request)
    if calibration is not None and request.data is not None:
        summary = replace(summary, notes=(*summary.notes, *_data_notes(calibration, refitted, request.data)))
    if request.dry_run:
        return Outcome(prepared.proto, plan, summary)
    if request.validate:
        summary = replace(
            summary, measured=_measure(model, prepared, rewritten, made, refitted, calibration, request, progress)
        )
    return Outcome(rewritten, plan, summary)


def _data_notes(calibration: Calibration, refitted: Mapping[str, Chain], data: Source) -> tuple[str, ...]:
    """Say what the factors were fitted to."""
    fitted = f"factors fitted to {calibration.samples} samples"
    also = f"; {len(refitted)} dense behind them refitted to what they now receive" if refitted else ""
    return (fitted + also, *data.notes)


def _plan(
    model: Model, prepared: Prepared, request: Request, calibration: Calibration | None, progress: Progress
) -> Plan:
    if request.plan is not None:
        return request.plan
    choices = choose(
        request.budget,
        prepared.workloads,
        by_family(request.schemes),
        other_macs=prepared.other_macs,
        block=channel_block(request.target.provider),
        metrics={} if calibration is None else calibration.metrics(),
        progress=_stage(progress, "plan"),
    )
    return Plan(choices, model.sha256, str(request.budget))


def _measure(
    model: Model,
    prepared: Prepared,
    rewritten: onnx.ModelProto,
    made: Sequence[Factorized],
    refitted: Mapping[str, Chain],
    calibration: Calibration | None,
    request: Request,
    progress: Progress,
) -> Measured:
    proof = prove(
        model.proto,
        prepared,
        rewritten,
        made,
        refitted=refitted,
        held=() if calibration is None else calibration.held,
        folder=model.folder,
        target=request.target,
        seed=request.seed,
        progress=_stage(progress, "measure"),
    )
    return Measured(
        request.target.describe(),
        prepared.shapes,
        request.seed,
        proof.surgery,
        proof.outputs,
        proof.before,
        proof.after,
        proof.speedup,
        proof.incomparable,
        proof.compared_on,
    )


def _summarize(
    model: Model,
    prepared: Prepared,
    rewritten: onnx.ModelProto,
    made: Sequence[Factorized],
    plan: Plan,
    request: Request,
) -> Summary:
    rows = tuple(_row(one) for one in made)
    saved = sum(row.macs_before - row.macs_after for row in rows)
    changes = tuple(ChangeRow(made_by, change.node, change.what) for made_by, change in prepared.changes)
    notes = list(notes_on(changes))
    if plan.model_sha256 not in {"", model.sha256}:
        notes.append("the plan was made for another model; its layers fit this one")
    return Summary(
        model=str(model.path or "(in memory)"),
        model_sha256=model.sha256,
        onnxlr=version("onnxlr"),
        budget=plan.budget if request.plan is not None else str(request.budget),
        dry_run=request.dry_run,
        layers=rows,
        skipped=_stays(prepared, plan, request),
        before=Totals(prepared.macs, _parameters(model.proto), model.size),
        after=Totals(prepared.macs - saved, _parameters(rewritten), dense_size(rewritten, model.folder)),
        notes=tuple(notes),
        changes=changes,
        measured=None,
    )


def _stays(prepared: Prepared, plan: Plan, request: Request) -> tuple[SkippedRow, ...]:
    """Return every Conv, Gemm and MatMul that stays as it is, with the reason."""
    planned = {choice.site for choice in plan.choices}
    left = [workload for workload in prepared.workloads if workload.site.key not in planned]
    schemes = by_family(request.schemes)
    return (
        *(SkippedRow(other.label, other.op, other.reason) for other in prepared.skipped),
        *(SkippedRow(one.site.label, one.site.op, _why(one, schemes, request)) for one in left),
    )


def _why(workload: Workload, schemes: Sequence[Scheme], request: Request) -> str:
    if request.plan is not None:
        return "not in the plan"
    refusals = [scheme.refusal(workload.shape) for scheme in schemes]
    known = list(dict.fromkeys(refusal for refusal in refusals if refusal is not None))
    if None not in refusals:
        return "no scheme applies: " + "; ".join(known)
    block = channel_block(request.target.provider)
    able = [scheme for scheme, refusal in zip(schemes, refusals, strict=True) if refusal is None]
    templates = (one.template(workload.shape, r) for one in able for r in one.candidates(workload.shape, block))
    if all(workload.extent.macs(template) >= workload.macs for template in templates):
        return "every chain costs as much"
    if isinstance(request.budget, KeepMacs):
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


def _nothing(prepared: Prepared, request: Request) -> str:
    if not prepared.workloads:
        reasons = sorted({other.reason for other in prepared.skipped})
        why = f": {len(prepared.skipped)} skipped ({'; '.join(reasons[:4])})" if reasons else ""
        return f"the model has no Conv, Gemm or MatMul that can be rewritten{why}"
    return f"no layer of {len(prepared.workloads)} has a cheaper chain that would {request.budget}"


def _stage(progress: Progress, stage: str) -> Callable[[float], None]:
    return lambda share: progress(stage, share)
