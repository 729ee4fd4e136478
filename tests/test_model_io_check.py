"""What is checked of a model that is read: what runs is taken, a fault is one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxlr.errors import ModelError
from onnxlr.model_io import check_finite, every_tensor, load
from tests.hostile.models import ROWS, SIZE, everywhere, matmul, model, plain, run, weight, write_external

if TYPE_CHECKING:
    from pathlib import Path


def unnamed_graph() -> onnx.ModelProto:
    proto = plain()
    proto.graph.ClearField("name")
    return proto


def untyped_output() -> onnx.ModelProto:
    proto = plain()
    proto.graph.output[0].ClearField("type")
    return proto


def shapeless() -> onnx.ModelProto:
    proto = plain()
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.ClearField("shape")
    return proto


def repeated_metadata() -> onnx.ModelProto:
    proto = plain()
    for _ in range(2):
        proto.metadata_props.add(key="a", value="b")
    return proto


def default_domain_by_its_other_name(*, imported: bool, called: bool) -> onnx.ModelProto:
    """A Reshape, whose second input is of opset 5, beside a function and an If; ``ai.onnx`` in imports, in nodes."""
    proto = everywhere()
    shape = numpy_helper.from_array(np.array([1, SIZE]), "shape")
    proto.graph.initializer.append(shape)
    proto.graph.node[-1].output[0] = "flat"
    proto.graph.node.add(op_type="Reshape", input=["flat", "shape"], output=["y"])
    if imported:
        proto.opset_import[0].domain = "ai.onnx"
    if called:
        for node in (node for node in proto.graph.node if not node.domain):
            node.domain = "ai.onnx"
    return proto


SCALE = numpy_helper.from_array(np.ones(SIZE, np.float32), "scale")
FORGIVEN = {
    "runtime operator in the default domain": model(
        [helper.make_node("LayerNormalization", ["x", "scale"], ["y"])], [SCALE], opset=12
    ),
    "domain not imported": model([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")]),
    "initializer of IR 3 that is no input": model([matmul()], [weight("w", 0)], ir=3),
    "unnamed graph": unnamed_graph(),
    "untyped output": untyped_output(),
    "input and output without a shape": shapeless(),
    "metadata key twice": repeated_metadata(),
    "nodes of ai.onnx": default_domain_by_its_other_name(imported=False, called=True),
    "nodes and imports of ai.onnx": default_domain_by_its_other_name(imported=True, called=True),
}


@pytest.mark.parametrize("proto", FORGIVEN.values(), ids=FORGIVEN.keys())
def test_what_runs_but_the_checker_rejects_is_forgiven(proto: onnx.ModelProto) -> None:
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(proto)
    before = proto.SerializeToString()
    assert load(proto).proto.SerializeToString() == before
    run(before)


def test_the_default_domain_may_be_imported_by_its_other_name() -> None:
    """The checker takes that by itself; an opset forged beside it would be a wrong one."""
    proto = default_domain_by_its_other_name(imported=True, called=False)
    before = proto.SerializeToString()
    assert load(proto).proto.SerializeToString() == before
    run(before)
    unknown = onnx.ModelProto.FromString(before)
    unknown.graph.node.add(op_type="Relu", input=["y"], output=["z"]).attribute.add(name="depth", i=1, type=2)
    with pytest.raises(ModelError, match="Unrecognized attribute: depth"):
        load(unknown)


def scattered(count: int, *, pairs: bool = False, constant: bool = False, extra: int = 0) -> onnx.ModelProto:
    """``x`` times a sparse matrix of ``count`` ones, each at a position or a pair of them; ``extra`` more positions."""
    positions = np.arange(count + extra, dtype=np.int64)
    indices = np.stack(np.divmod(positions, SIZE), axis=1) if pairs else positions
    values = numpy_helper.from_array(np.ones(count, np.float32), "s")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(indices, "i"), [SIZE, SIZE])
    if constant:
        return model([helper.make_node("Constant", [], ["s"], sparse_value=sparse), matmul("s")])
    return model([matmul("s")], sparse=[sparse])


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("count", [1, 100, 128, 129, 200, 256, 257, 1000])
def test_sparse_weights_of_every_size(count: int, pairs: bool, constant: bool) -> None:
    proto = scattered(count, pairs=pairs, constant=constant)
    before = proto.SerializeToString()
    assert load(proto).proto.SerializeToString() == before
    np.testing.assert_allclose(run(before)[0], ROWS[0] @ dense(count), rtol=1e-4, atol=1e-5)


def dense(count: int) -> np.ndarray:
    return (np.arange(SIZE * SIZE) < count).astype(np.float32).reshape(SIZE, SIZE)


def test_small_sparse_weights_are_looked_at() -> None:
    with pytest.raises(ModelError, match="not a valid model"):
        load(scattered(100, extra=1))


def test_custom_domains_are_not_our_business() -> None:
    load(model([helper.make_node("Secret", ["x"], ["y"], domain="vendor", key=1)], domains=["vendor"]))


def bad_size() -> onnx.ModelProto:
    proto = plain()
    proto.graph.initializer[0].raw_data = bytes(8)
    return proto


def bad_text() -> onnx.ModelProto:
    proto = plain()
    proto.graph.node[0].name = "QQ"
    return onnx.ModelProto.FromString(proto.SerializeToString().replace(b"QQ", b"\xff\xfe"))


def untyped_input() -> onnx.ModelProto:
    proto = plain()
    proto.graph.input[0].ClearField("type")
    return proto


def no_opset() -> onnx.ModelProto:
    proto = plain()
    del proto.opset_import[:]
    return proto


NEWEST = onnx.defs.onnx_opset_version()
INVALID = {
    "no graph": (onnx.ModelProto(ir_version=8), "has no graph"),
    "no opset": (no_opset(), "names no opset"),
    "old opset": (model([matmul()], [weight("w", 0)], opset=6), "opset 6, older than 7"),
    "new opset": (model([matmul()], [weight("w", 0)], opset=NEWEST + 1), f"opset {NEWEST + 1}, newer than {NEWEST}"),
    "new IR": (model([matmul()], [weight("w", 0)], ir=onnx.IR_VERSION + 1), "upgrade the onnx package"),
    "wrong size": (bad_size(), "'w' of .* holds 8 bytes, its shape needs 4356"),
    "not text": (bad_text(), "onnx.NodeProto.name is not text"),
    "untyped input": (untyped_input(), "Field 'type' of 'value_info' is required"),
    "unknown input": (model([matmul("missing")]), "topologically sorted.*'missing'"),
    "twice the same output": (model([matmul(), matmul()], [weight("w", 0)]), "single static assignment"),
    "unknown attribute": (model([helper.make_node("Relu", ["x"], ["y"], depth=1)]), "Unrecognized attribute: depth"),
    "initializer twice": (model([matmul()], [weight("w", 0), weight("w", 1)]), "w initializer name is not unique"),
}


@pytest.mark.parametrize(("proto", "message"), INVALID.values(), ids=INVALID.keys())
def test_a_real_fault_is_one_clear_line(proto: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load(proto)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def poisoned(kind: type, value: float) -> onnx.TensorProto:
    values = np.ones((SIZE, SIZE), kind)
    values[3, 4] = value
    return numpy_helper.from_array(values, "w")


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_numbers(kind: type, value: float) -> None:
    check_finite(model([matmul()], [poisoned(kind, 1.0)]), None)
    with pytest.raises(ModelError, match="weight 'w' holds NaN or infinity in 1 of 1089 elements"):
        check_finite(model([matmul()], [poisoned(kind, value)]), None)


def test_a_bad_weight_is_found_in_every_place(tmp_path: Path) -> None:
    for place in ("w", "k", "then_w", "else_w", "fw"):
        proto = everywhere()
        tensor = next(one for one in every_tensor(proto) if one.name == place)
        tensor.raw_data = poisoned(np.float32, np.nan).raw_data
        write_external(proto, tmp_path / f"{place}.onnx", f"{place}.bin")
        external = load(tmp_path / f"{place}.onnx", inline_limit=0)
        with pytest.raises(ModelError, match=f"weight '{place}'"):
            check_finite(external.proto, external.folder)


def test_a_weight_behind_a_transpose_is_a_weight() -> None:
    nodes = [helper.make_node("Transpose", ["w"], ["wt"]), helper.make_node("Identity", ["wt"], ["wi"]), matmul("wi")]
    check_finite(model(nodes, [weight("w", 0)]), None)
    with pytest.raises(ModelError, match="weight 'w'"):
        check_finite(model(nodes, [poisoned(np.float32, np.nan)]), None)


def test_a_mask_may_be_infinite() -> None:
    mask = numpy_helper.from_array(np.full((1, SIZE), -np.inf, np.float32), "mask")
    proto = model([matmul("w", "x", "a"), helper.make_node("Add", ["a", "mask"], ["y"])], [weight("w", 0), mask])
    check_finite(proto, None)
