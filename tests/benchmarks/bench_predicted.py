"""Whether the sum of the layers' measured savings is what the whole model saves.

    python tests/benchmarks/bench_predicted.py MODEL PLAN [--shape x=1x3x224x224] [--threads 1] [--full] [--no-cache]

PLAN is a file of ``onnxlr rewrite --save-plan``. The layers it names are measured one by one, between neighbours; with
``--full`` all their candidates of all families are, and the plan's own are among those timed or predicted. Then the
model before and after takes turns. Costs are scaled to the time the runtime's own trace gives these layers in
the whole model. Weights do not matter to the clock, so the chains' are seeded numbers. Returns 1 when the predicted and
the realised speed-up are more than 10 % apart.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from onnxlr import model_io
from onnxlr.cli.options import parse_shapes
from onnxlr.cost.cache import default_cache
from onnxlr.cost.measured import measure, scaled
from onnxlr.cost.placement import Task, placement_of
from onnxlr.cost.profile import profile
from onnxlr.cost.turns import TurnOptions, clock_of, take_turns
from onnxlr.planning.plan import read_plan
from onnxlr.prepare import Selection, only, prepare
from onnxlr.schemes.registry import all_schemes, by_name
from onnxlr.target import Target, bind, channel_block, seeded_feeds
from onnxlr_passes.chain import Chain
from onnxlr_passes.decompose import Decompose

if TYPE_CHECKING:
    from onnxlr.cost.measured import Costs
    from onnxlr.planning.candidates import Workload

BAR = 0.10


def main() -> int:
    """Print the comparison; return 1 when it misses the bar."""
    options = _options()
    target = Target(threads=options.threads, shapes=tuple(parse_shapes(options.shape).items()))
    model = model_io.load(options.model)
    prepared = prepare(model, target, Selection(), simplify=True)
    plan = read_plan(options.plan)
    workloads = only(prepared, [choice.site for choice in plan.choices])
    chosen = {choice.site: choice for choice in plan.choices}
    chains = [by_name(chosen[w.site.key].scheme).template(w.shape, chosen[w.site.key].ranks) for w in workloads]
    block = channel_block(target.provider)
    tasks = [
        Task(placement_of(w.site, w.extent), (chain, *(_all(w, block) if options.full else ())), w.extent.calls)
        for w, chain in zip(workloads, chains, strict=True)
    ]
    start = perf_counter()
    costs = measure(tasks, target, cache=default_cache(use=not options.no_cache))
    _report(costs, perf_counter() - start)
    saved = sum(layer.dense.seconds - layer.chains[0].seconds for layer in costs.layers)

    filled = {w.site.key: _filled(chain) for w, chain in zip(workloads, chains, strict=True)}
    rewritten = Decompose(filled, model.folder)(prepared.proto).model
    (feeds,) = seeded_feeds(prepared.proto, prepared.shapes)
    trace = profile(prepared.proto, model.folder, target, feeds)
    runners = [bind(target.session(proto.SerializeToString()), feeds) for proto in (prepared.proto, rewritten)]
    before, after = take_turns(runners, clock_of(target), TurnOptions(seconds=options.seconds, min_rounds=15))
    layers = before.seconds * sum(trace.share(w.site.output, w.site.scope) for w in workloads)
    alone = sum(layer.dense.seconds for layer in costs.layers)
    print(f"these layers: {layers * 1e3:.3f} ms in the model, {alone * 1e3:.3f} ms one by one")
    unscaled = before.seconds / (before.seconds - saved)
    saved = sum(layer.dense.seconds - layer.chains[0].seconds for layer in scaled(costs, layers).layers)
    predicted = before.seconds / (before.seconds - saved)
    realised = 1.0 / after.ratio
    off = predicted / realised - 1.0
    print(f"model: {before.seconds * 1e3:.3f} ms, saved {before.seconds * (1 - after.ratio) * 1e3:.3f} ms, ", end="")
    print(f"predicted {saved * 1e3:.3f} ms")
    print(f"speed-up: predicted {predicted:.3f}x, realised {realised:.3f}x +- {after.spread:.1%}: {off:+.1%} ", end="")
    print(f"(unscaled {unscaled / realised - 1.0:+.1%})")
    return 1 if abs(off) > BAR else 0


def _all(workload: Workload, block: int) -> tuple[Chain, ...]:
    able = [scheme for scheme in all_schemes() if scheme.refusal(workload.shape) is None]
    chains = (
        scheme.template(workload.shape, ranks) for scheme in able for ranks in scheme.candidates(workload.shape, block)
    )
    return tuple(chain for chain in chains if workload.extent.macs(chain) < workload.macs)


def _filled(chain: Chain) -> Chain:
    rng = np.random.default_rng(0)
    return Chain(
        tuple(
            tuple(
                replace(stage, weight=rng.standard_normal(stage.weight.shape) / np.sqrt(stage.weight[0].size))
                for stage in step
            )
            for step in chain.steps
        )
    )


def _report(costs: Costs, seconds: float) -> None:
    errors = np.abs(costs.errors)
    print(
        f"{costs.timed} chains timed, {costs.cached} from the cache, {costs.predicted} predicted, {seconds:.0f} s",
        end="",
    )
    print(f"{', unstable' if costs.unstable else ''}")
    if errors.size:
        print(
            f"held-out error of predictions: median {np.median(errors):.1%}, 90 % {np.percentile(errors, 90):.1%}, "
            f"most {errors.max():.1%} ({errors.size} checked)"
        )
    for note in costs.notes:
        print(note)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--shape", action="append", help="full shape of an input with free dimensions")
    parser.add_argument("--threads", type=int, default=1, help="threads within an operator (default 1)")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of turns for each whole model (default 3)")
    parser.add_argument("--full", action="store_true", help="measure every candidate, not only the plan's")
    parser.add_argument("--no-cache", action="store_true", help="measure all anew and keep nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
