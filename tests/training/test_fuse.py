"""Two depthwise convolutions run as one: the same values and gradients, and only where that is so."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxlr.training.executor import TorchGraph
from onnxlr.training.workers import workers

HEIGHT, WIDTH, BOTH, POINT = (3, 1), (1, 3), (3, 3), (1, 1)


def pair(
    one: tuple[int, int],
    other: tuple[int, int],
    *,
    strides: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (1, 1)),
    dilations: tuple[int, int] = (1, 1),
    group: int = 4,
    biased: bool = False,
    outputs: tuple[str, ...] = ("y",),
    twice: bool = False,
) -> onnx.ModelProto:
    """Convolutions of kernels ``one`` and ``other`` on x (n, 4, 9, 8); ``h`` is what is between them."""
    rng = np.random.default_rng(0)
    shapes = {"a": (4, 4 // group, *one), "b": (4, 1, *other), "o": (4,), **({"c": (4,)} if biased else {})}
    weights = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    pads = [[d * (k // 2) for k, d in zip(kernel, dilations, strict=True)] * 2 for kernel in (one, other)]
    first, last = (
        {"strides": stride, "dilations": dilations, "pads": pad} for stride, pad in zip(strides, pads, strict=True)
    )
    nodes = [
        helper.make_node("Conv", ["x", "a", *(["c"] if biased else [])], ["h"], "first", group=group, **first),
        helper.make_node("Conv", ["h", "b", "o"], ["y" if not twice else "z"], "second", group=4, **last),
        *([helper.make_node("Add", ["z", "h"], ["y"], "sum")] if twice else []),
    ]
    inputs, results = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names] for names in (("x",), outputs)
    )
    graph = helper.make_graph(nodes, "pair", inputs, results, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal((2, 4, 9, 8)).astype(np.float32))


def results(graph: TorchGraph, wanted: tuple[str, ...]) -> list[torch.Tensor]:
    """The output, and the gradients of a function of it."""
    parameters = list(graph.parameters())
    for parameter in parameters:
        parameter.requires_grad = True
    output = graph({"x": images()}, wanted)["y"]
    return [output, *torch.autograd.grad(output.square().sum(), parameters)]


@given(
    st.sampled_from([(HEIGHT, WIDTH), (WIDTH, HEIGHT), (BOTH, POINT), (POINT, BOTH), (HEIGHT, POINT)]),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.integers(1, 2),
)
@settings(max_examples=30, deadline=None)
def test_a_pair_computes_and_learns_the_same(
    kernels: tuple[tuple[int, int], tuple[int, int]], stride: tuple[int, int], dilation: int
) -> None:
    acts = [tuple(s if k > 1 else 1 for k, s in zip(kernel, stride, strict=True)) for kernel in kernels]
    dilations = tuple(dilation if max(k) > 1 else 1 for k in zip(*kernels, strict=True))
    graph = TorchGraph(pair(*kernels, strides=(acts[0], acts[1]), dilations=dilations if dilation == 1 else (1, 1)))
    assert len(graph._quick.nodes) == 1
    for one, other in zip(results(graph, ("y",)), results(graph, ("y", "h")), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "given",
    [
        {"one": BOTH, "other": WIDTH},
        {"one": HEIGHT, "other": WIDTH, "biased": True},
        {"one": HEIGHT, "other": WIDTH, "group": 2},
        {"one": HEIGHT, "other": WIDTH, "outputs": ("y", "h")},
        {"one": HEIGHT, "other": WIDTH, "twice": True},
        {"one": HEIGHT, "other": WIDTH, "strides": ((1, 2), (1, 1))},
        {"one": HEIGHT, "other": WIDTH, "dilations": (2, 2)},
    ],
)
def test_what_is_no_such_pair_stays(given: dict[str, object]) -> None:
    kernels = [given.pop(name) for name in ("one", "other")]
    model = pair(*kernels, **given)
    assert len(TorchGraph(model)._quick.nodes) == len(model.graph.node)


def test_three_in_a_row_keep_one_apart() -> None:
    model = pair(HEIGHT, WIDTH)
    model.graph.initializer.append(numpy_helper.from_array(np.full((4, 1, 1, 3), 0.5, np.float32), "e"))
    model.graph.node[0].input[0] = "w"
    model.graph.node.insert(0, helper.make_node("Conv", ["x", "e"], ["w"], "zeroth", group=4, pads=[0, 1, 0, 1]))
    graph = TorchGraph(model)
    assert len(graph._quick.nodes) == 2
    torch.testing.assert_close(
        graph({"x": images()})["y"], graph({"x": images()}, ("y", "h", "w"))["y"], rtol=1e-4, atol=1e-4
    )


@given(st.integers(1, 5), st.integers(1, 20))
def test_a_batch_is_shared_out(count: int, samples: int) -> None:
    with workers(count) as crew:
        parts = crew.parts(samples)
        assert [index for part in parts for index in range(samples)[part]] == list(range(samples))
        sizes = [part.stop - part.start for part in parts]
        assert len(parts) == min(count, samples)
        assert max(sizes) - min(sizes) <= 1
        assert crew.each(lambda part: part.start, parts) == [part.start for part in parts]
