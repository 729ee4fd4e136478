"""Write the trained CharNet as charnet.onnx (opset 17), check it against PyTorch, complete training.json.

The graph takes raw grey levels 0..255 as float32: the scaling of the training input is folded into conv1, which is
exact because the convolution has no padding. Maxout is Reshape then ReduceMax over adjacent channels (the channels of
each convolution are put in that order): of Reshape+ReduceMax, Split+Max, MaxPool over channels and one Conv per piece
this took the least time in ONNX Runtime on one CPU thread at batch 1.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from data import load
from evaluate import accuracy
from network import GREY_MEAN, GREY_SCALE, LAYERS, CharNet, scaled
from render import CLASSES, SIZE

SAMPLE = Path(__file__).parent
OPSET = 17
IR_VERSION = 8
TOLERANCE = 1e-4  # on logits, absolute: float32 rounding of sums of up to 4096 terms, logits of order 10

Array = NDArray[np.float64]


def layer_weights(network: CharNet) -> list[tuple[Array, Array]]:
    """Weights [C, c, k, k] and biases [C] of the four layers, scaling folded in, maxout pieces adjacent."""
    layers: list[tuple[Array, Array]] = []
    for convolution, (width, _, pieces) in zip(network.convolutions, LAYERS, strict=True):
        assert isinstance(convolution, torch.nn.Conv2d)
        assert convolution.bias is not None
        weight = convolution.weight.detach().double().numpy()
        bias = convolution.bias.detach().double().numpy()
        if not layers:
            bias = bias - GREY_MEAN / GREY_SCALE * weight.sum(axis=(1, 2, 3))
            weight = weight / GREY_SCALE
        adjacent = np.arange(width).reshape(pieces, width // pieces).T.ravel()
        layers.append((weight[adjacent], bias[adjacent]))
    return layers


def model_of(network: CharNet) -> onnx.ModelProto:
    """Build the ONNX model: input `patch` float32 [n, 1, 24, 24], output `logits` float32 [n, 37]."""
    nodes, constants = [], []
    signal, side = "patch", SIZE
    for index, ((weight, bias), (width, kernel, pieces)) in enumerate(
        zip(layer_weights(network), LAYERS, strict=True), start=1
    ):
        conv, maxout = f"conv{index}", f"maxout{index}"
        side -= kernel - 1
        shape = np.array([0, width // pieces, pieces, side, side], np.int64)
        constants += [
            numpy_helper.from_array(weight.astype(np.float32), f"{conv}.weight"),
            numpy_helper.from_array(bias.astype(np.float32), f"{conv}.bias"),
            numpy_helper.from_array(shape, f"{maxout}.shape"),
        ]
        inputs = [signal, f"{conv}.weight", f"{conv}.bias"]
        nodes += [
            helper.make_node("Conv", inputs, [f"{conv}.out"], name=conv, kernel_shape=[kernel, kernel]),
            helper.make_node(
                "Reshape", [f"{conv}.out", f"{maxout}.shape"], [f"{maxout}.pieces"], name=f"{maxout}.reshape"
            ),
            helper.make_node("ReduceMax", [f"{maxout}.pieces"], [f"{maxout}.out"], name=maxout, axes=[2], keepdims=0),
        ]
        signal = f"{maxout}.out"
    nodes.append(helper.make_node("Flatten", [signal], ["logits"], name="flatten", axis=1))
    graph = helper.make_graph(
        nodes,
        "charnet",
        [helper.make_tensor_value_info("patch", TensorProto.FLOAT, ["n", 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])],
        constants,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="charnet sample"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def largest_difference(path: Path, network: CharNet, npz_path: Path) -> float:
    """Largest absolute difference of a logit between ONNX Runtime and PyTorch over the patches of an archive."""
    patches, _ = load(npz_path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    network.eval()
    largest = 0.0
    for start in range(0, len(patches), 200):
        chosen = patches[start : start + 200]
        with torch.inference_mode():
            expected = network(scaled(torch.from_numpy(chosen))).numpy()
        (logits,) = session.run(["logits"], {"patch": chosen.astype(np.float32)})
        largest = max(largest, float(np.abs(logits - expected).max()))
    return largest


def main() -> None:
    """Export the best checkpoint, check it, measure it, write training.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("runs"), help="folder with best.pt and the data")
    parser.add_argument("--output", type=Path, default=SAMPLE, help="folder for charnet.onnx and training.json")
    options = parser.parse_args()
    build: Path = options.build
    output: Path = options.output
    torch.set_num_threads(1)
    network = CharNet(0.0)
    network.load_state_dict(torch.load(build / "best.pt", weights_only=True)["network"])
    path = output / "charnet.onnx"
    onnx.save(model_of(network), str(path))
    difference = largest_difference(path, network, SAMPLE / "test.npz")
    if difference > TOLERANCE:
        raise ValueError(f"{path}: logits differ from PyTorch by {difference:.1e}, more than {TOLERANCE:.0e}")
    results = {"validation": accuracy(path, build / "validation.npz"), "test": accuracy(path, SAMPLE / "test.npz")}
    for name, (share, error, count) in results.items():
        print(f"{name}: {share:.2%} +- {error:.2%} of {count} patches")
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, largest difference from PyTorch {difference:.1e}")
    report_path = build / "training.json"
    if report_path.exists():
        share, error, count = results["test"]
        report = json.loads(report_path.read_text())
        report |= {"test_patches": count, "test_accuracy": share, "test_standard_error": round(error, 4)}
        (output / "training.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
