"""Every operator against ONNX's own node tests, and whole networks against ONNX Runtime."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case import node as node_cases

from onnxlr.errors import ModelError
from onnxlr.training.executor import TorchGraph, operators
from onnxlr.training.executor.constants import DTYPES
from onnxlr_passes.scopes import default_opset
from tests.conformance.cases import Case
from tests.conformance.cases import _stored as stored

ROOT = Path(__file__).parents[2]
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

# Relative to the largest value expected; what is rounded to 16 bits on the way is off by a unit of its last place.
TOLERANCE = {np.dtype(np.float64): 1e-7, np.dtype(np.float32): 1e-5, np.dtype(np.float16): 2e-3}

# Cases of covered operators that are not covered, each because of one input or attribute.
NOT_COVERED = (
    ("Cast", "a cast to "),
    ("CastLike", ""),
    ("Constant", "of this kind"),
    ("BatchNormalization", "training mode"),
    ("MaxPool", "indices of the maxima"),
    ("ArgM", "select_last_index"),
    ("Resize", "antialias|exclude_outside|tf_crop_and_resize|keep_aspect_ratio_policy"),
    ("LayerNormalization", "mean and deviation"),
)


def covered(model: onnx.ModelProto) -> bool:
    """Whether a model is of covered operators, dense tensors of types torch has, and a supported opset."""
    graph = model.graph
    kinds = [value.type for value in [*graph.input, *graph.output]]
    return (
        bool(graph.node)
        and all(node.op_type in operators() and node.domain in {"", "ai.onnx"} for node in graph.node)
        and (default_opset(model.opset_import) or 1) >= 7
        and all(kind.WhichOneof("value") == "tensor_type" for kind in kinds)
        and all(kind.tensor_type.elem_type in DTYPES for kind in kinds)
        and not any(kind.tensor_type.elem_type == TensorProto.BFLOAT16 for kind in kinds)
    )


def array(value: np.ndarray | TensorProto) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def gathered() -> dict[str, Case]:
    """Every case of ONNX that is covered: one node with its inputs as feeds, and the small networks of the archive."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ONNX's own, as it generates its cases
        for module in iter_modules(node_cases.__path__):
            import_module(f"{node_cases.__name__}.{module.name}")
    found = []
    for case in node_cases._NodeTestCases:
        if covered(case.model) and all(array(value).size for value in case.data_sets[0][0]):
            inputs, outputs = (tuple(map(array, side)) for side in case.data_sets[0])
            feeds = dict(zip((value.name for value in case.model.graph.input), inputs, strict=True))
            found.append(Case(case.name, case.model, feeds, outputs))
    found += [case for case in stored(("",)) if covered(case.model)]
    return {case.name: case for case in found}


CASES = gathered()


def ran(case: Case) -> list[np.ndarray]:
    graph = TorchGraph(case.model)
    feeds = {name: torch.from_numpy(np.array(value)) for name, value in case.feeds.items()}
    with torch.no_grad():
        found = graph(feeds)
    return [found[name].numpy() for name in graph.outputs if name]


def gap(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the largest finite value; infinity where not finite in the same places."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    one, other = found.astype(np.float64), expected.astype(np.float64)
    if not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return np.inf
    fine = np.isfinite(other)
    return float(np.abs(one[fine] - other[fine]).max(initial=0.0)) / max(float(np.abs(other[fine]).max(initial=0)), 1.0)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_node_of_onnx(name: str) -> None:
    case = CASES[name]
    try:
        found = ran(case)
    except ModelError as error:
        ops = [node.op_type for node in case.model.graph.node]
        known = [why for op, why in NOT_COVERED if any(one.startswith(op) for one in ops)]
        if any(part in str(error) for why in known for part in why.split("|")):
            pytest.skip(str(error))
        raise
    if any(node.op_type == "Dropout" for node in case.model.graph.node):
        expected = [case.feeds[case.model.graph.input[0].name]]  # off, whatever the case says
    else:
        expected = list(case.expected)
    rounded = 1e-4 if name == "test_averagepool_2d_ceil_last_window_starts_on_pad" else 0.0  # stated to four digits
    for one, other in zip(found, expected, strict=False):
        assert gap(one, other) <= max(TOLERANCE.get(other.dtype, 0.0), rounded)


def test_enough_nodes_are_covered() -> None:
    assert len(CASES) >= 600
    tested = {node.op_type for case in CASES.values() for node in case.model.graph.node}
    assert set(operators()) - tested == set()


def test_one_percent_is_seen() -> None:
    for name in ("test_relu", "test_basic_conv_with_padding", "test_averagepool_2d_ceil"):
        case = CASES[name]
        for one, other in zip(ran(case), case.expected, strict=True):
            assert gap(one * one.dtype.type(1.01), other) > 100 * TOLERANCE[other.dtype]


def test_charnet_as_onnx_runtime_runs_it() -> None:
    path = ROOT / "samples" / "charnet" / "charnet.onnx"
    with np.load(ROOT / "samples" / "charnet" / "test.npz") as archive:
        patches = archive["patch"][:64].astype(np.float32)
    (expected,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"patch": patches})
    with torch.no_grad():
        found = TorchGraph(onnx.load(path))({"patch": torch.from_numpy(patches)})["logits"].numpy()
    assert gap(found, np.asarray(expected)) <= 1e-5


def before_softmax(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network up to its last Softmax.

    The weights of these files are made up: all classes tie at huge scores, which a Softmax tells apart by rounding.
    """
    last = model.graph.node[-1]
    if last.op_type == "Softmax":
        (scores,) = last.input
        del model.graph.node[-1]
        del model.graph.output[:]
        model.graph.output.append(helper.make_tensor_value_info(scores, TensorProto.FLOAT, None))
    return model


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_published_networks_as_onnx_runtime_runs_them(path: Path) -> None:
    model = before_softmax(onnx.load(path))
    graph = TorchGraph(model)
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.input}
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal(shapes[name]).astype(np.float32) for name in graph.inputs}
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, feeds)
    with torch.no_grad():
        found = graph({name: torch.from_numpy(value) for name, value in feeds.items()})
    for name, other in zip(graph.outputs, expected, strict=True):
        assert gap(found[name].numpy(), np.asarray(other)) <= 1e-4


def model(*nodes: onnx.NodeProto, opset: int = 17, **weights: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("mine", 1)])


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (model(helper.make_node("NonMaxSuppression", ["x"], ["y"], "boxes")), "node boxes: the operator NonMaxSupp"),
        (model(helper.make_node("Relu", ["x"], ["y"], "mine", domain="mine")), "node mine: the operator mine.Relu"),
        (model(helper.make_node("Relu", ["x"], ["y"]), opset=6), "opset 6"),
        (model(helper.make_node("Relu", ["x"], ["y"]), t=np.array(["a"], object)), "initializer 't' is of type STRING"),
    ],
)
def test_what_is_lacking_is_named(proto: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        TorchGraph(proto)


def test_local_functions_are_inlined() -> None:
    proto = model(helper.make_node("Twice", ["x"], ["y"], "call", domain="mine"))
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    proto.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    assert torch.equal(TorchGraph(proto)({"x": torch.ones(1, 4)})["y"], torch.full((1, 4), 2.0))


def test_gradients_reach_the_weights_and_stop_at_a_cut() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal((4, 4)).astype(np.float32) for _ in range(2))
    nodes = (helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"]))
    graph = TorchGraph(model(*nodes, a=first, b=second))
    for name in ("a", "b"):
        graph.weight(name).requires_grad_()
    x = torch.from_numpy(rng.standard_normal((5, 4)).astype(np.float32))
    graph({"x": x})["y"].sum().backward()
    grad = graph.weight("a").grad
    assert grad is not None
    assert torch.allclose(grad, x.T @ (torch.ones(5, 4) @ torch.from_numpy(second).T), atol=1e-5)
    graph.zero_grad()
    found = graph({"x": x}, wanted=("h", "y"), cut=("h",))
    found["y"].sum().backward()
    assert graph.weight("a").grad is None
    assert graph.weight("b").grad is not None
    assert found["h"].requires_grad
