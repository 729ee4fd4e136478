"""Choosing by measured latency and accuracy against other ways to choose ranks, at equal measured latency.

    python -m tests.benchmarks.bench_alternatives [--model MODEL --data PATH --test PATH] [--trials 30]

Four ways to choose ranks make models of several strengths each: one share of the full rank everywhere (``tucker2``), a
threshold on every layer's energy (``basis``), EVBMF ranks (``tucker2``), and a knapsack on MACs over all families.
All get the data and the fits that ``onnxlr search`` has: what is compared is the choice. The search is asked for models
of the speeds that theirs turned out to have. Every model is timed in turns with the original (one thread by its own
clock), and judged on evaluation samples that nothing was chosen by. For each of theirs, the model of the search that is
no slower (within ``--slack``) and likely to lose least, by the samples it was chosen by, stands beside it.

Returns 1 when one of theirs loses less than ours by two standard errors of the difference, on the same samples, or one
way does so at all on average over its strengths. Models measured before are not made again by the same command, or by
one with more trials; a search broken off goes on.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import onnxlr
from onnxlr.cost.timing import TimingOptions, speedup, time_interleaved
from onnxlr.cost.turns import clock_of
from onnxlr.errors import BudgetError
from onnxlr.evaluation import EvaluationData, Evaluator, Judge, choose_metric
from onnxlr.opening import data_options, evaluation_data
from onnxlr.target import bind, seeded_feeds
from tests.benchmarks.alternatives import others
from tests.benchmarks.layer_by_layer import look, refitted
from tests.benchmarks.rows import Record, Row, mean_of, more_lost, scaled
from tests.benchmarks.subject import add_options, exit_code, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import ExitStack
    from typing import Any

    import onnx

    from onnxlr.evaluation import Unit
    from onnxlr.planning.plan import Choice
    from onnxlr.prepare import Prepared
    from onnxlr.report.front import Front
    from onnxlr.target import Target
    from tests.benchmarks.subject import Opened

    Array = np.ndarray[Any, Any]

OURS = "onnxlr search"
WORTH = 1.02
"""What is not this many times faster stands beside nothing: the original loses nothing."""


def main() -> int:
    """Print every model and the comparison; return an exit code."""
    options = _options()
    return exit_code(lambda stack: _compare(options, stack))


def _compare(options: argparse.Namespace, stack: ExitStack) -> int:
    given = opened(options, stack)
    model, target = given.model, given.target
    subject = look(model, target, given.source, options.seed)
    judges = _judges(options, given, stack)
    unit = judges[0].judge.metric.unit
    record = Record(options.json, _setting(options, model.sha256))

    def tried(way: str, strength: str, chosen: Callable[[], Sequence[Choice]], plan: str | None = None) -> Row:
        row = record.of(way, strength, plan)
        if row is None:
            choices = chosen()
            made = refitted(subject, choices, target).proto
            losses, shift = _judged(judges, made)
            faster = _faster(model.proto, made, target, subject.prepared)
            row = Row(way, strength, faster, losses, shift, _digest(choices))
            record.add(row)
        print(row.text(unit), flush=True)
        return row

    theirs = []
    for way, strength, chosen in others(subject):
        try:
            theirs.append(tried(way, strength, chosen))
        except BudgetError as error:
            print(f"{way} {strength}: {error}")
    slow = [row for row in theirs if row.faster < WORTH]
    theirs = [row for row in theirs if row.faster >= WORTH]
    print(f"{len(slow)} of theirs are not {WORTH:g}x faster, and are left out")
    found = _search(options, given, tuple(row.faster for row in theirs))
    print(*found.notes, sep="\n")
    ours = _Front(found, lambda name, choices: tried(OURS, name, lambda: choices, _digest(choices)))
    return _verdict(theirs, [ours.beside(row, options.slack) for row in theirs], unit)


def _digest(choices: Sequence[Choice]) -> str:
    return sha256(repr(tuple(choices)).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class _Mirrored(EvaluationData):
    """The samples mirrored; for images (n, c, h, w)."""

    def batches(self, size: int) -> Iterator[tuple[dict[str, Array], Array | None]]:
        for feeds, labels in EvaluationData.batches(self, size):
            mirrored = {name: np.ascontiguousarray(array[..., ::-1]) for name, array in feeds.items()}
            pictures = labels is not None and labels.ndim > 2
            yield mirrored, np.ascontiguousarray(labels[..., ::-1]) if labels is not None and pictures else labels


def _judges(options: argparse.Namespace, given: Opened, stack: ExitStack) -> tuple[Evaluator, ...]:
    """Return what judges models on samples that none was chosen by, and on their mirror images where that is asked."""
    _, held = given.test.split(options.eval_share, options.seed)
    if options.judge is not None:
        _, judging = data_options(None, options.judge, None, given.images, options.memory, options.seed, 1)
        held = stack.enter_context(evaluation_data(given.model, options.judge, {}, judging)) or held
    metric = choose_metric(options.metric, given.model.proto, given.model.folder, given.target, held, options.peak)
    samples = (held, _Mirrored(held.source, held.label)) if options.mirrored else (held,)
    judge = Judge(metric, given.model.proto, given.model.folder, given.target)
    return tuple(Evaluator(judge, data) for data in samples)


def _judged(judges: Sequence[Evaluator], made: onnx.ModelProto) -> tuple[tuple[float, ...], float]:
    """Return what a model loses on each sample, the mean over how it is looked at, and how far its outputs shift."""
    scores = [judge.score(made) for judge in judges]
    lost = [judge.original.parts - score.parts for judge, score in zip(judges, scores, strict=True)]
    return tuple(np.mean(lost, axis=0).tolist()), float(np.mean([score.shift for score in scores]))


def _setting(options: argparse.Namespace, model: str) -> dict[str, object]:
    """Return what rows depend on, by option; a change of the code is the user's to know."""
    names = (
        "samples",
        "copies",
        "image_preset",
        "metric",
        "peak",
        "threads",
        "memory",
        "eval_share",
        "mirrored",
        "seed",
    )
    paths = {name: str(getattr(options, name)) for name in ("data", "test", "judge")}
    return {"model": model, **paths, **{name: getattr(options, name) for name in names}}


@dataclass(frozen=True, slots=True, eq=False)
class _Front:
    """The search's models, each made, timed again and judged when it is first asked for."""

    found: Front
    make: Callable[[str, Sequence[Choice]], Row]
    known: dict[int, Row] = field(default_factory=dict)

    def beside(self, theirs: Row, slack: float) -> Row | None:
        """Return the model likely to lose least of those that are no slower than ``theirs``, timed again."""
        trials = self.found.trials
        least = theirs.faster * (1.0 - slack)
        for index in sorted(self.found.best, key=lambda index: trials[index].likely):
            if trials[index].faster * (1.0 + slack) < least:
                continue
            if index not in self.known:
                self.known[index] = self.make(f"trial {index + 1}", trials[index].choices)
            if self.known[index].faster >= least:
                return self.known[index]
        return None


def _search(options: argparse.Namespace, given: Opened, speeds: Sequence[float]) -> Front:
    return onnxlr.search(
        options.model,
        data=options.data,
        samples=options.samples,
        copies=options.copies,
        images=given.images,
        memory=options.memory,
        evaluation=options.test,
        metric=options.metric,
        peak=options.peak,
        eval_share=options.eval_share,
        trials=options.trials,
        at=speeds,
        shapes=dict(given.target.shapes),
        threads=options.threads,
        seed=options.seed,
        jobs=1,
        state=options.json.with_suffix(".state.json"),
    )


def _faster(original: onnx.ModelProto, made: onnx.ModelProto, target: Target, prepared: Prepared) -> float:
    """Return how many times faster a model is, in turns with the original."""
    (feeds,) = seeded_feeds(original, prepared.shapes)
    runners = [bind(target.session(proto.SerializeToString()), feeds) for proto in (original, made)]
    before, after = time_interleaved(runners, TimingOptions(budget_s=2.0), clock=clock_of(target))
    return speedup(before, after).ratio


def _verdict(theirs: Sequence[Row], ours: Sequence[Row | None], unit: Unit) -> int:
    """Print, for each model of the others, the best of ours that is no slower; return 1 where theirs loses less."""
    columns = ["chosen by", "strength", "times faster", "loses", "shifts"]
    columns += ["onnxlr, no slower", "loses", "shifts", "theirs loses more", ""]
    print(f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    missed = 0
    differences: dict[str, list[list[float]]] = {}
    for row, best in zip(theirs, ours, strict=True):
        cells = [row.way, row.strength, f"{row.faster:.2f}x", scaled(row.lost, unit), f"{row.shift:.4f}"]
        if best is None:
            missed += 1
            print(f"| {' | '.join(cells)} | none | | | | MISSED |")
            continue
        more = more_lost(row, best)
        differences.setdefault(row.way, []).append(more)
        gap = mean_of([more])
        miss = gap.value < -2.0 * gap.error
        missed += miss
        cells += [f"{best.faster:.2f}x", scaled(best.lost, unit), f"{best.shift:.4f}", scaled(gap, unit)]
        print(f"| {' | '.join(cells)} | {'MISSED' if miss else ''} |")
    print(f"\nLosses are {unit.drop_name or 'of the metric'}. On average over its strengths:")
    for way, rows in differences.items():
        gap = mean_of(rows)
        missed += gap.value < 0.0
        print(f"{way} loses {scaled(gap, unit)} more at {len(rows)} speeds{' MISSED' if gap.value < 0.0 else ''}")
    return 1 if missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument(
        "--eval-share", type=float, default=0.5, help="share of the test samples that ours is chosen by"
    )
    parser.add_argument("--judge", type=Path, help="judge models on these samples instead of the others of --test")
    parser.add_argument("--mirrored", action="store_true", help="judge models on the mirror images as well")
    parser.add_argument("--trials", type=int, default=30, help="models the search may build (default 30)")
    parser.add_argument("--slack", type=float, default=0.02, help="latencies this close are equal (default 0.02)")
    parser.add_argument("--json", type=Path, default=Path("build/bench/alternatives.json"), help="file for all figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
