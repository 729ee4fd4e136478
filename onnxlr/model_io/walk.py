"""Every tensor of a model, wherever it hides, and copies of a model that leave the bulk of the weights behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import onnx
from onnx import AttributeProto, TensorProto

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto

_Message = TypeVar("_Message", onnx.ModelProto, onnx.GraphProto, onnx.TensorProto)

# Bits of one element; strings have no fixed size. Types newer than the onnx package in use are left out.
_BITS = {
    "FLOAT": 32, "UINT8": 8, "INT8": 8, "UINT16": 16, "INT16": 16, "INT32": 32, "INT64": 64, "BOOL": 8, "FLOAT16": 16,
    "DOUBLE": 64, "UINT32": 32, "UINT64": 64, "COMPLEX64": 64, "COMPLEX128": 128, "BFLOAT16": 16, "FLOAT8E4M3FN": 8,
    "FLOAT8E4M3FNUZ": 8, "FLOAT8E5M2": 8, "FLOAT8E5M2FNUZ": 8, "FLOAT8E8M0": 8, "UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4,
    "UINT2": 2, "INT2": 2,
}  # fmt: skip
ELEMENT_BITS = {value: _BITS[name] for name, value in TensorProto.DataType.items() if name in _BITS}


def every_graph(proto: ModelProto) -> Iterator[GraphProto]:
    """Yield the main graph and every body of If, Loop, Scan and the like, also those inside local functions."""
    yield from _graphs(proto.graph)
    for function in proto.functions:
        yield from _graphs_of_nodes(function.node)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    yield from _graphs_of_nodes(graph.node)


def _graphs_of_nodes(nodes: Iterable[NodeProto]) -> Iterator[GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
            for graph in attribute.graphs:
                yield from _graphs(graph)


def every_tensor(proto: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor of the model, in an order that depends on its structure only; its own, not copies."""
    yield from initializers(proto)
    yield from other_tensors(proto)


def initializers(proto: ModelProto) -> Iterator[TensorProto]:
    """Yield the dense initializers of every graph."""
    for graph in every_graph(proto):
        yield from graph.initializer


def other_tensors(proto: ModelProto) -> Iterator[TensorProto]:
    """Yield the values and indices of sparse initializers, and the tensors in attributes of graphs and functions."""
    for graph in every_graph(proto):
        for sparse in graph.sparse_initializer:
            yield from sparse_parts(sparse)
        yield from _attribute_tensors(graph.node)
    for function in proto.functions:
        yield from _attribute_tensors(function.node)


def sparse_tensors(proto: ModelProto) -> Iterator[SparseTensorProto]:
    """Yield every sparse tensor: initializers of every graph, and those in attributes of graphs and functions."""
    for graph in every_graph(proto):
        yield from graph.sparse_initializer
    for nodes in (*(graph.node for graph in every_graph(proto)), *(function.node for function in proto.functions)):
        for attribute in (attribute for node in nodes for attribute in node.attribute):
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor
            yield from attribute.sparse_tensors


def sparse_parts(sparse: SparseTensorProto) -> tuple[TensorProto, TensorProto]:
    """Return the values of a sparse tensor and where they are."""
    return sparse.values, sparse.indices


def _attribute_tensors(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from sparse_parts(attribute.sparse_tensor)
            for sparse in attribute.sparse_tensors:
                yield from sparse_parts(sparse)


def is_external(tensor: TensorProto) -> bool:
    """Whether the data of ``tensor`` is in another file."""
    return tensor.data_location == TensorProto.EXTERNAL


def element_count(tensor: TensorProto) -> int:
    """Count the elements that the dimensions of ``tensor`` promise."""
    count = 1
    for size in tensor.dims:
        count *= size
    return count


def raw_size(tensor: TensorProto) -> int | None:
    """Bytes that the raw data of ``tensor`` takes by its type and dimensions; None where that is not fixed."""
    bits = ELEMENT_BITS.get(tensor.data_type)
    return None if bits is None else (element_count(tensor) * bits + 7) // 8


def copy_without(source: _Message, target: _Message, fields: Collection[str]) -> None:
    """Copy every field of ``source`` that is set into the empty ``target``, except ``fields``."""
    for field, value in source.ListFields():
        if field.name in fields:
            continue
        if isinstance(value, bool | int | float | str | bytes):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).MergeFrom(value)


def copy_without_weights(proto: ModelProto) -> ModelProto:
    """Copy the model except for the raw data of the main graph's initializers, without ever holding that twice."""
    copy = onnx.ModelProto()
    copy_without(proto, copy, {"graph"})
    copy.graph.SetInParent()
    copy_without(proto.graph, copy.graph, {"initializer"})
    for tensor in proto.graph.initializer:
        copy_without(tensor, copy.graph.initializer.add(), {"raw_data"})
    return copy
