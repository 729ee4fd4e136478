from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from onnxlr.errors import ModelError, UsageError
from onnxlr.model_io import every_tensor, load, save, tensor_array, write_text
from tests.hostile.models import SIZE, everywhere, matmul, model, plain, refer, weight, write_external

if TYPE_CHECKING:
    from pathlib import Path


def locations(proto: onnx.ModelProto) -> dict[str, dict[str, str]]:
    return {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in every_tensor(proto)
        if tensor.data_location == TensorProto.EXTERNAL
    }


def test_external_output_keeps_what_is_not_an_initializer_inside(tmp_path: Path) -> None:
    proto = everywhere()
    before = proto.SerializeToString()
    out = tmp_path / "out.onnx"
    written = save(proto, out, external=True)
    assert proto.SerializeToString() == before
    assert written == out.stat().st_size + (tmp_path / "out.onnx.data").stat().st_size
    saved = onnx.load(out, load_external_data=False)
    length = str(SIZE * SIZE * 4)
    assert locations(saved) == {
        name: {"location": "out.onnx.data", "offset": str(8192 * place), "length": length}
        for place, name in enumerate(("w", "else_w", "then_w"))
    }
    assert load(out).proto == proto
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]


def test_a_model_over_the_limit_goes_external_by_itself(tmp_path: Path) -> None:
    proto = everywhere()
    size = len(proto.SerializeToString())
    save(proto, tmp_path / "in.onnx", limit=size)
    assert not locations(onnx.load(tmp_path / "in.onnx", load_external_data=False))
    save(proto, tmp_path / "ex.onnx", limit=size - 100)
    assert locations(onnx.load(tmp_path / "ex.onnx", load_external_data=False)).keys() == {"w", "then_w", "else_w"}
    save(proto, tmp_path / "all.onnx", limit=2000)
    everything = {"w", "then_w", "else_w", "k", "fw", "s", "s_indices"}
    assert locations(onnx.load(tmp_path / "all.onnx", load_external_data=False)).keys() == everything
    assert load(tmp_path / "all.onnx").proto == proto


def test_external_tensors_are_streamed_to_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    proto = everywhere()
    source = tmp_path / "source" / "m.onnx"
    write_external(proto, source)
    large = load(source, inline_limit=0)
    out = tmp_path / "out.onnx"
    save(large.proto, out, folder=large.folder, external=True)
    again = load(out, inline_limit=0)
    assert {entry["location"] for entry in locations(again.proto).values()} == {"out.onnx.data"}
    for ours, theirs in zip(every_tensor(again.proto), every_tensor(proto), strict=True):
        assert np.array_equal(tensor_array(ours, tmp_path), numpy_helper.to_array(theirs))
    save(large.proto, tmp_path / "whole.onnx", folder=large.folder)
    assert not locations(onnx.load(tmp_path / "whole.onnx", load_external_data=False))
    assert load(tmp_path / "whole.onnx").proto == load(source).proto


def test_small_external_tensors_move_into_the_model(tmp_path: Path) -> None:
    write_external(everywhere(), tmp_path / "m.onnx")
    large = load(tmp_path / "m.onnx", inline_limit=0)
    assert "c" in locations(large.proto)
    save(large.proto, tmp_path / "out.onnx", folder=tmp_path, external=True)
    assert "c" not in locations(load(tmp_path / "out.onnx", inline_limit=0).proto)


def test_shared_external_bytes_stay_shared(tmp_path: Path) -> None:
    length = SIZE * SIZE * 4
    (tmp_path / "w.bin").write_bytes(weight("w", 0).raw_data)
    tied = [TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[SIZE, SIZE]) for name in ("w", "v")]
    for tensor in tied:
        refer(tensor, "w.bin", 0, length)
    save(
        model([matmul("w", "x", "a"), matmul("v", "a", "y")], tied), tmp_path / "o.onnx", folder=tmp_path, external=True
    )
    assert (tmp_path / "o.onnx.data").stat().st_size == length


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        out = tmp_path / name / "m.onnx"
        save(everywhere(), out, external=True)
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.parent.iterdir())])
    assert digests[0] == digests[1]
    assert len(digests[0]) == 2


def test_typed_data_survives_external_output(tmp_path: Path) -> None:
    values = numpy_helper.to_array(weight("w", 0))
    typed = onnx.helper.make_tensor("w", TensorProto.FLOAT, values.shape, values.reshape(-1))
    assert not typed.HasField("raw_data")
    proto = model([matmul()], [typed])
    save(proto, tmp_path / "o.onnx", external=True)
    assert load(tmp_path / "o.onnx").proto == proto


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_new_files_have_the_mode_the_umask_leaves(mask: int, tmp_path: Path) -> None:
    old = os.umask(mask)
    try:
        save(plain(), tmp_path / "o.onnx", external=True)
    finally:
        os.umask(old)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~mask}


def test_force_replaces_and_keeps_the_mode(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    out.write_text("old")
    out.chmod(0o640)
    save(plain(), out, force=True)
    assert load(out).proto == plain()
    assert out.stat().st_mode & 0o777 == 0o640


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    out, data = tmp_path / "o.onnx", tmp_path / "o.onnx.data"
    for existing in (out, data):
        existing.write_text("mine")
        with pytest.raises(UsageError, match=f"{existing} exists; .*--force"):
            save(plain(), out, external=True)
        assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
        existing.unlink()


def test_a_dangling_link_counts_as_existing(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    out.symlink_to("nowhere")
    with pytest.raises(UsageError, match="exists"):
        save(plain(), out)
    save(plain(), out, force=True)
    assert not out.is_symlink()
    assert not (tmp_path / "nowhere").exists()


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for out in (pipe, link):
        with pytest.raises(ModelError, match="it is a device, a pipe or a socket"):
            save(plain(), out, force=True)
        with pytest.raises(ModelError, match="it is a device, a pipe or a socket"):
            write_text(out, "text", force=True)
    assert pipe.is_fifo()
    assert link.is_symlink()


@pytest.mark.parametrize("force", [False, True])
def test_an_input_is_never_the_output(force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "m.onnx"
    save(plain(), source, external=True)
    loaded = load(source)
    before = [path.read_bytes() for path in loaded.files]
    (tmp_path / "link.onnx").symlink_to(source)
    (tmp_path / "hard.onnx").hardlink_to(source)
    (tmp_path / "new.onnx.data").hardlink_to(tmp_path / "m.onnx.data")
    monkeypatch.chdir(tmp_path)
    relative = type(source)("m.onnx")
    spellings = [source, relative, tmp_path / "link.onnx", tmp_path / "hard.onnx", tmp_path / "m.onnx.data"]
    for out in [*spellings, tmp_path / "new.onnx"]:
        with pytest.raises(UsageError, match="is the same file as the input"):
            save(plain(), out, external=True, force=force, protect=loaded.files)
    assert [path.read_bytes() for path in loaded.files] == before


def test_data_still_to_be_read_is_an_input(tmp_path: Path) -> None:
    write_external(plain(), tmp_path / "m.onnx", "o.onnx.data")
    large = load(tmp_path / "m.onnx", inline_limit=0)
    with pytest.raises(UsageError, match="is the same file as the input"):
        save(large.proto, tmp_path / "o.onnx", folder=tmp_path, external=True, force=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/o.onnx", "is not a folder; create it first"),
        ("file/o.onnx", "is not a folder"),
        ("folder", "is a directory; give the name of a file"),
        ("x" * 300, "File name too long"),
        ("x" * 252, "File name too long"),  # too long for its data file only
    ],
)
def test_an_impossible_output_is_one_clear_line(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=message) as caught:
        save(plain(), tmp_path / name, external=True)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
