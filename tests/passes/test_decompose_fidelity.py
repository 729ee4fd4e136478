"""Nothing changes but the rewritten nodes and their weights, in a model that uses every field there is to lose."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxlr_passes.decompose import Decompose
from onnxlr_passes.fidelity import differences
from onnxlr_passes.sites import locate
from tests.passes.one_conv import full_chain, noise, run, tensor


def info(name: str, *dims: int | str | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)


def describe(message: object, **entries: str) -> None:
    for key, value in entries.items():
        message.metadata_props.add(key=key, value=value)  # type: ignore[attr-defined]


def rich() -> onnx.ModelProto:
    then = helper.make_graph(
        [helper.make_node("Conv", ["c", "w2"], ["t"], name="inner", doc_string="in a branch", pads=[1, 1, 1, 1])],
        "then", [], [info("t", "n", 6, "h", "w_")],
    )  # fmt: skip
    other = helper.make_graph([helper.make_node("Neg", ["c"], ["e"])], "else", [], [info("e", "n", 6, "h", "w_")])
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c"], name="conv1", doc_string="a layer", pads=[1, 1, 1, 1]),
        helper.make_node("If", ["flag"], ["i"], name="if", then_branch=then, else_branch=other),
        helper.make_node("LeakyRelu", ["i"], ["l"], name="act", alpha=0.25, doc_string="slope"),
        helper.make_node("Block", ["l"], ["y"], domain="my.domain", name="call"),
    ]
    describe(nodes[0], layer="first", scope="net/conv1")
    describe(nodes[2], layer="second")
    graph = helper.make_graph(
        nodes,
        "net",
        [
            info("x", "n", 4, "h", "w_"),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
            info("unused", "u"),
        ],
        [info("y", "n", 6, "h", "w_")],
        [tensor("w1", 6, 4, 3, 3), tensor("b1", 6, seed=1), tensor("w2", 6, 6, 3, 3), tensor("nobody", 3)],
        doc_string="a graph",
        value_info=[info("c", "n", 6, "h", "w_"), info("l", "n", 6, "h", "w_")],
    )
    index, values = np.array([1], np.int64), np.ones(1, np.float32)
    graph.sparse_initializer.append(
        helper.make_sparse_tensor(numpy_helper.from_array(values, "sparse"), numpy_helper.from_array(index, "at"), [4])
    )
    annotation = graph.quantization_annotation.add(tensor_name="c")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="nobody")
    describe(graph, exporter="hand")
    body = [
        helper.make_node("Relu", ["a"], ["r"], name="body", doc_string="inside"),
        helper.make_node("Neg", ["r"], ["o"]),
    ]
    function = helper.make_function(
        "my.domain", "Block", ["a"], ["o"], body, [helper.make_opsetid("", 17)], doc_string="a function"
    )
    describe(function, origin="library")
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my.domain", 1)]
    model = helper.make_model(
        graph, functions=[function], ir_version=10, producer_name="p", producer_version="1", domain="d",
        model_version=3, doc_string="a model", opset_imports=imports,
    )  # fmt: skip
    describe(model, author="someone", licence="none")
    model.training_info.add().algorithm.name = "sgd"
    return model


def rewritten(model: onnx.ModelProto, *keys: str) -> onnx.ModelProto:
    chains = {site.key: full_chain(site, "tucker2") for site in locate(model)[0] if site.output in keys}
    assert len(chains) == len(keys)
    return Decompose(chains)(model).model


@pytest.mark.parametrize("keys", [("c",), ("t",), ("c", "t")], ids=["main graph", "branch", "both"])
def test_only_the_named_nodes_and_weights_change(keys: tuple[str, ...]) -> None:
    model = rich()
    changed = rewritten(model, *keys)
    weights = {"c": "w1", "t": "w2"}
    assert differences(model, changed, rewritten=[*keys, *(weights[key] for key in keys)]) == ()
    assert differences(model, changed) != (), "the comparison sees the rewrite itself"
    assert [value.name for value in changed.graph.input] == ["x", "flag", "unused"]
    feeds = {"x": noise(1, 4, 7, 6), "unused": noise(2)}
    model.graph.sparse_initializer.pop()
    changed.graph.sparse_initializer.pop()
    del model.training_info[:], changed.training_info[:]
    for flag in (True, False):
        (old,), (new,) = (run(one, flag=np.array(flag), **feeds) for one in (model, changed))
        np.testing.assert_allclose(new, old, rtol=0, atol=2e-5 * float(np.abs(old).max()))


def test_names_derive_from_the_output_and_the_last_node_inherits() -> None:
    changed = rewritten(rich(), "c")
    nodes = changed.graph.node[:3]
    assert [node.name for node in nodes] == ["c/lr0_reduce", "c/lr1_kernel", "c/lr2_expand"]
    assert [node.output[0] for node in nodes] == ["c/lr0_reduce", "c/lr1_kernel", "c"]
    assert [node.input[1] for node in nodes] == [f"{node.name}_weight" for node in nodes]
    assert [len(node.input) for node in nodes] == [2, 2, 3]
    assert nodes[2].input[2] == "b1"
    assert nodes[2].doc_string == "a layer"
    assert {entry.key: entry.value for entry in nodes[2].metadata_props} == {"layer": "first", "scope": "net/conv1"}
    assert not any(node.doc_string or node.metadata_props for node in nodes[:2])


def test_the_same_rewrite_gives_the_same_bytes() -> None:
    one, two = (rewritten(rich(), "c", "t").SerializeToString(deterministic=True) for _ in range(2))
    assert one == two
