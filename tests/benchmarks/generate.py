"""Write a model to measure on: a plain residual network with random weights whose spectra decay as trained ones do.

    python tests/benchmarks/generate.py build/bench/residual.onnx [--width 64] [--blocks 2]

Four stages of residual blocks, the width doubling and the size halving from one to the next, as in ResNet-18.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DECAY = 0.5
"""Singular values of the channel unfolding fall as index ** -DECAY."""


class Builder:
    """Nodes and weights gathered so far."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)

    def conv(self, x: str, name: str, shape: tuple[int, int, int], stride: int = 1) -> str:
        """Add a convolution (out, in, kernel) of unit gain; return its output."""
        out, into, kernel = shape
        rows = into * kernel * kernel
        left, _ = np.linalg.qr(self._rng.standard_normal((out, min(out, rows))))
        right = self._rng.standard_normal((min(out, rows), rows)) / np.sqrt(rows)
        scale = np.arange(1, min(out, rows) + 1) ** -DECAY
        weight = (left * (scale * np.sqrt(out / np.square(scale).sum()))) @ right
        self._tensor(f"{name}.weight", weight.reshape(out, into, kernel, kernel))
        self._tensor(f"{name}.bias", 0.1 * self._rng.standard_normal(out))
        pads = [kernel // 2] * 4
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        return self.node("Conv", inputs, name, pads=pads, strides=[stride, stride])

    def node(self, op: str, inputs: list[str], name: str, **attributes: list[int] | int) -> str:
        """Add a node; return its output."""
        self.nodes.append(helper.make_node(op, inputs, [f"{name}.out"], name, **attributes))
        return f"{name}.out"

    def linear(self, x: str, name: str, out: int, into: int) -> str:
        """Add a Gemm; return its output."""
        self._tensor(f"{name}.weight", self._rng.standard_normal((out, into)) / np.sqrt(into))
        self._tensor(f"{name}.bias", np.zeros(out))
        return self.node("Gemm", [x, f"{name}.weight", f"{name}.bias"], name, transB=1)

    def _tensor(self, name: str, values: np.ndarray) -> None:
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))


def residual(width: int = 64, blocks: int = 2, size: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """Build the network; ``width`` 64 and 2 ``blocks`` a stage are ResNet-18 with 11.7 M parameters."""
    build = Builder(seed)
    x = build.node("Relu", [build.conv("image", "stem", (width, 3, 7), stride=2)], "stem.relu")
    x = build.node("MaxPool", [x], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    into = width
    for stage in range(4):
        out = width << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            name = f"stage{stage + 1}.{block}"
            y = build.node("Relu", [build.conv(x, f"{name}.conv1", (out, into, 3), stride)], f"{name}.relu1")
            y = build.conv(y, f"{name}.conv2", (out, out, 3))
            if into != out:
                x = build.conv(x, f"{name}.shortcut", (out, into, 1), stride)
            x = build.node("Relu", [build.node("Add", [x, y], f"{name}.add")], f"{name}.relu2")
            into = out
    x = build.node("Flatten", [build.node("GlobalAveragePool", [x], "average")], "flat")
    logits = build.linear(x, "classify", classes, into)
    graph = helper.make_graph(
        build.nodes,
        "residual",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, [1, classes])],
        build.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    """Write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage (default 64)")
    parser.add_argument("--blocks", type=int, default=2, help="residual blocks a stage (default 2)")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    model = residual(options.width, options.blocks)
    onnx.save(model, options.out)
    count = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    print(f"{options.out}: {count / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
