from __future__ import annotations

import hashlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from onnxlr.errors import ModelError
from onnxlr.model_io import dense_size, every_tensor, load, runnable, save, tensor_array
from tests.hostile.models import SIZE, everywhere, plain, refer, run, weight, write_external


def is_external(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL


def test_every_tensor_of_every_place_is_found_once() -> None:
    names = sorted(tensor.name for tensor in every_tensor(everywhere()))
    assert names == ["c", "else_w", "fw", "k", "s", "s_indices", "then_w", "w"]


def test_a_self_contained_model_survives_load_and_save(tmp_path: Path) -> None:
    proto = everywhere()
    source, copy = tmp_path / "a.onnx", tmp_path / "b.onnx"
    source.write_bytes(proto.SerializeToString(deterministic=True))
    loaded = load(source)
    assert loaded.proto == proto
    assert (loaded.path, loaded.folder, loaded.external, loaded.files) == (source, tmp_path, False, (source,))
    assert save(loaded.proto, copy) == loaded.size == source.stat().st_size
    assert copy.read_bytes() == source.read_bytes()
    assert loaded.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()


def test_small_external_data_is_inlined(tmp_path: Path) -> None:
    proto = everywhere()
    path = tmp_path / "m.onnx"
    write_external(proto, path)
    data = tmp_path / "weights.bin"
    loaded = load(str(path))
    assert loaded.external
    assert loaded.size == path.stat().st_size + data.stat().st_size
    assert loaded.sha256 == hashlib.sha256(path.read_bytes() + data.read_bytes()).hexdigest()
    assert loaded.files == (path, data)
    for ours, theirs in zip(every_tensor(loaded.proto), every_tensor(proto), strict=True):
        assert not is_external(ours)
        assert np.array_equal(numpy_helper.to_array(ours), numpy_helper.to_array(theirs))
    assert np.array_equal(run(loaded.proto.SerializeToString()), run(proto.SerializeToString()))


def test_large_external_data_stays_and_streams(tmp_path: Path) -> None:
    proto = everywhere()
    path = tmp_path / "m.onnx"
    referring = write_external(proto, path)
    loaded = load(path, inline_limit=0)
    assert loaded.proto == referring
    for ours, theirs in zip(every_tensor(loaded.proto), every_tensor(proto), strict=True):
        assert np.array_equal(tensor_array(ours, loaded.folder), numpy_helper.to_array(theirs))
    with runnable(loaded.proto, loaded.folder) as private:
        assert isinstance(private, Path)
        assert private.parent.stat().st_mode & 0o777 == 0o700
        assert np.array_equal(run(private), run(proto.SerializeToString()))
    assert not private.parent.exists()


def test_runnable_gives_bytes_or_by_its_limit_a_path() -> None:
    proto = plain()
    with runnable(proto, None) as small:
        assert isinstance(small, bytes)
    with runnable(proto, None, limit=100) as large:
        assert isinstance(large, Path)
        assert np.array_equal(run(large), run(small))


def test_inlining_stops_at_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    proto = plain()
    write_external(proto, path)
    length = SIZE * SIZE * 4
    assert load(path, inline_limit=length).proto.graph.initializer[0].HasField("raw_data")
    assert is_external(load(path, inline_limit=length - 1).proto.graph.initializer[0])


def test_dense_size_is_that_of_the_model_in_one_file(tmp_path: Path) -> None:
    proto = everywhere()
    write_external(proto, tmp_path / "m.onnx")
    external = load(tmp_path / "m.onnx", inline_limit=0)
    size = len(proto.SerializeToString())
    assert dense_size(proto, None) == pytest.approx(size, abs=8 * 8)
    assert dense_size(external.proto, external.folder) == pytest.approx(size, abs=8 * 80)
    assert size > 7 * SIZE * SIZE * 4  # so neither tolerance hides a tensor


NUMBERS = [np.float64, np.float32, np.float16, np.int64, np.int8, np.bool_, np.complex64]
OTHER_NUMBERS = [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4, ml_dtypes.uint4]


@pytest.mark.parametrize("kind", [*NUMBERS, *OTHER_NUMBERS])
def test_external_values_of_every_type(kind: type, tmp_path: Path) -> None:
    values = np.array([[0, 1, 1], [3, -2, 5], [7, 1, 0]]).clip(0).astype(kind)
    tensor = numpy_helper.from_array(values, "t")
    raw = tensor.raw_data
    (tmp_path / "t.bin").write_bytes(b"12345" + raw + b"6")
    inside = tensor_array(tensor, None)
    refer(tensor, "t.bin", 5, len(raw))
    outside = tensor_array(tensor, tmp_path)
    assert inside.dtype == outside.dtype
    assert np.array_equal(inside, values)
    assert np.array_equal(outside, values)


def test_offset_and_length_may_be_left_out(tmp_path: Path) -> None:
    tensor = weight("w", 0)
    raw = tensor.raw_data
    (tmp_path / "t.bin").write_bytes(raw)
    refer(tensor, "t.bin", 0, None)
    del tensor.external_data[1]
    assert tensor_array(tensor, tmp_path).tobytes() == raw


def test_a_model_in_memory() -> None:
    proto = plain()
    loaded = load(proto)
    data = proto.SerializeToString(deterministic=True)
    assert loaded.proto is proto
    assert (loaded.path, loaded.folder, loaded.size) == (None, None, len(data))
    assert loaded.sha256 == hashlib.sha256(data).hexdigest()


def test_external_data_of_a_model_in_memory_cannot_be_found(tmp_path: Path) -> None:
    referring = write_external(plain(), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="given in memory; give the path"):
        load(referring)


def test_a_download_cache_of_links(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    proto = plain()
    write_external(proto, blobs / "aaaa", "model.onnx.data")
    (blobs / "model.onnx.data").rename(blobs / "bbbb")
    (snapshot / "model.onnx").symlink_to("../../blobs/aaaa")
    (snapshot / "model.onnx.data").symlink_to("../../blobs/bbbb")
    assert load(snapshot / "model.onnx").proto == proto
    large = load(snapshot / "model.onnx", inline_limit=0)
    assert np.array_equal(
        tensor_array(large.proto.graph.initializer[0], large.folder), tensor_array(weight("w", 0), None)
    )


def test_a_hard_linked_data_file_is_as_good_as_any(tmp_path: Path) -> None:
    write_external(plain(), tmp_path / "m.onnx")
    (tmp_path / "again").hardlink_to(tmp_path / "weights.bin")
    assert load(tmp_path / "m.onnx").proto == plain()
