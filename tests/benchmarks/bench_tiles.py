"""What tiles (``winograd``) save where they stand: 3x3 convolutions of usual shapes, between neighbours, side by side.

    python -m tests.benchmarks.bench_tiles [--threads 1] [--shape 64x56 128x28 256x14 512x7 64x128]

Every tile takes turns with the dense layer, as a search times it. A row is channels in and out by height and width.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse

from onnx import TensorProto

from onnxlr.cost.cache import LatencyCache
from onnxlr.cost.measured import measure
from onnxlr.cost.placement import Placement, Task
from onnxlr.schemes.base import LayerShape
from onnxlr.schemes.winograd import Winograd
from onnxlr.target import Target
from onnxlr_passes.geometry import Geometry

SAME = Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))


def main() -> None:
    """Print the table."""
    options = _options()
    target = Target(threads=options.threads)
    scheme = Winograd()
    about = target.describe()
    print(f"{about.cpu}, {options.threads} thread(s), ONNX Runtime {about.onnxruntime}")
    shapes = [tuple(map(int, text.split("x"))) for text in options.shape]
    layers = [LayerShape(channels, channels, SAME) for channels, _ in shapes]
    tiles = scheme.candidates(layers[0], 1)
    tasks = [
        Task(
            Placement("Conv", TensorProto.FLOAT, channels, channels, SAME, 1, (size, size)),
            tuple(scheme.template(layer, ranks) for ranks in tiles),
        )
        for layer, (channels, size) in zip(layers, shapes, strict=True)
    ]
    costs = measure(tasks, target, cache=LatencyCache(None))
    names = ["x".join(map(str, ranks)) for ranks in tiles]
    print(f"{'layer':>16} {'dense':>9} " + " ".join(f"{name:>15}" for name in names))
    for (channels, size), found in zip(shapes, costs.layers, strict=True):
        dense = found.dense.seconds
        row = [f"{dense / cost.seconds:.2f}x +- {dense * cost.spread / cost.seconds**2:.2f}" for cost in found.chains]
        label = f"{channels} on {size}x{size}"
        print(f"{label:>16} {dense * 1e3:6.3f} ms " + " ".join(f"{text:>15}" for text in row))
    if costs.unstable:
        print("the timing was unstable")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads within an operator (default 1)")
    parser.add_argument(
        "--shape",
        nargs="+",
        default=["64x56", "128x28", "256x14", "512x7", "64x128"],
        help="channels x height and width (default 64x56 128x28 256x14 512x7 64x128)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
