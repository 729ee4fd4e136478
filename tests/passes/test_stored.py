"""Data beside the model: links and missing entries are no obstacle, and nothing that is not the tensor's is read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from onnxlr_passes.base import PassError
from onnxlr_passes.stored import read

if TYPE_CHECKING:
    from pathlib import Path

W = np.arange(12, dtype=np.float32).reshape(3, 4)
AT = 5  # no multiple of the element size


def reference(**entries: int | str) -> onnx.TensorProto:
    """W as a reference to what ``entries`` say."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=W.shape, data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with W in ``data``, other bytes around it, and in ``own``, with some behind it; a secret is above."""
    (tmp_path / "secret").write_bytes(W.tobytes())
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "data").write_bytes(bytes(AT) + W.tobytes() + bytes(9))
    (folder / "own").write_bytes(W.tobytes() + bytes(9))
    (folder / "link").symlink_to("data")
    (folder / "out").symlink_to("../secret")
    (folder / "twin").hardlink_to(folder / "data")
    os.mkfifo(folder / "pipe")
    return folder


READ = {
    "all said": {"location": "data", "offset": AT, "length": W.nbytes},
    "no length": {"location": "data", "offset": AT},
    "no offset": {"location": "own", "length": W.nbytes},
    "neither": {"location": "own"},
    "hard link": {"location": "twin", "offset": AT, "length": W.nbytes},
    "link in the folder": {"location": "link", "offset": AT, "length": W.nbytes},
    "back and forth": {"location": "../home/own"},
}


@pytest.mark.parametrize("entries", READ.values(), ids=READ.keys())
def test_what_is_the_tensors_is_read(entries: dict[str, int | str], home: Path) -> None:
    tensor = reference(**entries)
    before = tensor.SerializeToString()
    np.testing.assert_array_equal(read(tensor, home), W)
    assert tensor.SerializeToString() == before


REFUSED: dict[str, tuple[dict[str, int | str], str]] = {
    "missing": ({"location": "nowhere"}, "No such file"),
    "no name": ({}, "names no file"),
    "link out": ({"location": "out"}, "leads out of"),
    "above": ({"location": "../secret"}, "leads out of"),
    "absolute": ({"location": "/dev/zero"}, "is an absolute path"),
    "zero byte": ({"location": "own\0"}, "names no file"),
    "folder": ({"location": "."}, "is not a regular file"),
    "pipe": ({"location": "pipe"}, "is not a regular file"),
    "cut short": ({"location": "own", "offset": 10}, "has 57 bytes, 58 are needed"),
    "far too far": ({"location": "own", "offset": 1 << 70}, "are needed"),
    "negative": ({"location": "own", "offset": -1}, "'-1' is not a number of bytes"),
    "no number": ({"location": "own", "offset": "0x1"}, "'0x1' is not a number of bytes"),
    "too few": ({"location": "own", "length": W.nbytes - 1}, "47 bytes from 0 on are given, its shape needs 48"),
    "too many": ({"location": "own", "length": W.nbytes + 1}, "49 bytes from 0 on are given, its shape needs 48"),
}


@pytest.mark.parametrize(("entries", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_is_refused(entries: dict[str, int | str], message: str, home: Path) -> None:
    with pytest.raises(PassError, match=f"the data of tensor 'w' cannot be read: .*{message}"):
        read(reference(**entries), home)


def test_a_model_without_a_folder_has_no_files() -> None:
    with pytest.raises(PassError, match="given without a folder"):
        read(reference(location="own"), None)


TYPES = [np.float16, np.float64, np.int64, np.uint8, np.bool_, ml_dtypes.bfloat16, ml_dtypes.int4, ml_dtypes.uint4]


@pytest.mark.parametrize("dtype", TYPES, ids=[np.dtype(one).name for one in TYPES])
@pytest.mark.parametrize("shape", [(5,), (), (0, 3)])
def test_every_type_and_shape(dtype: type, shape: tuple[int, ...], home: Path) -> None:
    value = np.ones(shape, np.int64).astype(dtype)
    inside = numpy_helper.from_array(value, "w")
    (home / "own").write_bytes(inside.raw_data)
    outside = reference(location="own")
    outside.data_type = inside.data_type
    outside.dims[:] = shape
    found = read(outside, home)
    assert (found.dtype, found.shape) == (value.dtype, value.shape)
    np.testing.assert_array_equal(found.astype(np.int64), value.astype(np.int64))


def test_a_file_that_shrinks_meanwhile(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (home / "own").stat()
    (home / "own").write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", lambda _: before)
        with pytest.raises(PassError, match="became shorter while it was read"):
            read(reference(location="own"), home)
