"""Weights that are not numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from onnxlr.errors import ModelError
from onnxlr.model_io.tensors import tensor_array
from onnxlr.model_io.walk import element_count, every_graph

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from onnx import ModelProto, NodeProto

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"})
# Nodes that hand their first input on without mixing its elements.
HANDS_ON = frozenset({"Identity", "Cast", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_AT_ONCE = 1 << 22  # elements tested at a time


def check_finite(proto: ModelProto, folder: Path | None) -> None:
    """Refuse NaN and infinite weights: constants that feed Conv, ConvTranspose, Gemm, MatMul or BatchNormalization.

    Other constants may be what they like: an attention mask of -inf is legitimate.

    Raises
    ------
    ModelError
        Naming the first such tensor.
    """
    for name, tensor in _weights(proto):
        bad = _count_not_finite(tensor, folder)
        if bad:
            raise ModelError(
                f"weight {name!r} holds NaN or infinity in {bad} of {element_count(tensor)} elements",
                "train or export the model again",
            )


def _count_not_finite(tensor: TensorProto, folder: Path | None) -> int:
    values = tensor_array(tensor, folder).reshape(-1)
    parts = (values[start : start + _AT_ONCE] for start in range(0, values.size, _AT_ONCE))
    return sum(int(np.count_nonzero(~np.isfinite(part))) for part in parts)


def _weights(proto: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Floating-point initializers and Constant nodes that are weights, in every scope."""
    graphs = list(every_graph(proto))
    scopes: list[Sequence[NodeProto]] = [graph.node for graph in graphs]
    scopes += [function.node for function in proto.functions]
    nodes = [node for scope in scopes for node in scope]
    # One set of names for all scopes: a body may use a weight of the graph around it.
    used = _used_as_weight(nodes)
    for graph in graphs:
        yield from ((one.name, one) for one in graph.initializer if one.name in used and one.data_type in FLOATS)
    for node in nodes:
        if node.op_type == "Constant" and node.output and node.output[0] in used:
            values = [attribute.t for attribute in node.attribute if attribute.HasField("t")]
            yield from ((node.output[0], value) for value in values if value.data_type in FLOATS)


def _used_as_weight(nodes: Sequence[NodeProto]) -> set[str]:
    used = {name for node in nodes if node.op_type in WEIGHTED and not node.domain for name in node.input}
    sources = {
        node.output[0]: node.input[0] for node in nodes if node.op_type in HANDS_ON and node.input and node.output
    }
    pending = list(used)
    while pending:
        source = sources.get(pending.pop())
        if source is not None and source not in used:
            used.add(source)
            pending.append(source)
    return used - {""}
