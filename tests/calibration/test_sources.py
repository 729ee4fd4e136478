from __future__ import annotations

import gc
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxlr.calibration import DataOptions, from_iterable, open_source
from onnxlr.errors import ModelError, OnnxlrError, UsageError
from onnxlr.target import Input

ALL = DataOptions()


def free(*dims, name="x", dtype=np.float32):
    return Input(name, np.dtype(dtype), ("n", *dims))


PAIRS = (free(2),)


def opened(path, inputs=PAIRS, shapes=(), options=ALL):
    return open_source(path, inputs, dict(shapes), options)


def stream(source, size=3):
    batches = list(source.batches(size))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def saved(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def one_line(error: OnnxlrError, *words):
    assert "\n" not in str(error)
    for word in words:
        assert str(word) in str(error)


class TestStream:
    @settings(max_examples=30, deadline=None)
    @given(
        data=hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=4, max_side=7), elements=st.integers(-9, 9)),
        sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        samples=st.none() | st.integers(1, 9),
        how=st.sampled_from(["npz", "deflated", "npy", "folder", "fortran", "fortran.npz", "iterable"]),
    )
    def test_batch_size_changes_nothing(self, tmp_path_factory, data, sizes, samples, how):
        folder = tmp_path_factory.mktemp("data")
        inputs, options = (free(*data.shape[1:]),), DataOptions(samples, seed=4)
        if how == "npz":
            path = saved(folder, x=data)
        elif how == "deflated":
            path = folder / "data.npz"
            np.savez_compressed(path, x=data)
        elif how in {"npy", "fortran"}:
            path = folder / "data.npy"
            np.save(path, np.asfortranarray(data) if how == "fortran" else data)
        elif how == "fortran.npz":
            path = saved(folder, x=np.asfortranarray(data))
        else:
            path = folder
            np.save(folder / "a.npy", data[:1])
            np.savez(folder / "b.npz", data[1:])
        source = from_iterable(iter([{"x": data}]), inputs, {}, options) if how == "iterable" else opened(
            path, inputs, options=options
        )  # fmt: skip
        with source:
            first, second = (stream(source, size)["x"] for size in sizes)
            lengths = [len(batch["x"]) for batch in source.batches(sizes[0])]
        np.testing.assert_array_equal(first, second)
        assert source.count == len(first) == min(samples or len(data), len(data))
        assert all(length == sizes[0] for length in lengths[:-1])
        assert 0 < lengths[-1] <= sizes[0]
        if samples is None:
            np.testing.assert_array_equal(first, data)

    def test_draws_are_seeded_nested_and_in_order(self, tmp_path):
        path = saved(tmp_path, x=np.arange(100).reshape(50, 2))

        def drawn(samples, seed):
            return stream(opened(path, options=DataOptions(samples, seed)))["x"][:, 0].tolist()

        assert drawn(10, 1) == drawn(10, 1) == sorted(drawn(10, 1))
        assert drawn(10, 1) != drawn(10, 2)
        assert drawn(10, 1) != list(range(0, 20, 2))
        assert set(drawn(10, 1)) < set(drawn(20, 1))

    def test_part_of_a_source(self, tmp_path):
        source = opened(saved(tmp_path, x=np.arange(40).reshape(20, 2)), options=DataOptions(10))
        whole = stream(source)["x"]
        np.testing.assert_array_equal(stream(source.only([1, 4, 9]))["x"], whole[[1, 4, 9]])
        np.testing.assert_array_equal(stream(source.only(range(3, 7)))["x"], whole[3:7])

    def test_fixed_batch_is_kept_and_the_rest_noted(self, tmp_path):
        inputs = (Input("x", np.dtype(np.float32), (4, 2)),)
        source = opened(saved(tmp_path, x=np.arange(22).reshape(11, 2)), inputs)
        assert [batch["x"].shape for batch in source.batches(3)] == [(4, 2), (4, 2)]
        assert source.count == 8
        assert "last 3 samples are left out" in source.notes[0]
        with pytest.raises(ModelError, match="3 samples do not fill one batch of 4"):
            opened(saved(tmp_path, x=np.zeros((3, 2))), inputs)

    @pytest.mark.parametrize("kind", ["npy", "npz", "deflated", "iterable"])
    def test_data_larger_than_the_bound_stream(self, tmp_path, kind):
        rows, width = 400, 1 << 16  # 100 MB of float32; the bound is a twentieth
        inputs = (free(width),)
        block = np.ones((4, width), np.float32)
        path = tmp_path / ("data.npy" if kind == "npy" else "data.npz")
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
        if kind == "npy":
            with path.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                for _ in range(rows // 4):
                    file.write(block.data)
        elif kind != "iterable":
            method = zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED
            with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive, archive.open("x.npy", "w") as file:
                np.lib.format.write_array_header_1_0(file, header)
                for _ in range(rows // 4):
                    file.write(block.data)
        tracemalloc.start()
        try:
            feeds = ({"x": block} for _ in range(rows // 4))
            with from_iterable(feeds, inputs, {}, ALL) if kind == "iterable" else opened(path, inputs) as source:
                seen = sum(int(batch["x"].sum()) for batch in source.batches(4))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert seen == rows * width
        assert peak < rows * width * 4 / 20


class TestFit:
    def test_labels_are_passed_over_and_any_key_serves_the_only_input(self, tmp_path):
        data = np.arange(6, dtype=np.uint8).reshape(3, 2)
        for key in ("labels", "label", "y"):
            got = stream(opened(saved(tmp_path, images=data, **{key: np.arange(3)})))["x"]
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got, data)

    def test_keys(self, tmp_path):
        two = (free(2, name="a"), Input("b", np.dtype(np.int64), ("n",)))
        path = saved(tmp_path, a=np.ones((5, 2)), b=np.arange(5, dtype=np.int32))
        assert stream(opened(path, two))["b"].dtype == np.int64
        for arrays, words in (
            ({"a": np.ones((5, 2))}, "no array for the input 'b'"),
            ({"a": np.ones((5, 2)), "b": np.arange(4)}, "different numbers of samples: 'a' 5, 'b' 4"),
            ({"a": np.ones((5, 2)), "b": np.arange(5), "c": np.ones(1)}, "'c' that is no input"),
        ):
            with pytest.raises(ModelError) as caught:
                opened(saved(tmp_path, **arrays), two)
            one_line(caught.value, words, "data.npz")

    @pytest.mark.parametrize("shape", [(2, 3), (2, 2, 2), (), (3,), (2, 0)])
    def test_other_shapes_are_refused(self, tmp_path, shape):
        with pytest.raises(ModelError, match="does not fit the model's input 'x'") as caught:
            opened(saved(tmp_path, x=np.zeros(shape)))
        one_line(caught.value, "x".join(map(str, shape)) or "scalar")

    def test_given_shape_fixes_free_sizes(self, tmp_path):
        path = saved(tmp_path, x=np.zeros((5, 3)))
        assert opened(path, (free("w"),), {"x": (1, 3)}).shapes == {"x": (3,)}
        with pytest.raises(ModelError, match="does not fit"):
            opened(path, (free("w"),), {"x": (1, 4)})

    def test_one_sample_without_its_axis(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([1, 2]))
        np.save(tmp_path / "b.npy", np.array([3, 4]))
        np.testing.assert_array_equal(stream(opened(tmp_path))["x"], [[1, 2], [3, 4]])

    def test_files_of_a_folder_agree(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((1, 2)))
        np.save(tmp_path / "b.npy", np.zeros((1, 3)))
        with pytest.raises(ModelError, match="all the same shape") as caught:
            opened(tmp_path, (free("w"),))
        one_line(caught.value, "a.npy", "b.npy")

    def test_samples_of_several_sizes_where_they_may_vary(self, tmp_path):
        sizes = (2, 2, 3, 2)
        for i, size in enumerate(sizes):
            np.save(tmp_path / f"{i}.npy", np.full((2, size), i))
        options = DataOptions(varied=True)
        feeds = [{"x": np.full((2, size), i)} for i, size in enumerate(sizes)]
        with from_iterable(feeds, (free("w"),), {}, options) as copied:
            for source in (opened(tmp_path, (free("w"),), options=options), copied):
                shapes = [batch["x"].shape for batch in source.batches(3)]
                assert shapes == [(3, 2), (1, 2), (2, 3), (2, 2)]
                assert [int(batch["x"][0, 0]) for batch in source.batches(8)] == [0, 2, 3]
        for refusing in (free(2), Input("x", np.dtype(np.float32), (2, "w"))):
            with pytest.raises(ModelError):
                opened(tmp_path, (refusing,), options=options)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_values_that_are_not_finite_are_located(self, tmp_path, bad):
        data = np.zeros((9, 2))
        data[7, 1] = bad
        with pytest.raises(ModelError, match=rf"sample 7 has the value {bad} at \(1,\)"):
            stream(opened(saved(tmp_path, x=data)))

    def test_casts(self, tmp_path):
        whole = (free(2, dtype=np.uint8),)
        assert stream(opened(saved(tmp_path, x=np.full((1, 2), 3.0)), whole))["x"].dtype == np.uint8
        for value in (0.5, 256.0, -1.0):
            with pytest.raises(ModelError, match="cannot be fed"):
                stream(opened(saved(tmp_path, x=np.full((1, 2), value)), whole))
        with pytest.raises(ModelError, match="scale the data"):
            stream(opened(saved(tmp_path, x=np.full((1, 2), 1e6)), (free(2, dtype=np.float16),)))
        for words in (np.full((1, 2), "word"), np.zeros((1, 2), np.complex64)):
            with pytest.raises(ModelError, match="cannot be cast"):
                opened(saved(tmp_path, x=words))


class TestDamage:
    def test_files_that_cannot_be_read(self, tmp_path):
        whole = tmp_path / "whole.npz"
        np.savez_compressed(whole, x=np.random.default_rng(0).random((2000, 2)))
        raw = whole.read_bytes()
        (tmp_path / "cut.npz").write_bytes(raw[:-200])
        (tmp_path / "damaged.npz").write_bytes(raw[:2000] + bytes(100) + raw[2100:])
        (tmp_path / "text.npz").write_text("words\n")
        (tmp_path / "empty.npz").write_bytes(b"")
        np.save(tmp_path / "array.npy", np.zeros((8, 2)))
        (tmp_path / "cut.npy").write_bytes((tmp_path / "array.npy").read_bytes()[:-1])
        np.savez(tmp_path / "objects.npz", x=np.array([{}, {}], dtype=object))
        for name in ("cut.npz", "damaged.npz", "text.npz", "empty.npz", "cut.npy", "objects.npz", "gone.npz"):
            with pytest.raises(ModelError) as caught:
                stream(opened(tmp_path / name))
            one_line(caught.value, tmp_path / name)

    @settings(max_examples=60, deadline=None)
    @given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
    def test_any_changed_byte_is_one_line_or_readable(self, tmp_path_factory, place, byte):
        path = tmp_path_factory.mktemp("data") / "data.npz"
        np.savez_compressed(path, x=np.arange(8.0).reshape(4, 2))
        raw = bytearray(path.read_bytes())
        raw[place % len(raw)] = byte
        path.write_bytes(raw)
        try:
            assert stream(opened(path))["x"].shape[1] == 2
        except ModelError as error:
            one_line(error, path)

    def test_nothing_to_read(self, tmp_path):
        with pytest.raises(ModelError, match="0 samples"):
            opened(tmp_path)
        with pytest.raises(ModelError, match="0 samples"):
            opened(saved(tmp_path, x=np.zeros((0, 2))))
        with pytest.raises(UsageError, match=r"not an \.npz file"):
            opened(tmp_path / "data.bin")
        with pytest.raises(UsageError, match="--samples 0"):
            DataOptions(samples=0)


class Reader:
    def __init__(self, feeds):
        self.feeds, self.place = feeds, 0

    def get_next(self):
        self.place += 1
        return self.feeds[self.place - 1] if self.place <= len(self.feeds) else None

    def rewind(self):
        self.place = 0


class TestIterable:
    def test_a_reader_is_read_from_its_beginning(self):
        reader = Reader([{"x": np.full((2, 2), index)} for index in range(3)])
        reader.get_next()
        with from_iterable(reader, PAIRS, {}, ALL) as source:
            assert stream(source, 4)["x"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]

    def test_reading_stops_at_the_samples_asked_for(self):
        def endless():
            while True:
                yield {"x": np.ones(2)}

        with from_iterable(endless(), PAIRS, {}, DataOptions(5)) as source:
            assert source.count == len(stream(source)["x"]) == 5

    def test_the_copy_goes_with_the_source(self, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with from_iterable({"x": np.ones((2, 2))}, PAIRS, {}, ALL):
            assert len(list(tmp_path.iterdir())) == 1
        assert not list(tmp_path.iterdir())
        source = from_iterable({"x": np.ones((2, 2))}, PAIRS, {}, ALL)
        del source
        gc.collect()
        assert not list(tmp_path.iterdir())
        with pytest.raises(ModelError, match="feed 1: 'x' has shape 1x3"):
            from_iterable([{"x": np.ones((1, 2))}, {"x": np.ones((1, 3))}], PAIRS, {}, ALL)
        assert not list(tmp_path.iterdir())

    def test_bad_feeds(self):
        for feeds, kind, words in (
            ([], ModelError, "0 samples"),
            ([np.ones((1, 2))], UsageError, "feed 0 is a ndarray"),
            ([{"x": np.array([[1, np.nan]])}], ModelError, "sample 0"),
        ):
            with pytest.raises(kind) as caught:
                from_iterable(feeds, PAIRS, {}, ALL)
            one_line(caught.value, words)
