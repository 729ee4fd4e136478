"""Give a model the structure that a tool made of it, and keep every field the tool lost.

``base`` is the model, ``answer`` what the tool gave back. A node of ``answer`` has its counterpart in ``base`` by
operator and outputs, or by operator and name; a tensor by name and bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, numpy_helper

from onnxlr_passes.scopes import fresh_name, scopes, value_names
from onnxlr_passes.unlist_initializers import allow_unlisted_initializers

if TYPE_CHECKING:
    from collections.abc import Iterator


def name_after_readers(source: onnx.ModelProto, answer: onnx.ModelProto) -> None:
    """Rename, in place, each tensor of ``answer`` unknown to ``source`` after the output of its first reader."""
    known = value_names(source)
    taken = known | value_names(answer)
    for scope in scopes(answer):
        for tensor in () if scope.graph is None else scope.graph.initializer:
            readers = scope.consumers(tensor.name)
            if tensor.name in known or not readers or scope.is_output(tensor.name):
                continue
            new = fresh_name(f"{readers[0].output[0]}/simplified", taken)
            for node in readers:
                for position, name in enumerate(node.input):
                    if name == tensor.name:
                        node.input[position] = new
            tensor.name = new


def restore(base: onnx.ModelProto, loaded: onnx.ModelProto, answer: onnx.ModelProto) -> onnx.ModelProto:
    """Give a copy of ``base`` with the nodes and initializers of ``answer``; signature and functions stay its own.

    ``loaded`` is ``base`` with its external data inside, or ``base`` itself: a tensor that ``answer`` left alone stays
    the reference it is. Initializers that nothing read before stay; value_info and quantization annotations stay for
    the values that are left.
    """
    read = {name for scope in scopes(loaded) for node in scope.nodes for name in node.input}
    read.update(name for scope in scopes(loaded) for name in scope.index.outputs)
    model = onnx.ModelProto()
    model.CopyFrom(base)
    model.graph.CopyFrom(_graph(base.graph, loaded.graph, answer.graph, read))
    if len(model.graph.initializer):
        allow_unlisted_initializers(model)
    return model


def _graph(base: onnx.GraphProto, loaded: onnx.GraphProto, answer: onnx.GraphProto, read: set[str]) -> onnx.GraphProto:
    graph = onnx.GraphProto()
    graph.CopyFrom(base)
    del graph.node[:]
    graph.node.extend(_nodes(base, loaded, answer, read))
    del graph.initializer[:]
    graph.initializer.extend(_initializers(base, loaded, answer, read))
    left = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
    left.update(value.name for value in graph.input)
    left.update(tensor.values.name for tensor in graph.sparse_initializer)
    del graph.value_info[:]
    graph.value_info.extend(value for value in base.value_info if value.name in left)
    del graph.quantization_annotation[:]
    graph.quantization_annotation.extend(entry for entry in base.quantization_annotation if entry.tensor_name in left)
    return graph


def _initializers(
    base: onnx.GraphProto, loaded: onnx.GraphProto, answer: onnx.GraphProto, read: set[str]
) -> Iterator[TensorProto]:
    made = {tensor.name: tensor for tensor in answer.initializer}
    for tensor, data in zip(base.initializer, loaded.initializer, strict=True):
        if tensor.name in made:
            new = made.pop(tensor.name)
            yield tensor if _same_data(data, new) else new
        elif tensor.name not in read:
            yield tensor  # unused before onnxsim already: the model's own affair
    yield from made.values()


def _same_data(old: TensorProto, new: TensorProto) -> bool:
    if (old.data_type, list(old.dims)) != (new.data_type, list(new.dims)):
        return False
    if old.data_type == TensorProto.STRING:
        return list(old.string_data) == list(new.string_data)
    return numpy_helper.to_array(old).tobytes() == numpy_helper.to_array(new).tobytes()


def _nodes(
    base: onnx.GraphProto, loaded: onnx.GraphProto, answer: onnx.GraphProto, read: set[str]
) -> Iterator[onnx.NodeProto]:
    pairs = list(zip(base.node, loaded.node, strict=True))
    by_output = {(pair[0].domain, pair[0].op_type, *pair[0].output): pair for pair in pairs}
    by_name = {(pair[0].domain, pair[0].op_type, pair[0].name): pair for pair in pairs if pair[0].name}
    for node in answer.node:
        kind = (node.domain, node.op_type)
        pair = by_output.get((*kind, *node.output)) or by_name.get((*kind, node.name))
        yield node if pair is None else _node(*pair, node, read)


def _node(base: onnx.NodeProto, loaded: onnx.NodeProto, answer: onnx.NodeProto, read: set[str]) -> onnx.NodeProto:
    node = onnx.NodeProto()
    node.CopyFrom(base)
    node.input[:] = answer.input
    node.output[:] = answer.output
    old = {attribute.name: attribute for attribute in loaded.attribute}
    if {name: plain_value(attribute) for name, attribute in old.items()} != {
        attribute.name: plain_value(attribute) for attribute in answer.attribute
    }:
        del node.attribute[:]
        node.attribute.extend(answer.attribute)
        return node
    new = {attribute.name: attribute for attribute in answer.attribute}
    for attribute in node.attribute:
        if attribute.HasField("g"):
            attribute.g.CopyFrom(_graph(attribute.g, old[attribute.name].g, new[attribute.name].g, read))
    return node


def plain_value(attribute: onnx.AttributeProto) -> bytes:
    """Give the value of an attribute as bytes; a subgraph, which is restored on its own, counts as equal."""
    bare = onnx.AttributeProto()
    bare.CopyFrom(attribute)
    bare.ClearField("doc_string")
    bare.ClearField("g")
    value: bytes = bare.SerializeToString(deterministic=True)
    return value
