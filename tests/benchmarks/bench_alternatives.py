"""Choosing by measured latency and accuracy against other ways to choose ranks, at equal measured latency.

    python -m tests.benchmarks.bench_alternatives [--model MODEL --data PATH --test PATH] [--trials 24]

Four ways to choose ranks make models of several strengths each: one share of the full rank everywhere (``tucker2``), a
threshold on every layer's energy (``basis``), EVBMF ranks (``tucker2``), and a knapsack on MACs over all families.
All get the data and the fits that ``onnxlr search`` has: what is compared is the choice. Every model is timed in turns
with the original (one thread by its own clock), and judged on evaluation samples that nothing was chosen by. For each
of theirs, the model of the search that is no slower (within ``--slack``) and likely to lose least, by the samples it
was chosen by, stands beside it. Returns 1 when one of theirs is more accurate by more than two standard errors. Models
measured before are not made again by the same command, or by one with more trials; a search broken off goes on.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import onnxlr
from onnxlr.cost.timing import TimingOptions, speedup, time_interleaved
from onnxlr.cost.turns import clock_of
from onnxlr.errors import BudgetError
from onnxlr.evaluation import Evaluator, Judge, choose_metric, drop
from onnxlr.planning.budget import Energy, Evbmf, choose
from onnxlr.planning.plan import Choice
from onnxlr.schemes.registry import by_family, by_name
from onnxlr.target import bind, seeded_feeds
from tests.benchmarks.layer_by_layer import knapsack_choices, look, refitted
from tests.benchmarks.subject import add_options, exit_code, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import ExitStack

    import onnx

    from onnxlr.evaluation import Unit
    from onnxlr.prepare import Prepared
    from onnxlr.report.front import Front
    from onnxlr.target import Target
    from tests.benchmarks.layer_by_layer import Subject
    from tests.benchmarks.subject import Opened

UNIFORM = (0.75, 0.5, 0.35, 0.25)
ENERGY = (0.99, 0.97, 0.93, 0.85)
MACS = (0.6, 0.4, 0.25)
OURS = "onnxlr search"


@dataclass(frozen=True, slots=True)
class Row:
    """One model: times faster than the original, and what it loses with its standard error, in the metric's unit."""

    way: str
    strength: str
    faster: float
    lost: float
    lost_error: float
    plan: str

    def text(self, unit: Unit) -> str:
        """Return one line."""
        lost, error = unit.scale * self.lost, unit.scale * self.lost_error
        return (
            f"{self.way:14} {self.strength:10} {self.faster:6.2f}x  loses {lost:6.2f} +- {error:4.2f} {unit.drop_name}"
        )


def main() -> int:
    """Print every model and the comparison; return an exit code."""
    options = _options()
    return exit_code(lambda stack: _compare(options, stack))


def _compare(options: argparse.Namespace, stack: ExitStack) -> int:
    given = opened(options, stack)
    model, target = given.model, given.target
    _, held = given.test.split(options.eval_share, options.seed)
    metric = choose_metric(options.metric, model.proto, model.folder, target, held, options.peak)
    judge = Evaluator(Judge(metric, model.proto, model.folder, target), held)
    subject = look(model, target, given.source, options.seed)
    record = _Record(options.json, _setting(options, model.sha256))

    def tried(way: str, strength: str, chosen: Callable[[], Sequence[Choice]], plan: str | None = None) -> Row:
        row = record.of(way, strength, plan)
        if row is None:
            choices = chosen()
            made = refitted(subject, choices, target).proto
            lost = drop(judge.original, judge.score(made))
            faster = _faster(model.proto, made, target, subject.prepared)
            row = Row(way, strength, faster, lost.value, lost.error, _digest(choices))
            record.add(row)
        print(row.text(metric.unit), flush=True)
        return row

    theirs = []
    for way, strength, chosen in _others(subject):
        try:
            theirs.append(tried(way, strength, chosen))
        except BudgetError as error:
            print(f"{way} {strength}: {error}")
    ours = _Front(_search(options, given), lambda name, choices: tried(OURS, name, lambda: choices, _digest(choices)))
    return _verdict(theirs, [ours.beside(row, options.slack) for row in theirs], metric.unit, options.slack)


def _digest(choices: Sequence[Choice]) -> str:
    return sha256(repr(tuple(choices)).encode()).hexdigest()[:16]


class _Record:
    """The rows measured so far, in a file; those of another setting are forgotten."""

    def __init__(self, path: Path, setting: dict[str, object]) -> None:
        self.path, self.setting = path, setting
        self.rows: list[Row] = []
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["setting"] == setting:
                self.rows = [Row(**row) for row in found["rows"]]

    def of(self, way: str, strength: str, plan: str | None = None) -> Row | None:
        """Return the row of this name and, where it is said, of this plan."""
        same = (row for row in self.rows if (row.way, row.strength) == (way, strength) and plan in {None, row.plan})
        return next(same, None)

    def add(self, row: Row) -> None:
        """Add one and write all."""
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"setting": self.setting, "rows": [asdict(one) for one in self.rows]}
        self.path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _setting(options: argparse.Namespace, model: str) -> dict[str, object]:
    """Return what rows depend on, by option; a change of the code is the user's to know."""
    names = ("samples", "copies", "image_preset", "metric", "peak", "threads", "memory", "eval_share", "seed")
    paths = {name: str(getattr(options, name)) for name in ("data", "test")}
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


def _search(options: argparse.Namespace, given: Opened) -> Front:
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
        shapes=dict(given.target.shapes),
        threads=options.threads,
        seed=options.seed,
        state=options.json.with_suffix(".state.json"),
    )


def _others(subject: Subject) -> Iterator[tuple[str, str, Callable[[], Sequence[Choice]]]]:
    """Yield the other ways at several strengths, each with what chooses its ranks."""
    prepared, views = subject.prepared, subject.calibration.views
    for share in UNIFORM:
        yield "uniform rank", f"{share:g}", partial(_uniform, prepared, share)

    def choices(budget: Energy | Evbmf, family: str) -> Sequence[Choice]:
        return choose(
            budget,
            prepared.workloads,
            by_family((family,)),
            other_macs=prepared.other_macs,
            block=1,
            views=views,
            progress=lambda _: None,
        )

    for energy in ENERGY:
        yield "energy", f"{energy:g}", partial(choices, Energy(energy), "basis")
    yield "EVBMF Tucker", "", partial(choices, Evbmf(), "tucker2")
    for keep in MACS:
        yield "MACs", f"{keep:g}", partial(knapsack_choices, subject, "auto", keep)


def _uniform(prepared: Prepared, share: float) -> tuple[Choice, ...]:
    """Return this share of the full ranks for every layer where that has fewer multiply-adds."""
    scheme = by_name("tucker2")
    found: list[Choice] = []
    for workload in prepared.workloads:
        if scheme.refusal(workload.shape) is not None:
            continue
        ranks = tuple(max(round(share * full), 1) for full in scheme.full_rank(workload.shape))
        if workload.extent.macs(scheme.template(workload.shape, ranks)) < workload.macs:
            found.append(Choice(workload.site.key, workload.site.label, scheme.name, ranks))
    return tuple(found)


def _faster(original: onnx.ModelProto, made: onnx.ModelProto, target: Target, prepared: Prepared) -> float:
    """Return how many times faster a model is, in turns with the original."""
    (feeds,) = seeded_feeds(original, prepared.shapes)
    runners = [bind(target.session(proto.SerializeToString()), feeds) for proto in (original, made)]
    before, after = time_interleaved(runners, TimingOptions(budget_s=2.0), clock=clock_of(target))
    return speedup(before, after).ratio


def _verdict(theirs: Sequence[Row], ours: Sequence[Row | None], unit: Unit, slack: float) -> int:
    """Print, for each model of the others, the best of ours that is no slower; return 1 where theirs loses less."""
    beaten = 0
    print(
        "\n| chosen by | strength | times faster | loses | onnxlr, no slower | loses |"
        "\n| --- | --- | --- | --- | --- | --- |"
    )
    for row, best in zip(theirs, ours, strict=True):
        original = row.faster <= 1.0 + slack
        cells = ("the original", "0.00") if original else ("none", "")
        if best is not None and not (original and best.lost > 0.0):
            cells = (f"{best.faster:.2f}x", f"{unit.scale * best.lost:.2f}")
        worse = not original and (best is None or best.lost - row.lost > 2.0 * max(best.lost_error, row.lost_error))
        beaten += worse
        print(
            f"| {row.way} | {row.strength} | {row.faster:.2f}x | {unit.scale * row.lost:.2f} ± "
            f"{unit.scale * row.lost_error:.2f} | {' | '.join(cells)} |{' MISSED' if worse else ''}"
        )
    print(f"\nLoses are {unit.drop_name or 'of the metric'}, lower is better. {beaten} of theirs lose less than ours.")
    return 1 if beaten else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument(
        "--eval-share", type=float, default=0.5, help="share of the test samples that ours is chosen by"
    )
    parser.add_argument("--trials", type=int, default=24, help="models the search may build (default 24)")
    parser.add_argument("--slack", type=float, default=0.02, help="latencies this close are equal (default 0.02)")
    parser.add_argument("--json", type=Path, default=Path("build/bench/alternatives.json"), help="file for all figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
