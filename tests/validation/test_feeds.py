from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxlr.calibration import DataOptions
from onnxlr.errors import ModelError
from onnxlr.target import graph_inputs, seeded_feeds
from onnxlr.validation.feeds import feeds_from_data


def model_of(*inputs):
    values = [helper.make_tensor_value_info(name, dtype, dims) for name, dtype, dims in inputs]
    nodes = [helper.make_node("Identity", [name], [f"out_{name}"]) for name, _, _ in inputs]
    outputs = [helper.make_tensor_value_info(f"out_{name}", dtype, None) for name, dtype, _ in inputs]
    return helper.make_model(helper.make_graph(nodes, "graph", values, outputs))


IMAGES = model_of(("x", TensorProto.FLOAT, ["n", 3, 8, 8]))


class TestSeeded:
    def test_same_seed_same_arrays(self):
        first, again = seeded_feeds(IMAGES, {}, seed=5, count=2), seeded_feeds(IMAGES, {}, seed=5, count=2)
        other = seeded_feeds(IMAGES, {}, seed=6, count=2)
        for index in range(2):
            np.testing.assert_array_equal(first[index]["x"], again[index]["x"])
            assert not np.array_equal(first[index]["x"], other[index]["x"])
        assert not np.array_equal(first[0]["x"], first[1]["x"])
        np.testing.assert_array_equal(seeded_feeds(IMAGES, {}, seed=5)[0]["x"], first[0]["x"])

    def test_types_and_shapes(self):
        kinds = {
            "f": TensorProto.FLOAT,
            "h": TensorProto.FLOAT16,
            "d": TensorProto.DOUBLE,
            "i": TensorProto.INT64,
            "u": TensorProto.UINT8,
            "b": TensorProto.BOOL,
            "s": TensorProto.STRING,
        }
        (feeds,) = seeded_feeds(model_of(*((name, dtype, ["n", 50]) for name, dtype in kinds.items())), {"f": (4, 50)})
        assert {name: array.dtype.str[1:] for name, array in feeds.items()} == {
            "f": "f4",
            "h": "f2",
            "d": "f8",
            "i": "i8",
            "u": "u1",
            "b": "b1",
            "s": "O",
        }
        assert all(array.shape == (4, 50) for array in feeds.values())
        assert set(np.unique(feeds["i"])) == set(np.unique(feeds["u"])) == {0, 1}
        assert abs(feeds["d"].mean()) < 0.3
        assert 0.8 < feeds["d"].std() < 1.2

    def test_scalars(self):
        (feeds,) = seeded_feeds(model_of(("x", TensorProto.FLOAT, []), ("i", TensorProto.INT64, [])), {})
        assert (feeds["x"].shape, feeds["i"].shape) == ((), ())

    def test_bfloat16_is_refused_by_name(self):
        with pytest.raises(ModelError, match=r"'x' \(bfloat16"):
            seeded_feeds(model_of(("x", TensorProto.BFLOAT16, [1, 3])), {})


class TestData:
    def feeds(self, tmp_path, samples=None, **arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return feeds_from_data(tmp_path / "data.npz", graph_inputs(IMAGES), {}, DataOptions(samples))

    def test_free_batch_is_cut_into_feeds_that_hold_every_sample(self, tmp_path):
        data = np.arange(37, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 8, 8), np.float32)
        feeds = self.feeds(tmp_path, x=data, labels=np.arange(37))
        np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds]), data)
        assert [len(feed["x"]) for feed in feeds] == [16, 16, 5]
        assert [len(feed["x"]) for feed in self.feeds(tmp_path, samples=20, x=data)] == [16, 4]

    def test_an_npy_file_and_a_folder_of_them(self, tmp_path):
        data = np.random.default_rng(0).random((5, 3, 8, 8), np.float32)
        np.save(tmp_path / "a.npy", data[:2])
        np.save(tmp_path / "b.npy", data[2:])
        for path, expected in ((tmp_path / "a.npy", data[:2]), (tmp_path, data)):
            feeds = feeds_from_data(path, graph_inputs(IMAGES), {}, DataOptions())
            np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds]), expected)

    def test_data_of_another_shape_than_the_one_asked_for_are_refused(self, tmp_path):
        free = graph_inputs(model_of(("x", TensorProto.FLOAT, ["n", 3, "h", "w"])))
        np.save(tmp_path / "a.npy", np.zeros((2, 3, 8, 8), np.float32))
        assert len(feeds_from_data(tmp_path, free, {"x": (1, 3, 8, 8)}, DataOptions())) == 1
        with pytest.raises(ModelError, match="3x8x8"):
            feeds_from_data(tmp_path, free, {"x": (1, 3, 16, 16)}, DataOptions())

    def test_other_shapes_are_refused(self, tmp_path):
        with pytest.raises(ModelError, match="does not fit the model's input 'x'"):
            self.feeds(tmp_path, x=np.zeros((2, 3, 8, 9)))
