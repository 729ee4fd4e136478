"""What preparing a model makes of it is compared with the model: a fold that is wrong is refused, rounding is not."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxlr
import onnxlr.prove
from onnxlr.errors import ModelError, ValidationError
from onnxlr.model_io import load
from onnxlr.prepare import Selection, prepare
from onnxlr.prove import rehearse
from onnxlr.target import Target
from onnxlr.validation.numeric import differences
from onnxlr_passes import fold_batchnorm
from tests.cli.small import kernel, network, refused, written

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from onnxlr.prepare import Prepared

TARGET = Target(threads=1)
FULL = ("--scheme", "basis", "--rank", "32", "--threads", "1")
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def normed(dtype: int = FLOAT, tail: Sequence[onnx.NodeProto] = (), kind: int | None = None) -> onnx.ModelProto:
    """Conv, BatchNormalization and Relu, to y, or to r where a tail makes y of it, which is of ``kind``."""
    rng = np.random.default_rng(0)
    numbers = helper.tensor_dtype_to_np_dtype(dtype)
    arrays = {"w": kernel(32, 32, 3, 0), **{name: 1.0 + rng.random(32) for name in ("scale", "var")}}
    arrays |= {name: 0.1 * rng.standard_normal(32) for name in ("shift", "mean")}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"], "norm"),
        helper.make_node("Relu", ["n"], ["r" if tail else "y"], "act"),
        *tail,
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", dtype, [1, 32, 8, 8])],
        [helper.make_tensor_value_info("y", kind or dtype, None)],
        [numpy_helper.from_array(array.astype(numbers), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def skew(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Have every fold of a BatchNormalization give weights that are ``factor`` too large."""
    right = fold_batchnorm._folded

    def wrong(*arguments: Any) -> Any:
        folded = right(*arguments)
        return folded and ((folded[0] * factor).astype(folded[0].dtype), folded[1])

    monkeypatch.setattr(fold_batchnorm, "_folded", wrong)


@pytest.mark.parametrize("factor", [-1.0, 1.01])
def test_a_wrong_fold_is_refused_and_nothing_written(
    factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skew(monkeypatch, factor)
    written(normed(), tmp_path / "m.onnx")
    says = r"another one after fold-batchnorm: output 'y' differs by \d.*at most 0.002.; a model that amplifies"
    refused(tmp_path, 5, says, "rewrite", "m.onnx", *FULL, "--no-simplify")
    refused(tmp_path, 5, "another one after .*; try --no-simplify; ", "rewrite", "m.onnx", *FULL)


def test_a_wrong_fold_in_half_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    skew(monkeypatch, -1.0)
    with pytest.raises(ValidationError, match=r"at most 0\.05"):
        onnxlr.rewrite(normed(HALF), scheme="basis", rank=32, threads=1)


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
def test_a_right_fold_is_rounding(dtype: int, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[float] = []

    def listening(*arguments: Any) -> Any:
        found = differences(*arguments)
        checked.extend(one.relative_l2 for one in found)
        return found

    monkeypatch.setattr(onnxlr.prove, "differences", listening)
    result = onnxlr.rewrite(normed(dtype), scheme="basis", rank=32, threads=1)
    assert result.summary.measured is not None
    assert [node.op_type for node in result.model.graph.node] == ["Conv", "Conv", "Relu"]
    (off,) = checked
    assert 0.0 < off < onnxlr.prove.ROUNDING[dtype] / 20


def prepared_as(model: onnx.ModelProto, made: onnx.ModelProto) -> Prepared:
    """The prepared ``model``, of which ``made`` is said to have come."""
    return replace(prepare(load(model), TARGET, Selection(), simplify=False), proto=made)


def rehearsed(model: onnx.ModelProto, made: onnx.ModelProto) -> None:
    rehearse(model, prepared_as(model, made), folder=None, target=TARGET, seed=0, simplified=False, optional=True)


def ending(op: str, kind: int = FLOAT, **attributes: Any) -> onnx.ModelProto:
    """The same network always, and ``op`` of what it gives."""
    return normed(tail=[helper.make_node(op, ["r"], ["y"], **attributes)], kind=kind)


def noughts() -> onnx.ModelProto:
    """NaN wherever the network gives 0, else 1."""
    return normed(tail=[helper.make_node("Div", ["r", "r"], ["y"])])


def rounded_up() -> onnx.ModelProto:
    tail = [helper.make_node("Ceil", ["r"], ["up"]), helper.make_node("Cast", ["up"], ["y"], to=TensorProto.INT64)]
    return normed(tail=tail, kind=TensorProto.INT64)


WRONG = {
    "other values": (ending("Sqrt"), ending("Exp"), "output 'y' differs by"),
    "another shape": (ending("Flatten"), ending("Sqrt"), r"output 'y' has shape \(1, 32, 8, 8\)"),
    "not finite": (ending("Neg"), noughts(), "output 'y' has NaN or infinity"),
    "does not run": (ending("Neg"), ending("Neg", TensorProto.INT64), "ONNX Runtime .* cannot run the model"),
}


@pytest.mark.parametrize(("model", "made", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_refused(model: onnx.ModelProto, made: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        rehearsed(model, made)


def test_a_command_that_always_validates_names_no_option_it_does_not_have() -> None:
    model = ending("Sqrt")
    made = prepared_as(model, ending("Exp"))
    with pytest.raises(ValidationError) as fault:
        rehearse(model, made, folder=None, target=TARGET, seed=0, simplified=True, optional=False)
    assert fault.value.hint == "try --no-simplify; please report it"
    broken = normed(TensorProto.DOUBLE)
    with pytest.raises(ModelError) as refusal:
        rehearse(
            broken, prepared_as(broken, broken), folder=None, target=TARGET, seed=0, simplified=True, optional=False
        )
    assert "--no-validate" not in refusal.value.hint


def indexed(before: int) -> onnx.ModelProto:
    """Random numbers that ONNX Runtime seeds by where the node stands, behind ``before`` others."""
    names = ["r", *(f"i{index}" for index in range(before))]
    chain = [helper.make_node("Identity", [a], [b]) for a, b in itertools.pairwise(names)]
    return normed(tail=[*chain, helper.make_node("RandomNormalLike", [names[-1]], ["y"])])


RIGHT = {
    "random numbers": (indexed(0), indexed(3)),
    "integers that rounding may turn": (ending("Cast", TensorProto.INT64, to=TensorProto.INT64), rounded_up()),
    "not finite in the original": (noughts(), ending("Sign")),
}


@pytest.mark.parametrize(("model", "made"), RIGHT.values(), ids=RIGHT.keys())
def test_what_tells_nothing(model: onnx.ModelProto, made: onnx.ModelProto) -> None:
    rehearsed(model, made)


def test_a_model_that_stays_as_it_is_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[int] = []
    session = Target.session

    def counted(*arguments: Any, **options: Any) -> Any:
        sessions.append(1)
        return session(*arguments, **options)

    monkeypatch.setattr(Target, "session", counted)
    model = network()
    made = prepare(load(model), TARGET, Selection(), simplify=False)
    rehearse(model, made, folder=None, target=TARGET, seed=0, simplified=False, optional=True)
    assert len(sessions) == 1


def test_a_model_that_does_not_run_is_no_failed_comparison() -> None:
    model = normed(TensorProto.DOUBLE)
    with pytest.raises(ModelError, match="--no-validate rewrites it all the same, unproven"):
        onnxlr.rewrite(model, scheme="basis", rank=8, threads=1)
