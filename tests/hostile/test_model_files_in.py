"""Files that are no model, models that are no file of theirs, and models that reach for what is not theirs."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxlr.errors import ModelError
from onnxlr.model_io import check_finite, every_tensor, load, save, tensor_array
from tests.hostile.models import SIZE, everywhere, matmul, model, plain, refer, weight, write_external

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LENGTH = SIZE * SIZE * 4
WHOLE = everywhere().SerializeToString(deterministic=True)


@contextmanager
def unprivileged() -> Iterator[None]:
    """As root, act as nobody on the file system: permissions do not stop root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def refused(path: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


CONTENTS = {
    "empty": (b"", "is empty; export or download"),
    "text": (b"This is not a model.\n", "is not an ONNX model, or was cut short"),
    "truncated": (WHOLE[: len(WHOLE) // 2], "is not an ONNX model, or was cut short"),
    "page of a failed download": (b"<!DOCTYPE html><html>404</html>", "is not an ONNX model"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
    "ORT format": (b"\x20\0\0\0ORTM" + bytes(64), "in the ORT format"),
    "parses, but holds nothing": (b"\x08\x08", "has no graph"),
    "parses, with an empty graph": (onnx.ModelProto(graph=onnx.GraphProto()).SerializeToString(), "has no graph"),
    "only zeros": (bytes(100), "is not an ONNX model"),
}


@pytest.mark.parametrize(("content", "message"), CONTENTS.values(), ids=CONTENTS.keys())
def test_a_file_that_is_no_model(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refused(path, message)
    assert path.read_bytes() == content


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    refused(tmp_path, "is a directory; give the .onnx file in it")
    refused(tmp_path / "missing.onnx", "does not exist")
    refused(tmp_path / ("x" * 300), "File name too long")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path / "loop", "symbolic links")


def test_a_file_that_may_not_be_read() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name, "m.onnx")
        folder.chmod(0o755)
        path.write_bytes(WHOLE)
        path.chmod(0)
        with unprivileged():
            refused(path, "Permission denied")
        path.chmod(0o644)
        with unprivileged():
            load(path)
        folder.chmod(0)
        with unprivileged():
            refused(path, "Permission denied")
        folder.chmod(0o755)


def test_a_file_over_the_limit_of_protobuf(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 31)  # a hole, no disk is used
    refused(path, "over 2 GB, more than protobuf can hold")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(WHOLE) - 1))
def test_no_truncation_is_taken_for_a_model(length: int) -> None:
    survives_or_is_refused(WHOLE[:length], must_fail=True)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_no_random_bytes_are_taken_for_a_model(data: bytes) -> None:
    survives_or_is_refused(data, must_fail=True)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_damage_is_refused_or_harmless(damage: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for place, value in damage:
        data[place] = value
    survives_or_is_refused(bytes(data), must_fail=False)


def survives_or_is_refused(data: bytes, *, must_fail: bool) -> None:
    refusal = refusal_of(data)
    assert refusal is None or "\n" not in refusal
    assert refusal is not None or not must_fail


def refusal_of(data: bytes) -> str | None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "m.onnx")
        path.write_bytes(data)
        try:
            loaded = load(path)
            check_finite(loaded.proto, loaded.folder)
            save(loaded.proto, Path(name, "o.onnx"), folder=loaded.folder, external=True)
        except ModelError as error:
            return str(error)
    return None


def reference(location: str, offset: int | str = 0, length: int | str | None = LENGTH) -> onnx.ModelProto:
    tensor = weight("w", 0)
    refer(tensor, location, offset, length)
    return model([matmul()], [tensor])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder for the model, with good data in it and a secret just outside of it."""
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(LENGTH))
    (tmp_path / "home2").mkdir()
    (tmp_path / "home2" / "secret").write_bytes(bytes(LENGTH))
    (folder / "good").write_bytes(bytes(LENGTH))
    (folder / "link").symlink_to("../secret")
    (folder / "folder").symlink_to("..")
    (folder / "sub").mkdir()
    return folder


REFERENCES: dict[str, tuple[Callable[[Path], onnx.ModelProto], str]] = {
    "missing": (lambda _: reference("nowhere.bin"), "cannot read 'nowhere.bin' in .*home .No such file"),
    "absolute": (lambda home: reference(str(home.parent / "secret")), "is an absolute path"),
    "absolute, though inside": (lambda home: reference(str(home / "good")), "is an absolute path"),
    "parent": (lambda _: reference("../secret"), "leads out of"),
    "parent in the middle": (lambda _: reference("sub/../../secret"), "leads out of"),
    "sibling of the same beginning": (lambda _: reference("../home2/secret"), "leads out of"),
    "link": (lambda _: reference("link"), "leads out of"),
    "link to a folder": (lambda _: reference("folder/secret"), "leads out of"),
    "the folder itself": (lambda _: reference("."), "is not a regular file"),
    "no name": (lambda _: reference(""), "names no file"),
    "zero byte": (lambda _: reference("good\0"), "names no file"),
    "device": (lambda _: reference("folder/../../../../../../../../dev/zero"), "leads out of"),
    "too far": (lambda _: reference("good", 1), f"is cut short, it has {LENGTH} bytes and {LENGTH + 1} are needed"),
    "far too far": (lambda _: reference("good", 1 << 62), "is cut short"),
    "negative offset": (lambda _: reference("good", -1), "'-1' is not a number of bytes"),
    "no number": (lambda _: reference("good", "0x10"), "'0x10' is not a number"),
    "huge length": (lambda _: reference("good", 0, 1 << 62), f"its shape needs {LENGTH}"),
    "short length": (lambda _: reference("good", 0, LENGTH - 1), f"{LENGTH - 1} bytes given, its shape needs {LENGTH}"),
    "long name": (lambda _: reference("x" * 300), "File name too long"),
}


@pytest.mark.parametrize(("build", "message"), REFERENCES.values(), ids=REFERENCES.keys())
@pytest.mark.parametrize("inline_limit", [0, 1 << 30])
def test_external_data_that_is_missing_short_or_not_ours(
    build: Callable[[Path], onnx.ModelProto], message: str, inline_limit: int, home: Path
) -> None:
    path = home / "m.onnx"
    proto = build(home)
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=message) as caught:
        load(path, inline_limit=inline_limit)
    assert str(path) in str(caught.value)
    assert "'w'" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=message):
        tensor_array(proto.graph.initializer[0], home)


def test_links_and_parents_that_stay_inside_are_fine(home: Path) -> None:
    (home / "inner").symlink_to("good")
    for location in ("good", "./good", "sub/../good", "inner"):
        (home / "m.onnx").write_bytes(reference(location).SerializeToString())
        load(home / "m.onnx")


def test_a_pipe_is_not_waited_for(home: Path) -> None:
    os.mkfifo(home / "pipe")
    (home / "m.onnx").write_bytes(reference("pipe").SerializeToString())
    refused(home / "m.onnx", "is not a regular file")


def test_a_linked_model_does_not_open_the_folder_it_is_linked_from(home: Path) -> None:
    """Data may lie beside the file linked to, but neither above it nor, by an absolute path, anywhere."""
    for location in ("../secret", str(home.parent / "secret"), "link"):
        (home / "m.onnx").write_bytes(reference(location).SerializeToString())
        (home / "sub" / "m.onnx").unlink(missing_ok=True)
        (home / "sub" / "m.onnx").symlink_to(home / "m.onnx")
        refused(home / "sub" / "m.onnx", "leads out of|absolute path|cannot read")


@pytest.mark.parametrize("place", ["k", "then_w", "fw", "s", "s_indices"])
def test_a_reference_is_checked_wherever_it_is(place: str, tmp_path: Path) -> None:
    proto = write_external(everywhere(), tmp_path / "m.onnx")
    data = proto.SerializeToString()
    load(tmp_path / "m.onnx")
    tensor = next(one for one in every_tensor(proto) if one.name == place)
    tensor.external_data[0].value = "../secret"
    assert proto.SerializeToString() != data
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    refused(tmp_path / "m.onnx", f"tensor '{place}': '../secret' leads out of")


def test_data_cut_short_after_loading_is_noticed(home: Path) -> None:
    (home / "m.onnx").write_bytes(reference("good").SerializeToString())
    large = load(home / "m.onnx", inline_limit=0)
    os.truncate(home / "good", LENGTH - 1)
    with pytest.raises(ModelError, match="is cut short"):
        save(large.proto, home / "o.onnx", folder=large.folder, external=True)
    assert not list(home.glob("*o.onnx*"))
    assert not list(home.glob(".*"))


def test_the_models_these_tests_damage_are_sound(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(WHOLE)
    load(path)
    path.write_bytes(plain().SerializeToString())
    load(path)
