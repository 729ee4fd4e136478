"""A chain's algebra, its ONNX graph and its price agree: what contracts is what runs, what is claimed is there."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxlr.schemes.base import Layer
from onnxlr_passes.chain import Chain, Stage
from onnxlr_passes.geometry import Geometry
from tests.laws.graphs import count_macs, layer_model, rewritten, run
from tests.laws.layers import SCHEMES, accepted, convolve, input_for, run_chain, somewhere

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
every_scheme = pytest.mark.parametrize("name", SCHEMES)

EXACT = 1e-10  # float64, relative to the largest output
SINGLE = 2e-5  # float32 kernels and sums of a few hundred terms, relative to the largest output


def close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    assert found.shape == expected.shape
    return bool(np.abs(found - expected).max() <= tolerance * max(np.abs(expected).max(), 1e-30))


def draw_chain(data: st.DataObject, name: str) -> tuple[Layer, Chain]:
    """A chain at some rank of a layer of unit norm."""
    scheme, layer = accepted(data, name)
    layer = Layer(layer.weight / (np.linalg.norm(layer.weight) or 1.0), layer.geometry)
    return layer, scheme.solver(layer).chain(somewhere(data, scheme, layer.shape))


@every_scheme
@quick
@given(data=st.data())
def test_the_contracted_kernel_is_what_the_convolutions_compute(name: str, data: st.DataObject) -> None:
    layer, chain = draw_chain(data, name)
    x = input_for(layer)
    assert close(run_chain(chain, x), convolve(x, chain.contract(layer.geometry), layer.geometry), EXACT)


@every_scheme
@quick
@given(data=st.data(), biased=st.booleans())
def test_the_built_graph_runs_as_one_convolution_with_the_contracted_kernel(
    name: str, data: st.DataObject, biased: bool
) -> None:
    layer, chain = draw_chain(data, name)
    x = input_for(layer)
    bias = np.random.default_rng(1).standard_normal(layer.shape.out_channels) if biased else None
    graph = rewritten(layer_model(layer, flat(x, layer), bias), chain)
    expected = convolve(x, chain.contract(layer.geometry), layer.geometry)
    if bias is not None:
        expected += bias.reshape(-1, *[1] * layer.geometry.rank)
    assert close(run(graph, flat(x, layer)), expected, SINGLE)


def flat(x: np.ndarray, layer: Layer) -> np.ndarray:
    return x if layer.geometry.rank else x.reshape(len(x), -1)


@every_scheme
@quick
@given(data=st.data())
def test_claimed_macs_are_those_of_the_built_graph(name: str, data: st.DataObject) -> None:
    scheme, layer = accepted(data, name)
    ranks = somewhere(data, scheme, layer.shape)
    x = input_for(layer)
    original = layer_model(layer, flat(x, layer), None)
    graph = rewritten(original, scheme.solver(layer).chain(ranks))
    batch, size = x.shape[0], x.shape[2:]
    assert batch * scheme.template(layer.shape, ranks).macs(size) == count_macs(graph)
    assert batch * Stage("dense", layer.weight, layer.geometry).macs(size) == count_macs(original)


@every_scheme
@quick
@given(data=st.data())
def test_claimed_parameters_are_those_of_the_built_graph(name: str, data: st.DataObject) -> None:
    layer, chain = draw_chain(data, name)
    graph = rewritten(layer_model(layer, flat(input_for(layer), layer), None), chain)
    written = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.graph.initializer}
    read = [node.input[1] for node in graph.graph.node if node.op_type != "Concat"]
    assert sum(written[name] for name in read) == chain.parameters


MIXED_PARTS = [(3, 0, 0), (0, 3, 0), (0, 0, 3), (2, 2, 0), (2, 0, 2), (0, 2, 2), (1, 1, 1)]


@pytest.mark.parametrize("ranks", MIXED_PARTS)
@pytest.mark.parametrize("kernel", [(3, 3), (2, 3), (4, 3)])
def test_mixed_with_branches_left_out_contracts_to_what_it_computes(
    ranks: tuple[int, int, int], kernel: tuple[int, int]
) -> None:
    geometry = Geometry(kernel, (2, 1), (1, 2), ((3, 2), (5, 4)))
    layer = Layer(np.random.default_rng(5).standard_normal((5, 4, *kernel)), geometry)
    solver = SCHEMES["mixed"].solver(layer)
    chain = solver.chain(ranks)
    x = input_for(layer)
    assert close(run_chain(chain, x), convolve(x, chain.contract(geometry), geometry), EXACT)
    assert (
        np.linalg.norm(layer.weight - chain.contract(geometry)) / np.linalg.norm(layer.weight)
        <= solver.error(ranks) + 1e-9
    )


BROKEN = [
    ("other stride", Geometry((3, 3), (2, 1), (1, 1), ((1, 1), (1, 1)))),
    ("other size", Geometry((3, 5), (1, 1), (1, 1), ((1, 1), (1, 1)))),
    ("other pads", Geometry((3, 3), (1, 1), (1, 1), ((0, 2), (1, 1)))),
    ("other end pads", Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 2)))),
    ("other dilation", Geometry((3, 3), (1, 1), (1, 2), ((1, 1), (1, 1)))),
]


@pytest.mark.parametrize(("label", "geometry"), BROKEN, ids=[row[0] for row in BROKEN])
def test_a_chain_that_moves_otherwise_is_not_contracted(label: str, geometry: Geometry) -> None:
    right = Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
    layer = Layer(np.random.default_rng(6).standard_normal((5, 4, 3, 3)), right)
    for name in ("basis", "separable-vh", "tucker2", "mixed"):
        chain = SCHEMES[name].solver(layer).chain(SCHEMES[name].literal(2, layer.shape))
        chain.contract(right)
        with pytest.raises(ValueError, match=r"axis|window"):
            chain.contract(geometry)


@every_scheme
def test_one_percent_of_a_factor_is_seen_in_what_runs(name: str) -> None:
    layer = Layer(
        np.random.default_rng(7).standard_normal((8, 6, 3, 3)), Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
    )
    chain = SCHEMES[name].solver(layer).chain(SCHEMES[name].literal(4, layer.shape))
    x = input_for(layer)
    expected = convolve(x, chain.contract(layer.geometry), layer.geometry)
    graph = rewritten(layer_model(layer, x, None), chain)
    assert close(run(graph, x), expected, SINGLE)
    for tensor in graph.graph.initializer:
        wrong = onnx.ModelProto()
        wrong.CopyFrom(graph)
        broken = next(t for t in wrong.graph.initializer if t.name == tensor.name)
        broken.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name)
        )
        assert not close(run(wrong, x), expected, SINGLE), tensor.name
