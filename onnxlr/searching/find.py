"""The search as a whole: cheap bounds first, then candidates and their costs, then trials on the real model."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import ceil, exp
from typing import TYPE_CHECKING

from onnxlr.cost.measured import measure, scaled
from onnxlr.errors import BudgetError
from onnxlr.evaluation import SessionMetric
from onnxlr.evaluation.metrics import PLAIN, is_top1
from onnxlr.planning.candidates import enumerate_choices
from onnxlr.planning.sharing import out_of_reach
from onnxlr.report.searched import Protocol, Searched
from onnxlr.searching.course import Course
from onnxlr.searching.strategy import MILD, fastest_within, most_accurate
from onnxlr.searching.table import tabulate, tasks_of
from onnxlr.searching.verify import ByMetric, by_outputs
from onnxlr.searching.workbench import workbench
from onnxlr.sensitivity import sensitivities, tempered
from onnxlr.target import channel_block, seeded_feeds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnxlr.build import Built
    from onnxlr.calibrate import Calibration
    from onnxlr.cost.cache import LatencyCache
    from onnxlr.cost.measured import Costs
    from onnxlr.evaluation import Evaluator
    from onnxlr.model_io import Model
    from onnxlr.prepare import Prepared
    from onnxlr.progress import Progress
    from onnxlr.report.searched import Trial
    from onnxlr.schemes.base import Scheme
    from onnxlr.searching.goals import Goals
    from onnxlr.searching.ledger import Ledger
    from onnxlr.searching.table import Table
    from onnxlr.searching.verify import Verifier
    from onnxlr.searching.workbench import Workbench
    from onnxlr.target import Target

TRIALS = 16
_FEEDS = 8  # seeded samples to measure the error of outputs on, where there are no data at all
_DOUBTED = 1.5  # chains run at most this much faster than their MACs say


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What to search: a prepared model with its statistics, the schemes allowed, where it is to run.

    ``choosing`` scores models on the samples used to choose, None where there are no evaluation data; ``held`` is the
    number of samples kept apart. ``trials`` bounds how many models are built; a front is to have one at each of the
    speed-ups ``at``.
    """

    model: Model
    prepared: Prepared
    calibration: Calibration | None
    schemes: Sequence[Scheme]
    target: Target
    choosing: Evaluator | None
    held: int
    goals: Goals
    trials: int
    at: tuple[float, ...]
    cache: LatencyCache
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The model that was chosen, and how."""

    built: Built
    searched: Searched


def find(task: Task, ledger: Ledger, progress: Progress) -> Found:
    """Search for the model that meets the goals: the fastest within the limit on the loss, else the most accurate.

    Raises
    ------
    BudgetError
        When none does, with the best that was seen.
    """
    with course(task, ledger, progress) as found:
        if task.goals.loss is not None:
            fastest_within(found, task.goals)
        else:
            most_accurate(found, task.goals)
        best = found.best
        if best is None:
            raise unmet(task, found)
        return Found(found.built(best), searched(task, found, best))


@contextmanager
def course(task: Task, ledger: Ledger, progress: Progress) -> Iterator[Course]:
    """Make ready for trials: bounds, candidates, costs, the judge and the workbench.

    Raises
    ------
    BudgetError
        When the goals are out of reach whatever the ranks.
    """
    check_bounds(task)
    with ExitStack() as stack:
        verifier = stack.enter_context(_verifier(task))
        bench = stack.enter_context(
            workbench(task.model, task.prepared, task.target, task.calibration, verifier, task.seed, ledger.baseline)
        )
        ledger.baseline = bench.baseline
        table, notes = _table(task, bench, progress)
        if table.fastest < exp(MILD):
            raise BudgetError(
                f"chains are not much faster than their layers on this target: {table.fastest:.2f}x at best",
                "keep the original, or try other schemes",
            )
        yield Course(
            bench,
            table,
            _weights(task, progress),
            notes,
            task.goals,
            ledger,
            task.trials,
            lambda share: progress("search", share),
            accuracy=task.choosing is not None and is_top1(task.choosing.judge.metric),
        )


def check_bounds(task: Task) -> None:
    """Refuse what even the shortest chains cannot reach; needs no factorization.

    Raises
    ------
    BudgetError
        With the bound.
    """
    block = channel_block(task.target.provider)
    least = task.prepared.other_macs
    for workload in task.prepared.workloads:
        able = [scheme for scheme in task.schemes if workload.refusal(scheme) is None]
        macs = [
            workload.extent.macs(scheme.template(workload.shape, ranks))
            for scheme in able
            for ranks in scheme.candidates(workload.shape, block)
        ]
        least += min([workload.macs, *macs])
    every = task.prepared.macs
    if least >= every:
        raise BudgetError("no layer has a cheaper chain with these schemes", "try other schemes, or onnxlr inspect")
    ratio = every / max(least, 1)
    goals = task.goals
    if goals.keep_macs is not None and goals.keep_macs * every < least:
        raise out_of_reach(goals.keep_macs, least / every)
    if goals.min_speedup is not None and goals.min_speedup > _DOUBTED * ratio:
        raise BudgetError(
            f"{goals.min_speedup:g}x is out of reach: the shortest chains have {ratio:.2f} times fewer MACs",
            "ask for less, or try other schemes",
        )


@contextmanager
def _verifier(task: Task) -> Iterator[Verifier]:
    if task.choosing is not None:
        yield ByMetric(task.choosing)
        return
    held = () if task.calibration is None else task.calibration.held
    feeds = held or seeded_feeds(task.model.proto, task.prepared.shapes, seed=task.seed, count=_FEEDS)
    with by_outputs(task.model.proto, task.model.folder, task.target, feeds) as verifier:
        yield verifier


def _table(task: Task, bench: Workbench, progress: Progress) -> tuple[Table, tuple[str, ...]]:
    """Return the table and notes on its latencies, scaled to what the layers take within the whole model."""
    prepared = task.prepared
    choices = enumerate_choices(
        prepared.workloads,
        task.schemes,
        channel_block(task.target.provider),
        {} if task.calibration is None else task.calibration.views,
        lambda share: progress("plan", share),
    )
    costs = measure(tasks_of(choices), task.target, cache=task.cache, progress=lambda share: progress("measure", share))
    seen = [bench.baseline.layers_ms.get(of.workload.site.key) for of in choices]
    known = sum(cost.dense.seconds for cost, ms in zip(costs.layers, seen, strict=True) if ms is not None)
    if known > 0.0:
        every = sum(cost.dense.seconds for cost in costs.layers)
        costs = scaled(costs, every / known * sum(ms for ms in seen if ms is not None) / 1e3)
    table = tabulate(
        choices,
        costs.layers,
        original_ms=bench.baseline.original_ms,
        other_macs=prepared.other_macs,
        size=task.model.size,
    )
    return table, (_measured(costs), *costs.notes)


def _weights(task: Task, progress: Progress) -> dict[str, float]:
    """Return how much each layer's error is thought to matter before a model is tried; nothing without data."""
    if task.calibration is None:
        return {}
    found = sensitivities(
        task.prepared, task.model.folder, task.target, task.calibration, lambda share: progress("sensitivity", share)
    )
    return tempered(found)


def _measured(costs: Costs) -> str:
    """Say where the latencies come from."""
    words = f"latency of chains: {costs.timed} measured, {costs.cached} known from before, {costs.predicted} predicted"
    if costs.errors:
        words += f" (95 % of {len(costs.errors)} predictions checked within {percentile95(costs.errors):.1%})"
    return words + (", under restless timing" if costs.unstable else "")


def percentile95(errors: Sequence[float]) -> float:
    """Return what 95 % of the errors' sizes stay within."""
    ordered = sorted(abs(error) for error in errors)
    return ordered[min(len(ordered) - 1, ceil(0.95 * len(ordered)) - 1)]


def searched(task: Task, course: Course, best: Trial) -> Searched:
    """Return the record of a search that ended with ``best``."""
    protocol = protocol_of(task)
    return Searched(
        goals=task.goals.in_words(protocol.metric, protocol.unit),
        protocol=protocol,
        trials=course.trials,
        chosen=next(index for index, trial in enumerate(course.trials) if trial.choices == best.choices),
        most_trials=course.most,
        max_loss=task.goals.loss,
        notes=course.notes,
        reverted=tuple(row.workload.site.label for row in course.table.rows if row.site in course.dense),
    )


def protocol_of(task: Task) -> Protocol:
    """Say what models are judged by."""
    if task.choosing is None:
        return Protocol("relative L2 error of the outputs", PLAIN, 0, 0, task.seed)
    metric = task.choosing.judge.metric
    return Protocol(
        metric.name, metric.unit, task.choosing.data.count, task.held, task.seed, isinstance(metric, SessionMetric)
    )


def unmet(task: Task, course: Course) -> BudgetError:
    """Say that no trial meets the goals, and what the best of them is."""
    protocol = protocol_of(task)
    goals = task.goals.in_words(protocol.metric, protocol.unit)
    tried = f"{len(course.trials)} model{'s' if len(course.trials) != 1 else ''} tried"
    accurate = [trial for trial in course.trials if course.accurate(trial)]
    if not course.trials:
        return BudgetError(f"no plan is predicted to meet: {goals}", "ask for less, or try other schemes")
    if task.goals.loss is not None and not accurate:
        best = min(course.trials, key=lambda trial: trial.counted)
        seen = f"the least that was lost is {in_unit(best.counted, protocol)}, at {best.faster:.2f}x"
    else:
        best = max(accurate or course.trials, key=lambda trial: trial.faster)
        seen = f"the fastest accurate enough is {best.faster:.4g}x, {best.latency_ms:.4g} ms"
    return BudgetError(f"no model meets: {goals}; of {tried} {seen}", "ask for less, or keep the original")


def in_unit(loss: float, protocol: Protocol) -> str:
    """Return a loss as a reader is told it."""
    return f"{loss * protocol.unit.scale:.3g} {protocol.unit.drop_name}".rstrip()
