"""rewrite(): the whole job as one readable function."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from onnxlr.accuracy import accuracy_of, check_goals
from onnxlr.allocate import allocate
from onnxlr.build import build
from onnxlr.calibrate import calibrate
from onnxlr.calibration.views import Views
from onnxlr.errors import BudgetError
from onnxlr.judging import judges_of
from onnxlr.model_io import check_finite, remove
from onnxlr.planning.budget import KeepMacs, choose
from onnxlr.planning.candidates import enumerate_choices
from onnxlr.planning.plan import Plan
from onnxlr.planning.sharing import Sharing
from onnxlr.prepare import prepare
from onnxlr.progress import silent
from onnxlr.prove import prove, rehearse
from onnxlr.report.summary import Measured
from onnxlr.schemes.registry import by_family
from onnxlr.searching.find import Task, find
from onnxlr.searching.front import trace
from onnxlr.searching.ledger import Ledger
from onnxlr.setting import kept_at, setting_of
from onnxlr.summarize import summarize
from onnxlr.target import channel_block

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import onnx

    from onnxlr.build import Built
    from onnxlr.calibrate import Calibration
    from onnxlr.calibration import Source
    from onnxlr.judging import Judges
    from onnxlr.model_io import Model
    from onnxlr.prepare import Prepared
    from onnxlr.progress import Progress
    from onnxlr.report.allocated import Allocated
    from onnxlr.report.front import Front
    from onnxlr.report.summary import Summary
    from onnxlr.request import Request


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
        When the rewritten model, or what was prepared to be rewritten, is not what it should be.
    """
    prepared, calibration = _prepare(model, request, progress)
    judges = judges_of(model, request, split=request.goals.searching)
    searched = allocated = None
    if request.goals.searching:
        setting = setting_of(model, request)
        ledger = Ledger(kept_at(request, setting), setting, optional=True)
        found = find(task_of(model, prepared, calibration, judges, request), ledger, progress)
        built, searched = found.built, found.searched
        plan = Plan(searched.trial.choices, model.sha256, searched.goals)
    else:
        plan, allocated = _plan(model, prepared, request, calibration, progress)
        if not plan.choices:
            raise BudgetError(_nothing(prepared, request), "try other schemes or ranks, or onnxlr inspect")
        stage = _stage(progress, "factorize")
        built = build(prepared, model.folder, request.target, calibration, plan.choices, stage)
    summary = replace(summarize(model, prepared, built, plan, request), searched=searched, allocated=allocated)
    if calibration is not None and request.data is not None:
        summary = replace(summary, notes=(*summary.notes, *_data_notes(calibration, built, request.data)))
    if request.dry_run:
        return Outcome(prepared.proto, plan, summary)
    if request.validate:
        at_best = inf if searched is None else searched.trial.original_ms
        summary = replace(summary, measured=_measure(model, prepared, built, calibration, request, at_best, progress))
    if judges is not None:
        progress("evaluate", 0.0)
        summary = replace(summary, accuracy=accuracy_of(judges.held(), built.proto))
    check_goals(summary, request.goals)
    return Outcome(built.proto, plan, summary)


def front(
    model: Model,
    request: Request,
    state: Path | None,
    progress: Progress = silent,
    *,
    deliver: Callable[[Front], None] | None = None,
) -> Front:
    """Find the trade between speed and loss.

    Trials are kept beside the latency cache; where nothing can be kept there, in ``state``, which is removed when all
    is done: after ``deliver``, called with what was found, has returned.

    Raises
    ------
    UsageError, ModelError, BudgetError, ValidationError
        As :func:`run` does; or when ``state`` belongs to another search.
    """
    setting = f"{setting_of(model, request)} front"
    kept = kept_at(request, setting)
    ledger = Ledger(kept or state, setting, optional=kept is not None)
    prepared, calibration = _prepare(model, request, progress, optional=False)
    judges = judges_of(model, request, split=True)
    found = trace(task_of(model, prepared, calibration, judges, request), ledger, progress)
    if deliver is not None:
        deliver(found)
    if kept is None and state is not None:
        remove(state)
    return found


def _prepare(
    model: Model, request: Request, progress: Progress, *, optional: bool = True
) -> tuple[Prepared, Calibration | None]:
    """Bring the model into normal form, see that it runs, and gather what its layers see in the data.

    ``optional`` says that the command can do without validation.
    """
    check_finite(model.proto, model.folder)
    progress("prepare", 0.0)
    prepared = prepare(model, request.target, request.selection, simplify=request.simplify)
    if request.validate and not request.dry_run:
        rehearse(
            model.proto,
            prepared,
            folder=model.folder,
            target=request.target,
            seed=request.seed,
            simplified=request.simplify,
            optional=optional,
        )
    if request.data is None:
        return prepared, None
    stage = _stage(progress, "calibrate")
    return prepared, calibrate(prepared, model.folder, request.target, request.data, request.seed, stage)


def task_of(
    model: Model, prepared: Prepared, calibration: Calibration | None, judges: Judges | None, request: Request
) -> Task:
    """Return what a search is given."""
    return Task(
        model=model,
        prepared=prepared,
        calibration=calibration,
        schemes=by_family(request.schemes, measured=True),
        target=request.target,
        choosing=None if judges is None else judges.choosing,
        held=0 if judges is None else judges.rest.count,
        goals=request.goals,
        trials=request.trials,
        at=request.at,
        cache=request.cache,
        seed=request.seed,
    )


def _data_notes(calibration: Calibration, built: Built, data: Source) -> tuple[str, ...]:
    """Say what the factors were fitted to, and which were not."""
    fitted = f"factors fitted to {calibration.samples} samples"
    if built.refitted:
        fitted += f"; {len(built.refitted)} dense behind them refitted to what they now receive"
    fits = [one for one in built.made if one.chain.steps[0][0].tile is None]  # exact tiles are fitted to nothing
    blind = [one.workload.site for one in fits if one.choice.site not in calibration.seen]
    adding = [site.label for site in blind if site.adds and site.scope == ""]
    notes = [fitted]
    if adding:
        names = ", ".join(adding[:3]) + (", ..." if len(adding) > 3 else "")
        notes.append(f"from their weights alone, for they add what is not one constant a channel: {names}")
    return (*notes, *data.notes)


def _plan(
    model: Model, prepared: Prepared, request: Request, calibration: Calibration | None, progress: Progress
) -> tuple[Plan, Allocated | None]:
    """Return the plan and, where plans were tried on data for it, the record of that."""
    if request.plan is not None:
        return request.plan, None
    schemes, block = by_family(request.schemes), channel_block(request.target.provider)
    stage = _stage(progress, "plan")
    if calibration is None or not isinstance(request.budget, KeepMacs):
        choices = choose(
            request.budget,
            prepared.workloads,
            schemes,
            other_macs=prepared.other_macs,
            block=block,
            views={} if calibration is None else Views(calibration.seen, {}),
            progress=stage,
        )
        return Plan(choices, model.sha256, str(request.budget)), None
    every = enumerate_choices(prepared.workloads, schemes, block, calibration.views, stage)
    sharing = Sharing(every, prepared.other_macs, request.budget.share)
    choices, allocated = allocate(
        prepared, model.folder, request.target, calibration, sharing, _stage(progress, "allocate")
    )
    return Plan(choices, model.sha256, str(request.budget)), allocated


def _measure(
    model: Model,
    prepared: Prepared,
    built: Built,
    calibration: Calibration | None,
    request: Request,
    at_best: float,
    progress: Progress,
) -> Measured:
    proof = prove(
        model.proto,
        prepared,
        built.proto,
        built.made,
        refitted=built.refitted,
        held=() if calibration is None else calibration.held,
        folder=model.folder,
        target=request.target,
        seed=request.seed,
        at_best=at_best,
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


def _nothing(prepared: Prepared, request: Request) -> str:
    if not prepared.workloads:
        reasons = sorted({other.reason for other in prepared.skipped})
        why = f": {len(prepared.skipped)} skipped ({'; '.join(reasons[:4])})" if reasons else ""
        return f"the model has no Conv, Gemm or MatMul that can be rewritten{why}"
    return f"no layer of {len(prepared.workloads)} has a cheaper chain that would {request.budget}"


def _stage(progress: Progress, stage: str) -> Callable[[float], None]:
    return lambda share: progress(stage, share)
