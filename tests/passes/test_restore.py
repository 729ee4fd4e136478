"""Restoring after a lossy tool, on answers written by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxlr_passes.fidelity import differences
from onnxlr_passes.restore import name_after_readers, restore

SOURCE = """
<ir_version: 8, opset_import: ["" : 17], metadata_props: ["author" : "someone"]>
main (float[n,4] x, bool flag) => (float[n,4] y)
<float[4] w = {1, 2, 3, 4}, float[4] idle = {1, 1, 1, 1}, float[4] used = {5, 6, 7, 8}, float[n,4] c>
{
    [mul] c = Mul(x, w)
    [add] a = Add(c, used)
    y = If (flag) <
        then_branch = yes () => (float[n,4] t) <float[4] u = {2, 2, 2, 2}> { [in] t = Mul(a, u) },
        else_branch = no () => (float[n,4] e) { e = Elu <alpha = 0.5> (a) }
    >
}
"""


@pytest.fixture
def base() -> onnx.ModelProto:
    model = parser.parse_model(SOURCE)
    for message in (*model.graph.node, *model.graph.initializer, model.graph, branch(model).node[0]):
        message.doc_string = "described"
        message.metadata_props.add(key="k", value="v")
    return model


def branch(model: onnx.ModelProto, name: str = "then_branch") -> onnx.GraphProto:
    node = next(node for node in model.graph.node if node.op_type == "If")
    return next(attribute.g for attribute in node.attribute if attribute.name == name)


def stripped(base: onnx.ModelProto) -> onnx.ModelProto:
    """Give what a tool that loses every description would hand back for no change at all."""
    return parser.parse_model(SOURCE)


def test_an_answer_that_only_lost_descriptions_is_the_base(base: onnx.ModelProto) -> None:
    answer = stripped(base)
    answer.graph.ClearField("value_info")
    answer.ClearField("metadata_props")
    answer.producer_name = "the tool"
    del answer.graph.initializer[1]  # idle
    answer.graph.node[2].name = "If_2"
    assert differences(base, answer) != ()
    assert differences(base, restore(base, base, answer)) == ()


def test_changed_inputs_attributes_and_tensors_are_taken(base: onnx.ModelProto) -> None:
    answer = stripped(base)
    answer.graph.node[1].input[:] = ["c", "w"]
    answer.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros(4, np.float32), "w"))
    branch(answer).node[0].input[:] = ["u", "a"]
    branch(answer, "else_branch").node[0].attribute[0].f = 1.5
    restored = restore(base, base, answer)
    assert {line.split(":")[0] for line in differences(base, restored)} == {
        "graph.node[a].input",
        "graph.node[y].attribute[then_branch].g.node[t].input",
        "graph.node[y].attribute[else_branch].g.node[e].attribute[alpha].f",
        "graph.initializer[w].float_data",
        "graph.initializer[w].raw_data",
        "graph.initializer[w].doc_string",
        "graph.initializer[w].metadata_props[k]",
    }


def test_a_tensor_stored_otherwise_is_the_same_tensor(base: onnx.ModelProto) -> None:
    answer = stripped(base)
    values = numpy_helper.to_array(answer.graph.initializer[0])
    answer.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))  # raw bytes, was float_data
    assert differences(base, answer, rewritten={"mul", "add", "used", "idle"}) != ()
    assert differences(base, restore(base, base, answer)) == ()


def test_a_node_that_took_over_another_output_is_known_by_its_name(base: onnx.ModelProto) -> None:
    answer = stripped(base)
    del answer.graph.node[1]
    answer.graph.node[0].output[0] = "a"
    restored = restore(base, base, answer)
    assert (restored.graph.node[0].doc_string, list(restored.graph.node[0].output)) == ("described", ["a"])
    assert [tensor.name for tensor in restored.graph.initializer] == ["w", "idle", "used"]
    assert not restored.graph.value_info


def test_a_tensor_the_tool_dropped_goes_unless_nothing_read_it_before(base: onnx.ModelProto) -> None:
    answer = stripped(base)
    del answer.graph.initializer[:]
    restored = restore(base, base, answer)
    assert [tensor.name for tensor in restored.graph.initializer] == ["idle"]


def test_made_up_tensors_are_named_after_their_reader(base: onnx.ModelProto) -> None:
    answer = stripped(base)
    for graph, node in ((answer.graph, answer.graph.node[1]), (branch(answer), branch(answer).node[0])):
        graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), f"_v_{len(graph.initializer)}"))
        node.input[:] = [graph.initializer[-1].name, "c", graph.initializer[-1].name]
    name_after_readers(base, answer)
    assert answer.graph.initializer[-1].name == "a/simplified"
    assert list(answer.graph.node[1].input) == ["a/simplified", "c", "a/simplified"]
    assert list(branch(answer).node[0].input) == ["t/simplified", "c", "t/simplified"]
    assert [tensor.name for tensor in answer.graph.initializer][:3] == ["w", "idle", "used"]
