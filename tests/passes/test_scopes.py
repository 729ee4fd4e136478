"""Scopes: which exist, and what a name means in each."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper, parser

from onnxlr_passes.scopes import Scope, fresh_name, scopes, value_names

MODEL = """
<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]>
main (float[1,4] x, bool flag) => (float[1,4] y, float[1,4] shared)
<float[1,4] w = {1, 2, 3, 4}>
{
    shared = Add(x, w)
    mine = my.domain.Block(shared)
    doubled = Add(shared, shared)
    y = If (flag) <
        then_branch = yes () => (float[1,4] yes_out) {
            inner = Mul(shared, w)
            yes_out = If (flag) <
                then_branch = deep () => (float[1,4] deep_out) { deep_out = Sub(inner, w) },
                else_branch = deep_no () => (float[1,4] deep_no_out) { deep_no_out = Relu(mine) }
            >
        },
        else_branch = no () => (float[1,4] no_out)
        <float[1,4] w = {9, 9, 9, 9}>
        { no_out = Mul(doubled, w) }
    >
}
<domain: "my.domain", opset_import: ["" : 13]>
Block (a) => (b) { c = Relu(a) b = Neg(c) }
"""


@pytest.fixture
def model() -> onnx.ModelProto:
    return parser.parse_model(MODEL)


def by_path(model: onnx.ModelProto) -> dict[str, Scope]:
    return {scope.path: scope for scope in scopes(model)}


def ops(nodes: list[onnx.NodeProto]) -> list[str]:
    return [node.op_type for node in nodes]


def test_every_scope_is_listed_once_main_first_functions_last(model: onnx.ModelProto) -> None:
    assert [scope.path for scope in scopes(model)] == [
        "",
        "If_3/then_branch",
        "If_3/then_branch/If_1/then_branch",
        "If_3/then_branch/If_1/else_branch",
        "If_3/else_branch",
        "function my.domain:Block",
    ]


def test_each_scope_knows_its_opset_and_its_place(model: onnx.ModelProto) -> None:
    found = by_path(model)
    assert [scope.opset for scope in found.values()] == [17, 17, 17, 17, 17, 13]
    assert found["function my.domain:Block"].parent is None
    assert found["function my.domain:Block"].function is not None
    assert found["If_3/then_branch/If_1/then_branch"].parent is found["If_3/then_branch"]
    assert found["If_3/then_branch"].parent is found[""]


def test_editing_nodes_edits_the_model(model: onnx.ModelProto) -> None:
    found = by_path(model)
    for path in ("If_3/then_branch/If_1/then_branch", "function my.domain:Block"):
        found[path].nodes[0].name = "renamed"
    assert model.graph.node[3].attribute[0].g.node[1].attribute[0].g.node[0].name == "renamed"
    assert model.functions[0].node[0].name == "renamed"


def test_uses_count_nested_captures_and_every_repetition(model: onnx.ModelProto) -> None:
    main = by_path(model)[""]
    assert ops(main.consumers("shared")) == ["Block", "Add", "Add", "Mul"]
    assert ops(main.consumers("mine")) == ["Relu"]
    assert main.consumers("y") == []
    assert main.is_output("shared")
    assert not main.is_output("mine")


def test_a_shadowing_initializer_is_another_value(model: onnx.ModelProto) -> None:
    found = by_path(model)
    inner = found["If_3/else_branch"]
    assert ops(found[""].consumers("w")) == ["Add", "Mul", "Sub"]
    assert ops(inner.consumers("w")) == ["Mul"]
    assert inner.where("w") is inner
    assert inner.where("shared") is found[""]


def test_a_producer_is_found_through_enclosing_scopes_but_not_into_a_function(model: onnx.ModelProto) -> None:
    found = by_path(model)
    deep = found["If_3/then_branch/If_1/then_branch"]
    producer = deep.producer("shared")
    assert producer is not None
    assert producer.op_type == "Add"
    assert deep.producer("w") is None
    assert found[""].producer("inner") is None
    assert found["function my.domain:Block"].producer("shared") is None
    assert found["function my.domain:Block"].visible() == {"a", "b", "c"}


def test_an_outer_value_handed_out_by_a_subgraph_is_a_use() -> None:
    model = parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]>
    main (float[1] x, bool flag) => (float[1] y)
    {
        hidden = Relu(x)
        y = If (flag) <
            then_branch = yes () => (float[1] hidden) { },
            else_branch = no () => (float[1] n) { n = Neg(x) }
        >
    }
    """)
    assert ops(scopes(model)[0].consumers("hidden")) == ["If"]


def test_same_named_nodes_get_paths_of_their_own(model: onnx.ModelProto) -> None:
    model.graph.node[3].name = "branch"
    model.graph.node.append(model.graph.node[3])
    paths = [scope.path for scope in scopes(model)]
    assert len(paths) == len(set(paths)) == 10


def test_optional_inputs_and_outputs_left_out_are_no_values() -> None:
    graph = helper.make_graph(
        [helper.make_node("Clip", ["x", "", "top"], ["y"]), helper.make_node("Dropout", ["y"], ["z", ""])],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "top")],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph)
    assert scopes(model)[0].where("") is None
    assert value_names(model) == {"x", "top", "y", "z"}


def test_fresh_names_never_collide(model: onnx.ModelProto) -> None:
    taken = value_names(model)
    assert {"deep_out", "a", "w", "inner"} <= taken
    assert fresh_name("inner", taken) == "inner_2"
    assert fresh_name("inner", taken) == "inner_3"
    assert fresh_name("new", taken) == "new"
