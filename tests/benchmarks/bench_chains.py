"""Whether measured speed tracks the MACs: one convolution against every family's chain, side by side in one run.

    python tests/benchmarks/bench_chains.py [--channels 256] [--size 14] [--kernel 3] [--threads 1] [--keep 0.5 0.33]

Each family is asked, through the Python API, to keep a share of the MACs of a one-layer model. All models then take
turns, so that a ratio holds even where the machine's speed does not. A chain is ``ok`` when its speed-up is at least
0.7 of its MAC ratio; rows of an unstable run prove nothing. Which factors stand in the chain does not matter to the
clock, so the weights are random.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxlr
from onnxlr.cost.timing import TimingOptions, speedup, time_interleaved
from onnxlr.errors import BudgetError
from onnxlr.schemes.registry import families
from onnxlr.target import Target, bind, seeded_feeds

if TYPE_CHECKING:
    from collections.abc import Callable

BAR = 0.7


@dataclass(frozen=True, slots=True)
class Contender:
    """One chain and its share of the dense layer's MACs."""

    family: str
    scheme: str
    ranks: str
    kept: float
    model: onnx.ModelProto


def main() -> int:
    """Print the table; return 1 when a chain is below the bar."""
    options = _options()
    dense = one_conv(options.channels, options.size, options.kernel, np.random.default_rng(0))
    contenders = [
        found
        for family in options.scheme or families()
        for keep in options.keep
        if (found := contender(dense, family, keep)) is not None
    ]
    target = Target(threads=options.threads)
    feeds = seeded_feeds(dense, target, seed=0, count=1)[0]

    def runner(model: onnx.ModelProto) -> Callable[[], None]:
        return bind(target.session(model.SerializeToString()), feeds)

    runners = [runner(dense), *(runner(one.model) for one in contenders)]
    first, *others = time_interleaved(runners, TimingOptions(budget_s=options.seconds))
    print(
        f"{options.channels}->{options.channels} {options.kernel}x{options.kernel} on {options.size}x{options.size}, ",
        end="",
    )
    print(f"{target.describe().cpu}, {options.threads} thread(s), ONNX Runtime {target.describe().onnxruntime}")
    print(f"dense: {first.median_ms:.3f} ms, spread {first.spread:.1%}{', unstable' * first.unstable}")
    print(f"{'scheme':14} {'ranks':>9} {'kept':>6} {'MAC ratio':>9} {'faster':>7} {'95 %':>13} {'of ratio':>8}")
    below = 0
    for one, timing in zip(contenders, others, strict=True):
        gain = speedup(first, timing)
        share = gain.ratio * one.kept
        fails = share < BAR
        below += fails
        interval = f"{gain.low:.2f} to {gain.high:.2f}"
        print(
            f"{one.scheme:14} {one.ranks:>9} {one.kept:6.3f} {1 / one.kept:8.2f}x {gain.ratio:6.2f}x {interval:>13} "
            f"{share:8.2f} {'below' if fails else 'ok'}{' (unstable)' * (first.unstable or timing.unstable)}"
        )
    return 1 if below else 0


def one_conv(channels: int, size: int, kernel: int, rng: np.random.Generator) -> onnx.ModelProto:
    """Return a model of one padded convolution with bias, its input fixed at one sample."""
    weight = rng.standard_normal((channels, channels, kernel, kernel)).astype(np.float32)
    bias = rng.standard_normal(channels).astype(np.float32)
    shape = [1, channels, size, size]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", pads=[kernel // 2] * 4)],
        "one_conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def contender(dense: onnx.ModelProto, family: str, keep: float) -> Contender | None:
    """Return a family's chain at no more than the share ``keep``; None where it offers none."""
    try:
        found = onnxlr.rewrite(dense, scheme=family, keep_macs=keep, simplify=False, validate=False)
    except BudgetError as error:
        print(f"{family} at {keep:g}: {error}")
        return None
    row = found.summary.layers[0]
    return Contender(family, row.scheme, " ".join(map(str, row.ranks)), found.summary.kept_macs, found.model)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scheme", nargs="+", help="families (default: all)")
    parser.add_argument("--channels", type=int, default=256, help="channels in and out (default 256)")
    parser.add_argument("--size", type=int, default=14, help="height and width of the input (default 14)")
    parser.add_argument("--kernel", type=int, default=3, help="odd kernel size (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads within an operator (default 1)")
    parser.add_argument(
        "--keep", type=float, nargs="+", default=[0.5, 0.33], help="shares of the MACs (default 0.5 0.33)"
    )
    parser.add_argument("--seconds", type=float, default=1.5, help="seconds of measuring for each model (default 1.5)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
