"""Small models that keep weights in every place a model can keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from onnxlr.model_io import every_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SIZE = 33  # a product of it is no multiple of the alignment
INPUT = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, SIZE])
OUTPUT = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, SIZE])


def weight(name: str, seed: int) -> onnx.TensorProto:
    values = np.random.default_rng(seed).standard_normal((SIZE, SIZE)) / np.sqrt(SIZE)
    return numpy_helper.from_array(values.astype(np.float32), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 17,
    ir: int = 8,
    domains: Sequence[str] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    sparse: Sequence[onnx.SparseTensorProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", [INPUT], [OUTPUT], initializers, sparse_initializer=sparse)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    proto = helper.make_model(graph, opset_imports=imports, functions=functions, producer_name="test")
    proto.ir_version = ir
    return proto


def matmul(weight_name: str = "w", source: str = "x", target: str = "y") -> onnx.NodeProto:
    return helper.make_node("MatMul", [source, weight_name], [target], name=f"to_{target}")


def plain() -> onnx.ModelProto:
    return model([matmul()], [weight("w", 0)])


def everywhere() -> onnx.ModelProto:
    """A chain of five products: initializer, Constant, If bodies, a local function, a sparse initializer."""

    def body(name: str, seed: int) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph(
            [matmul(f"{name}_w", "b", f"{name}_out")], name, [], [output], [weight(f"{name}_w", seed)]
        )

    function = helper.make_function(
        "local",
        "Linear",
        ["a"],
        ["z"],
        [helper.make_node("Constant", [], ["fw"], value=weight("fw", 4)), matmul("fw", "a", "z")],
        [helper.make_opsetid("", 17)],
    )
    values = numpy_helper.from_array(numpy_helper.to_array(weight("s", 5)).reshape(-1), "s")
    indices = numpy_helper.from_array(np.arange(SIZE * SIZE, dtype=np.int64), "s_indices")
    proto = model(
        [
            matmul("w", "x", "a"),
            helper.make_node("Constant", [], ["k"], value=weight("k", 1)),
            matmul("k", "a", "b"),
            helper.make_node("If", ["c"], ["d"], then_branch=body("then", 2), else_branch=body("else", 3)),
            helper.make_node("Linear", ["d"], ["e"], domain="local"),
            matmul("s", "e", "y"),
        ],
        [weight("w", 0), numpy_helper.from_array(np.array(True), "c")],
        domains=["local"],
        functions=[function],
        sparse=[helper.make_sparse_tensor(values, indices, [SIZE, SIZE])],
    )
    proto.metadata_props.add(key="author", value="me")
    proto.graph.node[0].doc_string = "kept"
    return proto


def refer(tensor: onnx.TensorProto, location: str, offset: int | str, length: int | str | None) -> None:
    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": length}
    for key, value in entries.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))


def write_external(proto: onnx.ModelProto, path: Path, location: str = "weights.bin") -> onnx.ModelProto:
    """Write the model with all its tensors, wherever they are, in the file ``location`` beside it."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    data = bytearray(b"front")
    for tensor in every_tensor(copy):
        raw = numpy_helper.to_array(tensor).tobytes()
        refer(tensor, location, len(data), len(raw))
        data += raw
    path.with_name(location).write_bytes(data)
    path.write_bytes(copy.SerializeToString(deterministic=True))
    return copy


ROWS = np.random.default_rng(7).standard_normal((1, SIZE)).astype(np.float32)


def run(runnable_model: bytes | Path) -> np.ndarray:
    """Return what ONNX Runtime makes of ``ROWS``."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(runnable_model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": ROWS})[0])
