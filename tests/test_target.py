from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxlr.errors import ModelError, UsageError
from onnxlr.target import Target, bind, channel_block, graph_inputs, resolve_shapes, run, usable_cores
from onnxlr.target.cuda import load_libraries
from onnxlr.target.machine import cpu_quota
from onnxlr.target.session import PROVIDERS


def model_of(*inputs, op="Identity", opset=17, initializer=(), attributes=None):
    """One node per model: ``op`` of all inputs; the output has no declared shape."""
    names = [value.name for value in inputs] + [tensor.name for tensor in initializer]
    node = helper.make_node(op, names if op == "Conv" else names[:1], ["y"], name="node", **(attributes or {}))
    output = helper.make_tensor_value_info("y", inputs[0].type.tensor_type.elem_type, None)
    graph = helper.make_graph([node], "graph", list(inputs), [output], initializer=list(initializer))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def value(name, *dims, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, dims)


def conv_model(dtype=np.float32, opset=17):
    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), dtype), "w")
    return model_of(value("x", "n", 3, 8, 8, dtype=weight.data_type), op="Conv", opset=opset, initializer=[weight])


class TestShapes:
    def test_free_batch_becomes_one(self):
        assert resolve_shapes(model_of(value("x", "n", 3, 8, 8)), {}) == {"x": (1, 3, 8, 8)}

    def test_other_free_size_must_be_given_and_the_hint_is_the_option(self):
        with pytest.raises(UsageError) as caught:
            resolve_shapes(model_of(value("input", "N", 1, "H", "W")), {})
        assert "--shape input=1x1x224x224" in caught.value.hint
        assert "NxHxW" not in caught.value.message
        assert "Nx1xHxW" in caught.value.message

    def test_given_shape_is_used_whatever_holds_it(self):
        model = model_of(value("x", "n", 3, "h", "w"))
        assert resolve_shapes(model, {"x": (2, 3, 5, 7)}) == {"x": (2, 3, 5, 7)}
        assert resolve_shapes(model, Target(threads=1, shapes=(("x", (2, 3, 5, 7)),))) == {"x": (2, 3, 5, 7)}

    def test_a_symbol_given_for_one_input_holds_for_the_others(self):
        model = model_of(value("x", "n", "length"), value("mask", "n", "length"), value("z", "n"))
        assert resolve_shapes(model, {"x": (4, 9)}) == {"x": (4, 9), "mask": (4, 9), "z": (4,)}

    def test_initialisers_listed_as_inputs_are_not_fed(self):
        weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
        model = model_of(value("x", 1, 3, 8, 8), value("w", 4, 3, 3, 3), op="Conv")
        model.graph.initializer.append(weight)
        assert [item.name for item in graph_inputs(model)] == ["x"]

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"x": (1, 4, 8, 8)}, "--shape x=1x3x8x8"),
            ({"x": (1, 3, 8)}, "--shape x="),
            ({"x": (0, 3, 8, 8)}, "at least 1"),
            ({"q": (1,)}, "its inputs: x"),
        ],
    )
    def test_conflicting_shapes_are_usage_errors(self, given, says):
        with pytest.raises(UsageError) as caught:
            resolve_shapes(model_of(value("x", "n", 3, "h", 8)), given)
        assert says in str(caught.value)

    def test_unknown_rank_must_be_given(self):
        model = model_of(helper.make_tensor_value_info("x", TensorProto.FLOAT, None))
        with pytest.raises(UsageError, match="rank of input 'x'"):
            resolve_shapes(model, {})
        assert resolve_shapes(model, {"x": (2, 3)}) == {"x": (2, 3)}

    def test_scalars_and_negative_sizes(self):
        assert resolve_shapes(model_of(value("x")), {}) == {"x": ()}
        assert resolve_shapes(model_of(value("x", -1, 3)), {}) == {"x": (1, 3)}

    def test_sequences_are_refused(self):
        sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
        model = model_of(value("x", 1))
        model.graph.input.append(sequence)
        with pytest.raises(ModelError, match="input 's' is a sequence"):
            graph_inputs(model)


class TestThreads:
    def test_default_is_every_usable_core(self):
        assert Target().threads == usable_cores() >= 1

    def test_more_than_the_cores_is_refused(self):
        with pytest.raises(UsageError, match="physical cores"):
            Target(threads=usable_cores() + 1)
        with pytest.raises(UsageError):
            Target(threads=-1)

    def test_cgroup_quota_version_2_then_1(self, tmp_path):
        assert cpu_quota(tmp_path) is None
        (tmp_path / "cpu").mkdir()
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
        assert cpu_quota(tmp_path) == 1.5
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
        assert cpu_quota(tmp_path) is None
        (tmp_path / "cpu.max").write_text("max 100000\n")
        assert cpu_quota(tmp_path) is None
        (tmp_path / "cpu.max").write_text("50000 100000\n")
        assert cpu_quota(tmp_path) == 0.5
        assert usable_cores(tmp_path) == 1

    def test_hyper_threads_of_one_core_count_once(self, tmp_path):
        cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        for cpu in cpus:
            folder = tmp_path / f"cpu{cpu}" / "topology"
            folder.mkdir(parents=True)
            (folder / "physical_package_id").write_text("0\n")
            (folder / "core_id").write_text("0\n")
        assert usable_cores(tmp_path, tmp_path) == 1


class TestSession:
    def test_runs_bytes_and_files(self, tmp_path):
        model = model_of(value("x", "n", 3))
        onnx.save(model, tmp_path / "m.onnx")
        feeds = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
        for source in (model.SerializeToString(), tmp_path / "m.onnx"):
            session = Target(threads=1).session(source)
            np.testing.assert_array_equal(run(session, feeds)[0], feeds["x"])

    def test_session_is_pinned(self):
        options = Target(threads=1).session(model_of(value("x", 1)).SerializeToString()).get_session_options()
        assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
        assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        assert options.get_session_config_entry("session.force_spinning_stop") == "1"

    def test_half_precision_convolutions_run_on_the_cpu(self):
        session = Target(threads=1).session(conv_model(np.float16).SerializeToString())
        assert run(session, {"x": np.ones((1, 3, 8, 8), np.float16)})[0].dtype == np.float16

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"", "No graph"),
            (b"not a model at all", "protobuf"),
            (conv_model(opset=999).SerializeToString(), "Opset 999 is under development. Current official support"),
            (model_of(value("x", 1), op="Nonsense").SerializeToString(), "Nonsense"),
        ],
    )
    def test_refused_models_are_one_line(self, data, says, capfd):
        with pytest.raises(ModelError) as caught:
            Target(threads=1).session(data)
        assert says in caught.value.message
        assert "\n" not in str(caught.value)
        assert "onnxruntime_src" not in caught.value.message
        assert capfd.readouterr() == ("", "")

    def test_missing_file_is_named(self, tmp_path):
        with pytest.raises(ModelError, match=r"gone\.onnx"):
            Target(threads=1).session(tmp_path / "gone.onnx")

    def test_feeds_that_do_not_fit_are_one_line(self, capfd):
        session = Target(threads=1).session(conv_model().SerializeToString())
        for feeds in ({"x": np.ones((1, 4, 8, 8), np.float32)}, {}, {"x": np.ones((1, 3, 8, 8), np.float64)}):
            with pytest.raises(ModelError) as caught:
                run(session, feeds)
            assert "\n" not in str(caught.value)
            with pytest.raises(ModelError):
                bind(session, feeds)
        assert capfd.readouterr() == ("", "")

    def test_bound_calls_run(self):
        session = Target(threads=1).session(conv_model().SerializeToString())
        bind(session, {"x": np.ones((1, 3, 8, 8), np.float32)})()
        text = Target(threads=1).session(model_of(value("x", 2, dtype=TensorProto.STRING)).SerializeToString())
        bind(text, {"x": np.array(["a", "b"], dtype=object)})()

    def test_unknown_provider_is_a_usage_error(self):
        with pytest.raises(UsageError, match="unknown provider 'gpu'"):
            Target(provider="gpu")

    @pytest.mark.parametrize("provider", [name for name in PROVIDERS if name != "cpu"])
    def test_missing_provider_says_what_to_install(self, provider):
        target = Target(provider=provider, threads=1)
        ort_name = {"cuda": "CUDA", "tensorrt": "Tensorrt", "openvino": "OpenVINO"}[provider] + "ExecutionProvider"
        if ort_name in ort.get_available_providers():
            pytest.skip(f"{ort_name} is installed")
        with pytest.raises(ModelError, match=r"pip install '?onnxruntime-") as caught:
            target.session(model_of(value("x", 1)).SerializeToString())
        assert caught.value.exit_code == 3

    @pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
    def test_installed_provider_that_cannot_start_says_why_and_no_more(self, provider, capfd):
        ort_name = {"cuda": "CUDA", "tensorrt": "Tensorrt"}[provider] + "ExecutionProvider"
        if ort_name not in ort.get_available_providers():
            pytest.skip(f"{ort_name} is not installed")
        if not load_libraries():
            pytest.skip("nothing is lacking here")
        with pytest.raises(ModelError, match=r"could not be started: .* cannot be loaded") as caught:
            Target(provider=provider, threads=1).session(model_of(value("x", 1)).SerializeToString())
        assert caught.value.exit_code == 3
        assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("printed", "lacking"),
    [
        ("", "this machine has no CUDA driver (libnothing.so.1 cannot be loaded)"),
        ("Failed to load /env/lib/libcufft.so.12: too old\n", "this machine has no CUDA driver"),
        (
            "Failed to load /e/libcudart.so.13: old\nFailed to load libcudart.so.13: libcudart.so.13: no such file\n",
            "libcudart.so.13 cannot be loaded (no such file)",
        ),
    ],
)
def test_what_cuda_lacks_is_told_and_not_printed(printed, lacking, capfd, monkeypatch):
    monkeypatch.setattr(ort, "preload_dlls", lambda: sys.stdout.write(printed), raising=False)
    assert load_libraries.__wrapped__("libnothing.so.1").startswith(lacking)
    assert capfd.readouterr() == ("", "")


def test_description_names_versions_and_pinned_options():
    description = Target(provider="cuda", threads=1).describe()
    assert description.options == {"cudnn_conv_algo_search": "EXHAUSTIVE", "use_tf32": "0"}
    assert description.onnxruntime == ort.__version__
    assert description.threads == 1
    assert description.versions["numpy"] == np.__version__
    assert set(description.versions) == {"onnxlr", "onnx", "numpy", "python"}
    assert description.cpu


def test_channel_block_is_a_kernel_block():
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    assert channel_block() in {8, 16}
    if "avx512f" in flags:
        assert channel_block() == 16
    assert channel_block("cuda") == 8
