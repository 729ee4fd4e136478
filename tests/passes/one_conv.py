"""Models around one convolution, and the real rewrite of them at full rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from onnxlr.schemes.base import Layer, LayerShape
from onnxlr.schemes.registry import by_name
from onnxlr_passes.decompose import Decompose
from onnxlr_passes.sites import locate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxlr_passes.chain import Chain
    from onnxlr_passes.sites import Site


def tensor(name: str, *shape: int, dtype: int = TensorProto.FLOAT, seed: int = 0) -> onnx.TensorProto:
    """A random initializer."""
    values = np.random.default_rng(seed).standard_normal(shape)
    return numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(dtype)), name)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    size: Sequence[int | str] = (2, 4, 9, 8),
    *,
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
    ir: int = 8,
    listed: bool = False,
) -> onnx.ModelProto:
    """From ``x`` to ``y``; ``listed`` names the constants among the inputs as well."""
    inputs = [helper.make_tensor_value_info("x", dtype, list(size))]
    if listed:
        inputs += [helper.make_tensor_value_info(one.name, one.data_type, list(one.dims)) for one in constants]
    outputs = [helper.make_tensor_value_info("y", dtype, [None] * len(size))]
    graph = helper.make_graph(list(nodes), "net", inputs, outputs, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def conv(weight: str = "w", bias: str = "b", **attributes: object) -> onnx.NodeProto:
    """The node from ``x`` to ``y``."""
    inputs = ["x", weight, *([bias] if bias else [])]
    return helper.make_node("Conv", inputs, ["y"], "conv1", **attributes)


def full_chain(site: Site, scheme: str = "basis") -> Chain:
    """The chain of a site at full rank."""
    layer = Layer(site.kernel(), site.geometry)
    return by_name(scheme).solver(layer).chain(by_name(scheme).full_rank(layer.shape))


def rewrite(model: onnx.ModelProto, scheme: str = "basis") -> onnx.ModelProto:
    """Rewrite every site the scheme takes; there must be one."""
    chains = {}
    for site in locate(model)[0]:
        if by_name(scheme).refusal(LayerShape(site.out_channels, site.in_channels, site.geometry)) is None:
            chains[site.key] = full_chain(site, scheme)
    assert chains, locate(model)[1]
    before = model.SerializeToString(deterministic=True)
    changed = Decompose(chains)(model).model
    assert model.SerializeToString(deterministic=True) == before, "a pass never changes its argument"
    onnx.checker.check_model(changed)
    return changed


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    """Run on ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(array) for array in session.run(None, feeds)]


def noise(*shape: int, seed: int = 1) -> np.ndarray:
    """A random float32 input."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_same(one: onnx.ModelProto, other: onnx.ModelProto, tolerance: float = 2e-5, **feeds: np.ndarray) -> None:
    """Both give the same, relative to the largest value."""
    for found, expected in zip(run(one, **feeds), run(other, **feeds), strict=True):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
        assert np.abs(expected).max() > 1e-3
