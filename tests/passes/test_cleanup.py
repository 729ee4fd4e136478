"""Cleanup: what a rewrite orphaned goes, what was unused before or is still read stays."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import parser

from onnxlr_passes.cleanup import Cleanup
from onnxlr_passes.fidelity import differences

# v, p, q and k fed a convolution that a rewrite has replaced; idle_* were unused all along.
ORPHANED = """
<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]>
main (float[2] x, bool flag, float[2] unused) => (float[2] y, float[2] kept_output)
<float[2] w = {1, 2}, float[2] idle_tensor = {1, 1}, float[2] shared = {4, 4}, float[2] captured = {5, 5},
 float[2] out_of_if = {6, 6}, float[2] kept_output = {7, 7}, float[2] gone = {8, 8}>
{
    i = Identity(w)
    v = Relu(i)
    idle_node = Neg(x)
    k = Constant <value: tensor = float[2] {3, 3}> ()
    p, q = my.domain.Two(k, shared)
    u = Add(x, shared)
    z = my.domain.Block(u)
    y = If (flag) <
        then_branch = yes () => (float[2] t) <float[2] sub_gone = {1, 2}> { t = Mul(z, captured) },
        else_branch = no () => (float[2] out_of_if) { }
    >
}
<domain: "my.domain", opset_import: ["" : 13]>
Block (a) => (b) { f_gone = Constant <value: tensor = float[2] {3, 3}> () b = Relu(a) }
<domain: "my.domain", opset_import: ["" : 13]>
Two (a, b) => (c, d) { c = Relu(a) d = Relu(b) }
"""


@pytest.fixture
def model() -> onnx.ModelProto:
    return parser.parse_model(ORPHANED)


def names(model: onnx.ModelProto) -> set[str]:
    """Every tensor and node output in the main graph, its subgraphs and functions."""
    found: set[str] = set()

    def collect(graph: onnx.GraphProto) -> None:
        found.update(tensor.name for tensor in graph.initializer)
        for node in graph.node:
            found.update(node.output)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    collect(attribute.g)

    collect(model.graph)
    found.update(name for function in model.functions for node in function.node for name in node.output)
    return found


REMOVED = [
    ({"gone"}, {"gone"}),
    ({"v"}, {"v", "i", "w"}),
    ({"k", "p", "q"}, {"k", "p", "q"}),
    ({"p"}, {"k", "p", "q"}),
    ({"idle_node"}, {"idle_node"}),
    ({"sub_gone"}, {"sub_gone"}),
    ({"f_gone"}, {"f_gone"}),
    ({"gone", "v", "sub_gone", "f_gone"}, {"gone", "v", "i", "w", "sub_gone", "f_gone"}),
]

STAYS = [
    set(),
    {""},
    {"no such value"},
    {"w"},  # still read by the Identity
    {"i"},
    {"k"},
    {"shared"},  # by another node
    {"captured"},  # inside a branch only
    {"out_of_if"},  # handed out by a branch
    {"kept_output"},  # an output of the graph
    {"x", "unused", "flag"},  # inputs
    {"z", "u", "y", "t", "b"},
]


@pytest.mark.parametrize(("candidates", "expected"), REMOVED, ids=[" ".join(sorted(row[0])) for row in REMOVED])
def test_orphans_go_with_what_only_they_needed(
    model: onnx.ModelProto, candidates: set[str], expected: set[str]
) -> None:
    before = model.SerializeToString(deterministic=True)
    result = Cleanup(frozenset(candidates))(model)
    assert names(model) - names(result.model) == expected
    assert differences(model, result.model, rewritten=expected) == ()
    assert result.modified
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("candidates", STAYS, ids=[" ".join(sorted(row)) for row in STAYS])
def test_what_is_read_stays_and_the_model_is_returned_itself(model: onnx.ModelProto, candidates: set[str]) -> None:
    result = Cleanup(frozenset(candidates))(model)
    assert result.model is model
    assert not result.modified


def test_a_node_goes_only_when_none_of_its_outputs_is_read(model: onnx.ModelProto) -> None:
    model.graph.node.append(onnx.helper.make_node("Relu", ["q"], ["reader"]))
    assert Cleanup(frozenset({"p"}))(model).model is model


def test_a_removed_branch_takes_its_captures_along(model: onnx.ModelProto) -> None:
    del model.graph.output[0]
    result = Cleanup(frozenset({"y"}))(model)
    assert names(model) - names(result.model) == {"y", "t", "sub_gone", "captured", "out_of_if", "z", "u", "shared"} - {
        "shared"  # Two still reads it
    }
    assert [change.node for change in result.changes].count("t") == 0


def test_the_input_entry_of_a_listed_initializer_goes_with_it(model: onnx.ModelProto) -> None:
    listed = onnx.helper.make_tensor_value_info("gone", onnx.TensorProto.FLOAT, [2])
    model.graph.input.insert(1, listed)
    result = Cleanup(frozenset({"gone", "unused"}))(model)
    assert [value.name for value in result.model.graph.input] == ["x", "flag", "unused"]


def test_descriptions_of_values_that_are_gone_go_too(model: onnx.ModelProto) -> None:
    for name in ("v", "i", "z", "vanished_before", "someone_elses"):
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]))
        model.graph.quantization_annotation.add(tensor_name=name)
    result = Cleanup(frozenset({"v", "vanished_before"}))(model)
    assert [value.name for value in result.model.graph.value_info] == ["z", "someone_elses"]
    assert [entry.tensor_name for entry in result.model.graph.quantization_annotation] == ["z", "someone_elses"]


def test_sparse_initializers_are_orphans_like_any_other(model: onnx.ModelProto) -> None:
    index = onnx.helper.make_tensor("index", onnx.TensorProto.INT64, [1], [0])
    values = onnx.helper.make_tensor("sparse", onnx.TensorProto.FLOAT, [1], [1.0])
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, index, [2]))
    assert not Cleanup(frozenset({"sparse"}))(model).model.graph.sparse_initializer


def test_a_shadowed_name_is_judged_in_its_own_scope() -> None:
    model = parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]>
    main (float[2] x, bool flag) => (float[2] y) <float[2] w = {1, 2}>
    {
        y = If (flag) <
            then_branch = yes () => (float[2] t) <float[2] w = {3, 4}> { t = Mul(x, w) },
            else_branch = no () => (float[2] e) { e = Neg(x) }
        >
    }
    """)
    result = Cleanup(frozenset({"w"}))(model)
    assert not result.model.graph.initializer
    branches = {attribute.name: attribute.g for attribute in result.model.graph.node[0].attribute}
    assert [tensor.name for tensor in branches["then_branch"].initializer] == ["w"]


def test_with_every_name_a_candidate_nothing_is_left_that_graphsurgeon_would_remove(model: onnx.ModelProto) -> None:
    result = Cleanup(frozenset(names(model)))(model)
    left = [node.outputs[0].name for node in gs.import_onnx(result.model).nodes]
    graph = gs.import_onnx(model)
    expected = [node.outputs[0].name for node in graph.cleanup(remove_unused_node_outputs=False).nodes]
    assert sorted(left) == sorted(expected)
    assert len(left) < len(model.graph.node)
