"""Simplify: the graph gets simpler, all that survives keeps every field, and what is not safe is not done."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper, parser

from onnxlr_passes.fidelity import differences
from onnxlr_passes.simplify import Simplify

if TYPE_CHECKING:
    from pathlib import Path

FLOAT = TensorProto.FLOAT


def info(name: str, *dims: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, dims)


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def describe(*messages: object) -> None:
    for position, message in enumerate(messages):
        message.metadata_props.add(key=f"key{position}", value="value")  # type: ignore[attr-defined]


def rich(opset: int = 17) -> onnx.ModelProto:
    """A model with something to simplify and everything that onnxsim is known to lose."""
    then = helper.make_graph(
        [
            helper.make_node("Identity", ["f"], ["q"], name="sub_identity"),
            helper.make_node("Mul", ["q", "two"], ["t"], name="sub_mul", doc_string="inside"),
        ],
        "then",
        [],
        [info("t", "n", 4, 8, 8)],
        [numpy_helper.from_array(np.float32(2), "two")],
        doc_string="a branch",
    )
    other = helper.make_graph([helper.make_node("Neg", ["f"], ["e"])], "else", [], [info("e", "n", 4, 8, 8)])
    nodes = [
        helper.make_node("Identity", ["w_source"], ["w"], name="weight_identity"),
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", doc_string="a layer", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "bias"], ["a"], name="bias_add"),
        helper.make_node("Relu", ["a"], ["r"], doc_string="nameless"),
        helper.make_node("Transpose", ["k_source"], ["k"], name="transpose", perm=[1, 0, 2, 3]),
        helper.make_node("Conv", ["r", "k"], ["c2"], name="conv2"),
        helper.make_node("Block", ["c2"], ["f"], domain="my.domain", name="call"),
        helper.make_node("If", ["flag"], ["y"], name="if", then_branch=then, else_branch=other),
        helper.make_node("Relu", ["x"], ["twin1"], name="twin1"),
        helper.make_node("Relu", ["x"], ["twin2"], name="twin2"),
    ]
    initializers = [
        numpy_helper.from_array(array(4, 3, 3, 3), "w_source"),
        numpy_helper.from_array(array(1, 4, 1, 1), "bias"),
        numpy_helper.from_array(array(4, 4, 1, 1), "k_source"),
        numpy_helper.from_array(array(7), "unused_tensor"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [info("x", "n", 3, 8, 8), info("unused", "u", 2), helper.make_tensor_value_info("flag", TensorProto.BOOL, [])],
        [info("y", "n", 4, 8, 8), info("twin1", "n", 3, 8, 8), info("twin2", "n", 3, 8, 8)],
        initializers,
        doc_string="a graph",
        value_info=[info("r", "n", 4, 8, 8), info("c", "n", 4, 8, 8)],
    )
    for tensor in graph.initializer:
        tensor.doc_string = f"about {tensor.name}"
    graph.quantization_annotation.add(tensor_name="r").quant_parameter_tensor_names.add(key="SCALE", value="bias")
    body = [helper.make_node("Relu", ["a"], ["i"], name="body"), helper.make_node("Identity", ["i"], ["b"])]
    function = helper.make_function("my.domain", "Block", ["a"], ["b"], body, [helper.make_opsetid("", opset)])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("my.domain", 1)]
    model = helper.make_model(
        graph, functions=[function], opset_imports=imports, ir_version=10, producer_name="p", doc_string="a model"
    )
    describe(model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info, *then.node)
    describe(model.graph.node[7].attribute[1].g.node[1], *model.functions, *model.graph.input)
    return model


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, feeds)]


@pytest.mark.parametrize("opset", [9, 22])
def test_what_survives_keeps_every_field_and_the_numbers(opset: int, capfd: pytest.CaptureFixture[str]) -> None:
    model = rich(opset)
    onnx.checker.check_model(model, full_check=True)
    before = model.SerializeToString(deterministic=True)
    result = Simplify()(model)
    assert capfd.readouterr() == ("", "")
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(result.model, full_check=True)
    assert set(differences(model, result.model)) == {
        "graph.node[w]: vanished",
        # the bias is fused into the convolution
        "graph.node[c].input: ['x', 'w'] became ['x', 'w_source', 'c/simplified']",
        "graph.initializer[bias]: vanished",
        "graph.initializer[c/simplified]: appeared",
        "graph.node[a]: vanished",
        "graph.node[r].input: ['a'] became ['c']",
        # the transposed weight is computed
        "graph.node[k]: vanished",
        "graph.initializer[k_source]: vanished",
        "graph.initializer[k]: appeared",
        "graph.node[y].attribute[then_branch].g.node[q]: vanished",
        "graph.node[y].attribute[then_branch].g.node[t].input: ['q', 'two'] became ['f', 'two']",
    }
    changed = {change.node for change in result.changes}
    assert changed == {
        *("weight_identity", "conv", "bias_add", "r", "transpose", "sub_identity", "sub_mul"),
        *("bias", "c/simplified", "k_source", "k"),
    }
    for flag in (True, False):
        feeds = {"x": array(2, 3, 8, 8), "unused": array(1, 2), "flag": np.array(flag)}
        for new, old in zip(run(result.model, feeds), run(model, feeds), strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("field", ["type", "shape"])
def test_outputs_that_declare_less_than_the_checker_asks_for_stay_as_they_are(field: str) -> None:
    model, whole = rich(), Simplify()(rich())
    for output in model.graph.output:
        message = output if field == "type" else output.type.tensor_type
        message.ClearField(field)
    result = Simplify()(model)
    assert result.changes == whole.changes
    assert list(result.model.graph.output) == list(model.graph.output)
    assert result.model.graph.node == whole.model.graph.node


HUGE = """
<ir_version: 8, opset_import: ["" : 13, "acme" : 1]>
main (float[n,4,8,8] x) => (float[n,4,512,512] y)
<int64[4] size = {1, 4, 512, 512}, float[1,4,1,1] one = {1, 1, 1, 1}>
{
    huge = ConstantOfShape <value: tensor = float[1] {1}> (size)
    wide = Expand(one, size)
    strange = acme.Strange <level = 3> (x)
    kept = Identity(strange)
    partly = Mul(kept, wide)
    y = Mul(partly, huge)
}
"""


def test_no_huge_constant_is_made_and_custom_operators_stay() -> None:
    model = parser.parse_model(HUGE)
    result = Simplify()(model)
    assert [node.op_type for node in result.model.graph.node if node.op_type != "Identity"] == [
        "ConstantOfShape",
        "Expand",
        "Strange",
        "Mul",
        "Mul",
    ]
    assert "Identity" not in {node.op_type for node in result.model.graph.node}
    assert result.model.ByteSize() < 2 * model.ByteSize()
    assert result.model.graph.input == model.graph.input


def test_external_data_stays_external_where_it_is_not_rewritten(tmp_path: Path) -> None:
    whole = rich()
    external_data_helper.convert_model_to_external_data(whole, location="weights.bin", size_threshold=0)
    onnx.save(whole, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    result = Simplify(folder=tmp_path)(model)
    external = {t.name for t in result.model.graph.initializer if external_data_helper.uses_external_data(t)}
    assert external == {"w_source", "unused_tensor"}
    changed = "\n".join(differences(model, result.model))
    assert not any(f"initializer[{name}]" in changed for name in external)
    onnx.save(result.model, tmp_path / "new.onnx")
    feeds = {"x": array(2, 3, 8, 8), "unused": array(1, 2), "flag": np.array(True)}
    loaded = onnx.load(tmp_path / "new.onnx")
    for new, old in zip(run(loaded, feeds), run(rich(), feeds), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)


def test_external_data_behind_links_and_without_a_length_is_simplified(tmp_path: Path) -> None:
    whole = rich()
    external_data_helper.convert_model_to_external_data(whole, location="weights.bin", size_threshold=0)
    onnx.save(whole, tmp_path / "m.onnx")
    (tmp_path / "twin.bin").hardlink_to(tmp_path / "weights.bin")
    (tmp_path / "link.bin").symlink_to("weights.bin")
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        kept = [entry for entry in tensor.external_data if entry.key != "length"]
        kept[0].value = "link.bin" if tensor.name == "bias" else kept[0].value
        entries = [(entry.key, entry.value) for entry in kept]
        del tensor.external_data[:]
        for key, value in entries:
            tensor.external_data.add(key=key, value=value)
    result = Simplify(folder=tmp_path)(model)
    assert "Identity" not in {node.op_type for node in result.model.graph.node}
    assert not any(change.what.startswith("not simplified") for change in result.changes)


def refused(simplify: Simplify, model: onnx.ModelProto) -> str:
    before = model.SerializeToString(deterministic=True)
    result = simplify(model)
    assert result.model is model
    assert model.SerializeToString(deterministic=True) == before
    assert len(result.changes) == 1
    assert result.changes[0].what.startswith("not simplified: ")
    return result.changes[0].what.removeprefix("not simplified: ")


def test_a_model_that_onnxsim_cannot_take_comes_back_with_the_reason() -> None:
    model = rich()
    model.graph.node[1].input[0] = "nowhere"
    assert refused(Simplify(), model).startswith("onnxsim failed (")


def test_a_run_that_takes_too_long_is_stopped() -> None:
    assert refused(Simplify(time_limit_s=0.01), rich()) == "onnxsim took longer than 0.01 s"


@pytest.mark.parametrize(("given", "seen"), [(None, "1"), ("0", "0")])
def test_the_child_reports_nothing_unless_the_caller_says_so(
    given: str | None, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    if given is not None:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", given)
    worker = "import os, sys; sys.exit('telemetry ' + os.environ['ORT_DISABLE_TELEMETRY'])"
    monkeypatch.setattr("onnxlr_passes.simplify._WORKER", worker)
    assert f"telemetry {seen}" in refused(Simplify(), rich())
    assert os.environ.get("ORT_DISABLE_TELEMETRY") == given


def test_a_model_with_training_information_is_not_touched() -> None:
    model = rich()
    model.training_info.add().algorithm.name = "sgd"
    assert refused(Simplify(), model).startswith("it has training information")


def test_initializers_listed_as_inputs_are_not_touched() -> None:
    model = rich()
    model.graph.input.append(info("bias", 1, 4, 1, 1))
    assert refused(Simplify(), model) == "initializers are listed as inputs"


def test_a_model_too_large_is_not_touched() -> None:
    size = sum(4 * int(np.prod(tensor.dims)) for tensor in rich().graph.initializer) + 4  # and the branch's own
    assert refused(Simplify(largest_model=size - 1), rich()).startswith("its tensors take ")
    assert refused(Simplify(largest_model=size, time_limit_s=0.01), rich()).startswith("onnxsim took longer")


def test_external_data_without_its_folder_or_its_file_is_not_touched(tmp_path: Path) -> None:
    model = rich()
    external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    for tensor in model.graph.initializer:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
    assert refused(Simplify(), model) == "it has external data and no folder to read it from"
    assert refused(Simplify(folder=tmp_path), model).startswith("its external data cannot be read (")
