from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxlr.cost.attribution import attribution, name_by_output
from onnxlr.cost.profile import ProfileOptions, profile, split_runs
from onnxlr.errors import ModelError
from onnxlr.target import Target, seeded_feeds

QUICK = ProfileOptions(budget_s=0.0, min_runs=3, warmup=1)
RNG = np.random.default_rng(3)


def weight(name, *shape, dtype=np.float32):
    return numpy_helper.from_array((RNG.standard_normal(shape) / 10).astype(dtype), name)


def value(name, *dims, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, dims)


def node(op, inputs, output, name="", **attributes):
    return helper.make_node(op, inputs, [output], name=name, **attributes)


def model_of(nodes, weights, shape=(1, 16, 16, 16), dtype=TensorProto.FLOAT, functions=()):
    graph = helper.make_graph(
        nodes, "graph", [value("x", *shape, dtype=dtype)], [helper.make_tensor_value_info("y", dtype, None)], weights
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid("local", 1)] if functions else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))


def profile_of(model):
    target = Target(threads=1)
    (feeds,) = seeded_feeds(model, target)
    return profile(model, None, target, feeds, QUICK)


def network(dtype=np.float32):
    """Conv + BatchNorm + Relu, a residual Conv + Add + Relu, an unnamed Conv + Clip, MatMul + Add, Gemm."""
    nodes = [
        node("Conv", ["x", "w1"], "a", "first", pads=[1] * 4),
        node("BatchNormalization", ["a", "s", "b", "m", "v"], "bn"),
        node("Relu", ["bn"], "r"),
        node("Conv", ["r", "w2"], "d", "second", pads=[1] * 4),
        node("Conv", ["x", "w3"], "e", "shortcut"),
        node("Add", ["d", "e"], "f"),
        node("Relu", ["f"], "g"),
        node("Conv", ["g", "w4"], "h", pads=[1] * 4),
        node("Relu", ["h"], "i"),
        node("GlobalAveragePool", ["i"], "p"),
        node("Flatten", ["p"], "q"),
        node("MatMul", ["q", "w5"], "k", "product"),
        node("Add", ["k", "c"], "l"),
        node("Gemm", ["l", "w6"], "y", "classes"),
    ]
    kernels = [weight("w1", 16, 16, 3, 3), weight("w2", 16, 16, 3, 3), weight("w3", 16, 16, 1, 1)]
    rest = [weight("w4", 16, 16, 3, 3), weight("w5", 16, 32), weight("c", 32), weight("w6", 32, 10)]
    norm = [weight(name, 16) for name in "sbm"] + [numpy_helper.from_array(np.ones(16, np.float32), "v")]
    tensors = [
        numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name)
        for tensor in kernels + rest + norm
    ]
    return model_of(nodes, tensors, dtype=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_fused_convolutions_and_products_are_found(dtype):
    result = profile_of(network(dtype))
    heavy = {item.output for item in result.nodes if item.op_type in {"Conv", "MatMul", "Gemm"}}
    assert heavy == {"a", "d", "e", "h", "k", "y"}
    assert sum(item.share for item in result.nodes) + result.other_ms / result.kernels_ms == pytest.approx(1)
    assert sum(item.share for item in result.nodes if item.op_type == "Conv") > 0.3
    assert result.runs == 3
    names = result.by_name()
    assert {"first", "second", "shortcut", "h", "product", "classes"} <= set(names)
    assert result.share("a") > 0
    assert result.share("bn") == 0


def test_a_convolution_with_16_times_the_work_takes_longer():
    nodes = [node("Conv", ["x", "small"], "a", "few"), node("Conv", ["x", "big"], "b", "many")]
    nodes.append(node("Concat", ["a", "b"], "y", axis=1))
    result = profile_of(model_of(nodes, [weight("small", 16, 16, 3, 3), weight("big", 256, 16, 3, 3)], (1, 16, 32, 32)))
    assert result.by_name()["many"] > 2 * result.by_name()["few"]


def test_body_of_a_loop_is_counted_once_and_summed_over_iterations():
    body = helper.make_graph(
        [
            node("Conv", ["state", "w"], "next", "inner", pads=[1] * 4),
            node("Identity", ["go"], "still"),
        ],
        "body",
        [value("i", dtype=TensorProto.INT64), value("go", dtype=TensorProto.BOOL), value("state", 1, 16, 16, 16)],
        [value("still", dtype=TensorProto.BOOL), value("next", 1, 16, 16, 16)],
    )
    count = numpy_helper.from_array(np.array(5), "count")
    loop = helper.make_node("Loop", ["count", "", "x"], ["y"], body=body, name="loop")
    result = profile_of(model_of([loop], [weight("w", 16, 16, 3, 3), count]))
    inner = next(item for item in result.nodes if item.name == "inner")
    assert inner.scope == "loop/body"
    assert not any(item.op_type == "Loop" for item in result.nodes)
    assert result.kernels_ms <= result.run_ms
    assert inner.share == result.share("next", "loop/body") > 0.3


def test_convolution_in_a_local_function_is_found():
    function = helper.make_function(
        "local",
        "Block",
        ["x", "w"],
        ["out"],
        [node("Conv", ["x", "w"], "t", "inner", pads=[1] * 4), node("Sin", ["t"], "out")],
        [helper.make_opsetid("", 17)],
    )
    calls = [
        helper.make_node("Block", ["x", "w1"], ["m"], domain="local"),
        helper.make_node("Block", ["m", "w2"], ["y"], domain="local"),
    ]
    weights = [weight("w1", 16, 16, 3, 3), weight("w2", 16, 16, 3, 3)]
    result = profile_of(model_of(calls, weights, functions=[function]))
    (inner,) = [item for item in result.nodes if item.op_type == "Conv"]
    assert (inner.scope, inner.output, inner.name) == ("function local:Block", "t", "inner")


def test_naming_leaves_the_model_alone():
    model = network()
    before = model.SerializeToString(deterministic=True)
    named = name_by_output(model)
    assert model.SerializeToString(deterministic=True) == before
    assert [item.name for item in named.graph.node] == [item.output[0] for item in named.graph.node]


@pytest.mark.parametrize(
    ("kernel", "op_type", "output"),
    [
        ("a", "Conv", "a"),
        ("r_nchwc", "Conv", "a"),
        ("fused d", "FusedConv", "d"),
        ("InsertedPrecisionFreeCast_r_nchwc", "Conv", "a"),
        ("k/MatMulAddFusion", "Gemm", "k"),
        ("fused k/MatMulAddFusion/GemmTransposeFusion/", "FusedGemm", "k"),
        ("g_nchwc_token_12", "Conv", "g"),  # two convolutions reach g: the Relu itself, rather than a guess
        ("p_nchwc", "GlobalAveragePool", "p"),
    ],
)
def test_forms_of_kernel_names(kernel, op_type, output):
    place = attribution(network()).find(kernel, op_type)
    assert place is not None
    assert place.output == output


def test_kernels_of_the_runtime_belong_to_no_node():
    assert attribution(network()).find("ReorderOutput", "ReorderOutput") is None


def test_trace_is_cut_into_runs():
    def event(name, ts, dur, op_type="Conv", cat="Node"):
        return {"cat": cat, "name": name, "ts": ts, "dur": dur, "args": {"op_name": op_type}}

    events = [
        event("model_loading", 0, 9, cat="Session"),
        event("a_kernel_time", 20, 3),
        event("loop_kernel_time", 19, 6, "Loop"),
        event("model_run", 10, 20, cat="Session"),
        event("a_kernel_time", 45, 5),
        event("a_fence_before", 44, 1),
        event("model_run", 40, 20, cat="Session"),
    ]
    runs = split_runs(events)
    assert [ms for ms, _ in runs] == [0.02, 0.02]
    assert [[kernel["ts"] for kernel in kernels] for _, kernels in runs] == [[20], [45]]


def test_model_that_cannot_run_is_a_model_error():
    with pytest.raises(ModelError, match="Nonsense"):
        profile(model_of([node("Nonsense", ["x"], "y")], []), None, Target(threads=1), {}, QUICK)
    assert isinstance(network(), onnx.ModelProto)
