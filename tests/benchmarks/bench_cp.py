"""Compare cp3 and cp4 with tensorly's parafac on the kernels of a model, and time both on a large kernel.

    python tests/benchmarks/bench_cp.py --model MODEL.onnx [--model OTHER.onnx] [--kernels 5] [--speed]

Errors are relative Frobenius errors at equal rank; parafac is the best of ``--starts`` random starts. Times are
measured one after the other in the same process, with the same BLAS threads: only their ratio means anything.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from tensorly.cp_tensor import cp_to_tensor
from tensorly.decomposition import parafac

from onnxlr.schemes.base import Layer, relative_error
from onnxlr.schemes.cp import Cp3, Cp4
from onnxlr_passes.geometry import Geometry

SHARES = (1 / 8, 1 / 3)


def main() -> int:
    """Print the tables; return 1 when a fit is worse than the reference."""
    options = _options()
    worse = 0
    print(f"{'kernel':44} {'scheme':6} {'rank':>5} {'ours':>8} {'parafac':>8} {'estimate':>8} {'time ratio':>10}")
    for path in options.model:
        for name, weight in kernels(path)[:: options.every][: options.kernels]:
            for scheme in (Cp3(), Cp4()):
                for share in SHARES:
                    rank = max(1, round(share * weight.size / (sum(weight.shape[:2]) + 9) / 8) * 8)
                    worse += compare(f"{name} {'x'.join(map(str, weight.shape))}", weight, scheme, rank, options.starts)
    if options.speed:
        weight = np.random.default_rng(0).standard_normal((512, 512, 3, 3))
        if options.large is not None:
            weight = dict(kernels(options.model[0]))[options.large]
        for scheme in (Cp3(), Cp4()):
            worse += compare(options.large or "random 512x512x3x3", weight, scheme, 256, starts=1)
    return 1 if worse else 0


def compare(label: str, weight: np.ndarray, scheme: Cp3 | Cp4, rank: int, starts: int) -> bool:
    """Print one row; return whether the reference is better by more than a thousandth."""
    layer = Layer(weight, Geometry.plain(weight.shape[2:]))
    begin = time.perf_counter()
    solver = scheme.solver(layer)
    ours = relative_error(weight, solver.chain((rank,)).contract(layer.geometry))
    middle = time.perf_counter()
    tensor = weight if scheme.name == "cp4" else weight.reshape(*weight.shape[:2], -1)
    errors = [
        relative_error(tensor, cp_to_tensor(parafac(tensor, rank, init="random", random_state=start)))
        for start in range(starts)
    ]
    end = time.perf_counter()
    ratio = (end - middle) / starts / (middle - begin)
    estimate = solver.error((rank,))
    print(
        f"{label:44} {scheme.name:6} {rank:5d} {ours:8.4f} {min(errors):8.4f} {estimate:8.4f} {ratio:9.1f}x", flush=True
    )
    return ours > min(errors) * 1.001


def kernels(path: Path) -> list[tuple[str, np.ndarray]]:
    """Return the 3x3 kernels among the model's initializers, float64."""
    return [
        (tensor.name, numpy_helper.to_array(tensor).astype(np.float64))
        for tensor in onnx.load(path).graph.initializer
        if len(tensor.dims) == 4 and tuple(tensor.dims[2:]) == (3, 3) and min(tensor.dims[:2]) > 4
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", required=True, help="ONNX file; repeatable")
    parser.add_argument("--kernels", type=int, default=5, help="kernels per model (default 5)")
    parser.add_argument("--every", type=int, default=1, help="take every n-th kernel (default 1)")
    parser.add_argument("--starts", type=int, default=3, help="random starts of parafac (default 3)")
    parser.add_argument("--speed", action="store_true", help="also time a 512x512x3x3 kernel at rank 256")
    parser.add_argument("--large", help="the first model's kernel to time, instead of a random one")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
