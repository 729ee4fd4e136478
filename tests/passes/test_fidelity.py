"""The comparison itself: every kind of change is seen, and only what was named is excused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxlr_passes.fidelity import differences

if TYPE_CHECKING:
    from collections.abc import Callable


def info(name: str, *dims: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)


def describe(message: object, **entries: str) -> None:
    for key, value in entries.items():
        message.metadata_props.add(key=key, value=value)  # type: ignore[attr-defined]


def rich() -> onnx.ModelProto:
    """A model that uses every field there is to lose."""
    then = helper.make_graph([helper.make_node("Relu", ["c"], ["t"], name="inner")], "then", [], [info("t", "n", 2)])
    other = helper.make_graph([helper.make_node("Neg", ["c"], ["e"])], "else", [], [info("e", "n", 2)])
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["c"], name="conv", doc_string="a layer"),
        helper.make_node("If", ["flag"], ["i"], name="if", then_branch=then, else_branch=other),
        helper.make_node("LeakyRelu", ["i"], ["l"], name="act", alpha=0.25),
        helper.make_node("Block", ["l"], ["y"], domain="my.domain", name="call"),
    ]
    describe(nodes[0], layer="conv1")
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    graph = helper.make_graph(
        nodes,
        "net",
        [info("x", "n", 2), flag, info("unused", "u")],
        [info("y", "n", 2)],
        [numpy_helper.from_array(np.array([1, np.nan], np.float32), "w")],
        doc_string="a graph",
        value_info=[info("c", "n", 2)],
    )
    index = numpy_helper.from_array(np.array([1], np.int64), "index")
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    graph.sparse_initializer.append(helper.make_sparse_tensor(values, index, [4]))
    annotation = graph.quantization_annotation.add(tensor_name="c")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    describe(graph, exporter="hand")
    body = [helper.make_node("Relu", ["a"], ["b"], name="body")]
    function = helper.make_function("my.domain", "Block", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    model = helper.make_model(
        graph,
        functions=[function],
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("my.domain", 1)],
        ir_version=10,
        producer_name="p",
        producer_version="1",
        domain="d",
        model_version=3,
        doc_string="a model",
    )
    describe(model, author="someone")
    model.training_info.add().algorithm.name = "sgd"
    return model


def unknown_field(node: onnx.NodeProto) -> None:
    # field 900, varint 1: what a newer writer could have added
    node.MergeFromString(b"\xa0\x38\x01")


CHANGES: list[tuple[str, Callable[[onnx.ModelProto], object]]] = [
    ("ir_version: 10 became 11", lambda m: setattr(m, "ir_version", 11)),
    ("opset_import[].version: 17 became 18", lambda m: setattr(m.opset_import[0], "version", 18)),
    ("producer_name: 'p' became ''", lambda m: setattr(m, "producer_name", "")),
    ("producer_version: vanished", lambda m: m.ClearField("producer_version")),
    ("domain: 'd' became 'z'", lambda m: setattr(m, "domain", "z")),
    ("model_version: 3 became 4", lambda m: setattr(m, "model_version", 4)),
    ("doc_string: 'a model' became 'other'", lambda m: setattr(m, "doc_string", "other")),
    ("metadata_props[author]: vanished", lambda m: m.ClearField("metadata_props")),
    ("metadata_props[author].value: 'someone' became 'x'", lambda m: setattr(m.metadata_props[0], "value", "x")),
    ("training_info[0]: vanished", lambda m: m.ClearField("training_info")),
    ("functions[my.domain:Block]: vanished", lambda m: m.ClearField("functions")),
    (
        "functions[my.domain:Block].node[b].name: 'body' became 'x'",
        lambda m: setattr(m.functions[0].node[0], "name", "x"),
    ),
    ("graph.name: 'net' became 'x'", lambda m: setattr(m.graph, "name", "x")),
    ("graph.doc_string: vanished", lambda m: m.graph.ClearField("doc_string")),
    ("graph.metadata_props[exporter]: vanished", lambda m: m.graph.ClearField("metadata_props")),
    ("graph.input[unused]: vanished", lambda m: m.graph.input.pop()),
    ("graph.input: its order changed", lambda m: m.graph.input.append(m.graph.input.pop(0))),
    (
        "graph.input[x].type.tensor_type.shape.dim[0].dim_param: 'n' became 'batch'",
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_param", "batch"),
    ),
    (
        "graph.output[y].type.tensor_type.shape.dim[0].dim_param: vanished",
        lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[0], "dim_value", 1),
    ),
    ("graph.value_info[c]: vanished", lambda m: m.graph.ClearField("value_info")),
    ("graph.value_info[new]: appeared", lambda m: m.graph.value_info.append(info("new", 1))),
    ("graph.initializer[w].raw_data: its 8 bytes changed", lambda m: setattr(m.graph.initializer[0], "raw_data", b"")),
    ("graph.initializer[w].doc_string: appeared", lambda m: setattr(m.graph.initializer[0], "doc_string", "d")),
    (
        "graph.sparse_initializer[sparse].dims: [4] became [5]",
        lambda m: m.graph.sparse_initializer[0].dims.__setitem__(0, 5),
    ),
    ("graph.quantization_annotation[c]: vanished", lambda m: m.graph.ClearField("quantization_annotation")),
    ("graph.node[c].name: 'conv' became 'x'", lambda m: setattr(m.graph.node[0], "name", "x")),
    ("graph.node[c].doc_string: 'a layer' became 'x'", lambda m: setattr(m.graph.node[0], "doc_string", "x")),
    ("graph.node[c].metadata_props[layer]: vanished", lambda m: m.graph.node[0].ClearField("metadata_props")),
    ("graph.node[c].input: ['x', 'w'] became ['w', 'x']", lambda m: m.graph.node[0].input.reverse()),
    ("graph.node[c]: its unknown fields changed", lambda m: unknown_field(m.graph.node[0])),
    ("graph.node[c].attribute[k]: appeared", lambda m: m.graph.node[0].attribute.add(name="k")),
    ("graph.node[l].attribute[alpha].f: 0.25 became 0.5", lambda m: setattr(m.graph.node[2].attribute[0], "f", 0.5)),
    (
        "graph.node[i].attribute[then_branch].g.node[t].op_type: 'Relu' became 'Abs'",
        lambda m: setattr(m.graph.node[1].attribute[1].g.node[0], "op_type", "Abs"),
    ),
    ("graph.node: its order changed", lambda m: m.graph.node.append(m.graph.node.pop(0))),
    ("graph.node[y]: vanished", lambda m: m.graph.node.pop()),
]


@pytest.mark.parametrize(("expected", "change"), CHANGES, ids=[row[0] for row in CHANGES])
def test_every_change_is_seen(expected: str, change: Callable[[onnx.ModelProto], object]) -> None:
    before, after = rich(), rich()
    change(after)
    assert expected in differences(before, after)


def test_equal_models_have_no_differences() -> None:
    assert differences(rich(), rich()) == ()


def test_a_negative_zero_is_a_change_and_a_nan_is_itself() -> None:
    before, after = rich(), rich()
    for model, value in ((before, 0.0), (after, -0.0)):
        model.graph.initializer[0].ClearField("raw_data")
        model.graph.initializer[0].float_data.extend([value, float("nan")])
    assert differences(before, after) == ("graph.initializer[w].float_data: [0.0, nan] became [-0.0, nan]",)
    after.graph.initializer[0].float_data[0] = 0.0
    assert differences(before, after) == ()


EXCUSED: list[tuple[str, Callable[[onnx.ModelProto], object]]] = [
    ("conv", lambda m: m.graph.node.pop(0)),
    ("c", lambda m: m.graph.node.pop(0)),
    ("conv", lambda m: m.graph.node.insert(1, helper.make_node("Relu", ["x"], ["conv/lr0_v"]))),
    ("w", lambda m: m.graph.ClearField("initializer")),
    ("c", lambda m: m.graph.initializer.append(numpy_helper.from_array(np.ones(1), "c/lr0_v/weight"))),
    ("c", lambda m: (m.graph.ClearField("value_info"), m.graph.ClearField("quantization_annotation"))),
    ("inner", lambda m: setattr(m.graph.node[1].attribute[1].g.node[0], "op_type", "Abs")),
    ("body", lambda m: m.functions[0].node.pop()),
]


@pytest.mark.parametrize(("name", "change"), EXCUSED)
def test_what_is_named_is_excused_and_nothing_else(name: str, change: Callable[[onnx.ModelProto], object]) -> None:
    before, after = rich(), rich()
    change(after)
    assert differences(before, after, rewritten={name}) == ()
    assert differences(before, after) != ()
    assert differences(before, after, rewritten={"con", "x", ""}) != ()
    after.graph.node[-1].doc_string = "touched"
    assert differences(before, after, rewritten={name}) == ("graph.node[y].doc_string: appeared",)


def test_a_signature_is_never_excused_but_for_a_listed_initializer() -> None:
    before, after = rich(), rich()
    for model in (before, after):
        model.graph.input.append(info("w", 2))
    del after.graph.input[-1]
    del after.graph.initializer[0]
    assert differences(before, after, rewritten={"w"}) == ()
    after.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    del after.graph.input[0]
    assert differences(before, after, rewritten={"w", "x", "y"}) == (
        "graph.input[x]: vanished",
        "graph.output[y].type.tensor_type.shape.dim[1].dim_value: 2 became 3",
    )
