"""What accuracy is left without training: a baseline, and what each part of fitting to data earns.

    python -m tests.benchmarks.bench_accuracy [--model MODEL --data PATH --test PATH] [--keep 0.5 0.2] [--scheme auto]

For every share of the MACs: BALF's rule (``basis`` on every layer, fitted alone), then, for each family alone and for
``auto``, factors of the weights only, factors fitted to what the original's layers see (``data``), layers fitted one
after the other to what they then receive (``refit``), errors weighed by what the rest of the network makes of them
(``outlook``), and ``onnxlr rewrite --data``, whose plan is chosen by what plans do to the outputs (``allocation``). The
three before it follow one plan, of least summed errors. Without arguments the
sample network and its data are used. ``--rewritten`` judges models made before as well. Prints a line for each model,
then a Markdown table, and writes all figures as JSON.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import onnxlr
from onnxlr import model_io
from onnxlr.errors import BudgetError
from onnxlr.evaluation import EvaluationData, Evaluator, Judge, choose_metric, drop
from onnxlr.opening import is_folder
from onnxlr.prepare import Selection, prepare
from onnxlr.schemes.registry import families
from tests.benchmarks.accuracy_table import BASELINE, WAYS, Row, as_json, heading, markdown
from tests.benchmarks.layer_by_layer import (
    Made,
    Subject,
    alike,
    balf_choices,
    candidates_of,
    fitted_alone,
    look,
    refitted,
    within_macs,
)
from tests.benchmarks.subject import add_options, exit_code, opened

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import ExitStack

    from onnxlr.calibration import ImageOptions
    from onnxlr.evaluation import Scored


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """Everything a row is made with; ``more`` are further samples for agreement and KL."""

    options: argparse.Namespace
    images: ImageOptions | None
    subject: Subject
    judged: Evaluator
    more: Evaluator | None

    def row(self, way: str, scheme: str, keep: float | None, made: Made, seconds: float) -> Row:
        """Judge a model."""
        scored = self.judged.score(made.proto)
        agreement, away = self._pooled(scored, made)
        value, lost = scored.estimate, drop(self.judged.original, scored)
        return Row(
            way=way,
            scheme=scheme,
            keep=keep,
            kept=made.kept,
            value=value.value,
            error=value.error,
            lost=lost.value,
            lost_error=lost.error,
            agreement=agreement,
            kl=None if agreement is None else away,
            l2=sqrt(away) if agreement is None else None,
            seconds=seconds,
        )

    def _pooled(self, scored: Scored, made: Made) -> tuple[float | None, float]:
        """Return agreement and shift, over both sets of samples where there are two."""
        if self.more is None:
            return scored.agreement, scored.shift
        other = self.more.score(made.proto)
        share = scored.samples / (scored.samples + other.samples)
        shift = share * scored.shift + (1.0 - share) * other.shift
        if scored.agreement is None or other.agreement is None:
            return None, shift
        return share * scored.agreement + (1.0 - share) * other.agreement, shift


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; return an exit code of the command line."""
    options = _options(arguments)
    return exit_code(lambda stack: _report(_bench(options, stack)))


def _bench(options: argparse.Namespace, stack: ExitStack) -> Bench:
    """Open the model and the data, and run the original over them."""
    given = opened(options, stack)
    model, source, test, target = given.model, given.source, given.test, given.target
    metric = choose_metric(options.metric, model.proto, model.folder, target, test, options.peak)
    judged = Evaluator(Judge(metric, model.proto, model.folder, target), test)
    more = None
    if options.pool:
        free = choose_metric(None, model.proto, model.folder, target, EvaluationData(source, None), options.peak)
        more = Evaluator(Judge(free, model.proto, model.folder, target), EvaluationData(source, None))
    return Bench(options, given.images, look(model, target, source, options.seed), judged, more)


def _report(bench: Bench) -> int:
    """Print every row as it comes; the file has all so far, whatever stops the run."""
    options, original = bench.options, bench.judged.original
    metric = bench.judged.judge.metric
    samples = bench.subject.calibration.samples
    print(f"{options.name}: {original.samples} test samples, factors fitted to {samples}")
    print(heading(metric.name, metric.unit, classes=original.agreement is not None))
    about: dict[str, object] = {"model": options.name, "metric": metric.name, "fitted_samples": samples}
    about["test_samples"] = original.samples
    options.json.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in _rows(bench):
        print(row.text(metric.unit), flush=True)
        rows.append(row)
        options.json.write_text(as_json(rows, about), encoding="utf-8")
    print()
    print(markdown(rows, metric.unit, options.name))
    return 0


def _rows(bench: Bench) -> Iterator[Row]:
    """Make and judge one model after the other."""
    subject = bench.subject
    yield bench.row("original", "", None, Made(subject.model.proto, 1.0), 0.0)
    for path in bench.options.rewritten:
        given = model_io.load(path)
        target = bench.judged.judge.target
        kept = prepare(given, target, Selection(), simplify=False).macs / subject.prepared.macs
        yield bench.row("given", path.stem, None, Made(given.proto, kept), 0.0)
    for keep in bench.options.keep:
        if "balf" in bench.options.ways:
            yield from _baseline(bench, keep)
        for scheme in bench.options.scheme or (*families(), "auto"):
            try:
                yield from _ablation(bench, scheme, keep)
            except BudgetError as error:
                print(f"{keep:5g} {scheme}: {error}")


def _baseline(bench: Bench, keep: float) -> Iterator[Row]:
    start = perf_counter()
    try:
        made = fitted_alone(alike(bench.subject), balf_choices(bench.subject, keep))
    except BudgetError as error:
        print(f"{keep:5g} {BASELINE}: {error}")
        return
    yield bench.row(BASELINE, "basis", keep, made, perf_counter() - start)


def _ablation(bench: Bench, scheme: str, keep: float) -> Iterator[Row]:
    """Yield the rows of one scheme."""
    options = bench.options
    shapes, target = bench.subject.prepared.shapes, bench.judged.judge.target
    if "weights" in options.ways:
        start = perf_counter()
        blind = onnxlr.rewrite(
            options.model, scheme=scheme, keep_macs=keep, shapes=shapes, threads=target.threads, validate=False
        )
        made = Made(blind.model, blind.summary.kept_macs)
        yield bench.row("weights", scheme, keep, made, perf_counter() - start)
    if {"data", "refit", "outlook"} & set(options.ways):
        yield from _planned(bench, scheme, keep)
    if "allocation" in options.ways:
        start = perf_counter()
        full = _rewritten(bench, scheme, keep)
        made = Made(full.model, full.summary.kept_macs)
        yield bench.row("allocation", scheme, keep, made, perf_counter() - start)


def _planned(bench: Bench, scheme: str, keep: float) -> Iterator[Row]:
    """Yield the rows that follow the knapsack on the layers' own errors."""
    ways = bench.options.ways
    plain, target = alike(bench.subject), bench.judged.judge.target
    start = perf_counter()
    choices = within_macs(plain, candidates_of(plain, scheme), keep)
    planned = perf_counter() - start
    if "data" in ways:
        start = perf_counter()
        made = fitted_alone(plain, choices)
        yield bench.row("data", scheme, keep, made, planned + perf_counter() - start)
    for way, subject in (("refit", plain), ("outlook", bench.subject)):
        if way in ways:
            start = perf_counter()
            made = refitted(subject, choices, target)
            yield bench.row(way, scheme, keep, made, planned + perf_counter() - start)


def _rewritten(bench: Bench, scheme: str, keep: float) -> onnxlr.Rewrite:
    """Rewrite with data as ``onnxlr rewrite`` does it."""
    options = bench.options
    return onnxlr.rewrite(
        options.model,
        scheme=scheme,
        keep_macs=keep,
        data=options.data,
        samples=options.samples,
        images=bench.images if is_folder(options.data) else None,
        memory=options.memory,
        shapes=bench.subject.prepared.shapes,
        threads=bench.judged.judge.target.threads,
        validate=False,
        seed=options.seed,
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--name", help="how the tables call it (default: the file's name)")
    parser.add_argument("--pool", action="store_true", help="agreement and KL over test and calibration samples both")
    parser.add_argument(
        "--keep", type=float, nargs="+", default=[0.5, 0.2], help="shares of the MACs (default 0.5 0.2)"
    )
    parser.add_argument("--scheme", nargs="+", help="families or auto (default: each family alone, then auto)")
    ways = ("balf", *WAYS)
    parser.add_argument("--ways", nargs="+", choices=ways, default=ways, help="which models to make (default: all)")
    parser.add_argument("--rewritten", type=Path, nargs="+", default=[], help="models made before, to judge as well")
    parser.add_argument("--json", type=Path, default=Path("build/bench/accuracy.json"), help="file for all figures")
    options = parser.parse_args(arguments)
    options.name = options.name or options.model.stem
    return options


if __name__ == "__main__":
    sys.exit(main())
