from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxlr.errors import ModelError
from onnxlr.target import graph_inputs, seeded_feeds
from onnxlr.validate.feeds import feeds_from_npz


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


class TestNpz:
    def feeds(self, tmp_path, model=IMAGES, limit=None, **arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return feeds_from_npz(tmp_path / "data.npz", graph_inputs(model), limit)

    def test_any_key_for_the_only_input_but_labels(self, tmp_path):
        data = np.arange(2 * 3 * 8 * 8, dtype=np.uint8).reshape(2, 3, 8, 8)
        (feed,) = self.feeds(tmp_path, images=data, labels=np.arange(2))
        assert feed["x"].dtype == np.float32
        np.testing.assert_array_equal(feed["x"], data)

    def test_own_key_goes_first(self, tmp_path):
        (feed,) = self.feeds(tmp_path, other=np.zeros((1, 3, 8, 8)), x=np.ones((1, 3, 8, 8)))
        assert feed["x"].min() == 1

    def test_free_batch_is_cut_into_feeds_that_hold_every_sample(self, tmp_path):
        data = np.arange(37, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 8, 8), np.float32)
        feeds = self.feeds(tmp_path, x=data)
        np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds]), data)
        assert len(feeds) == 3
        limited = self.feeds(tmp_path, x=data, limit=20)
        np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in limited]), data[:20])

    def test_fixed_batch_is_kept_and_a_partial_one_left_out(self, tmp_path):
        model = model_of(("x", TensorProto.FLOAT, [4, 2]))
        data = np.arange(22, dtype=np.float32).reshape(11, 2)
        feeds = self.feeds(tmp_path, model, x=data)
        assert [feed["x"].shape for feed in feeds] == [(4, 2), (4, 2)]
        np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds]), data[:8])
        with pytest.raises(ModelError, match="3 samples do not fill one batch of 4"):
            self.feeds(tmp_path, model, x=data, limit=3)

    def test_several_inputs_go_together(self, tmp_path):
        model = model_of(("a", TensorProto.FLOAT, ["n", 2]), ("b", TensorProto.INT64, ["n"]))
        (feed,) = self.feeds(tmp_path, model, a=np.ones((5, 2)), b=np.arange(5, dtype=np.int32))
        assert (feed["a"].shape, feed["b"].dtype) == ((5, 2), np.int64)
        with pytest.raises(ModelError, match="different numbers of samples"):
            self.feeds(tmp_path, model, a=np.ones((5, 2)), b=np.arange(4))
        with pytest.raises(ModelError, match="no array for the input 'b'"):
            self.feeds(tmp_path, model, a=np.ones((5, 2)))

    @pytest.mark.parametrize("shape", [(2, 3, 8, 9), (2, 3, 8), (3, 8, 8), ()])
    def test_other_shapes_are_refused_with_both(self, tmp_path, shape):
        with pytest.raises(ModelError, match="does not fit the model's input 'x'") as caught:
            self.feeds(tmp_path, x=np.zeros(shape))
        assert "x".join(map(str, shape)) in caught.value.message

    def test_types_that_cannot_be_cast(self, tmp_path):
        for bad in (np.full((1, 3, 8, 8), "word"), np.zeros((1, 3, 8, 8), np.complex64)):
            with pytest.raises(ModelError, match="cannot be cast"):
                self.feeds(tmp_path, x=bad)

    def test_no_samples(self, tmp_path):
        with pytest.raises(ModelError, match="0 samples"):
            self.feeds(tmp_path, x=np.zeros((0, 3, 8, 8)))

    def test_files_that_are_no_npz(self, tmp_path):
        inputs = graph_inputs(IMAGES)
        whole = tmp_path / "whole.npz"
        np.savez_compressed(whole, x=np.random.default_rng(0).random((20, 3, 8, 8)))
        (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:-200])
        damaged = bytearray(whole.read_bytes())
        damaged[2000:2100] = bytes(100)
        (tmp_path / "damaged.npz").write_bytes(damaged)
        (tmp_path / "text.npz").write_text("words\n")
        (tmp_path / "empty.npz").write_bytes(b"")
        np.save(tmp_path / "array.npy", np.zeros((1, 3, 8, 8)))
        np.savez(tmp_path / "objects.npz", x=np.array([{}, {}], dtype=object))
        for name in ("cut.npz", "damaged.npz", "text.npz", "empty.npz", "array.npy", "objects.npz", "gone.npz", "."):
            with pytest.raises(ModelError) as caught:
                feeds_from_npz(tmp_path / name, inputs)
            assert "\n" not in str(caught.value)
            assert str(tmp_path) in caught.value.message
