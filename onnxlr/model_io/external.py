"""Weights kept in files beside the model: where they are, whether they may be read, and how to read just their bytes.

A model is input from strangers: its external-data entries must not make us read anything outside of its folder, wait
on a pipe, or ask for more bytes than a file holds.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import TensorProto

from onnxlr.errors import ModelError
from onnxlr.model_io.walk import every_tensor, is_external, raw_size
from onnxlr_passes.beside import byte_number, inside, open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onnx import ModelProto

CHUNK = 1 << 22  # bytes copied or hashed at a time


@dataclass(frozen=True, slots=True)
class Extent:
    """``length`` bytes from ``offset`` on of the regular file ``path`` (symbolic links already resolved)."""

    path: Path
    offset: int
    length: int


def locate(tensor: TensorProto, folder: Path | None) -> Extent:
    """Find the bytes of an external ``tensor`` of a model whose external data is looked up in ``folder``.

    Raises
    ------
    ModelError
        When the entry is malformed, leaves ``folder`` (absolute, ``..`` or by a symbolic link), names no regular file,
        disagrees with the tensor's type and shape, or ends beyond the file.
    """
    what = f"external data of tensor {tensor.name!r}"
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    path = _contained(location, folder, what)
    needed = raw_size(tensor)
    if needed is None:
        kind = TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in TensorProto.DataType.values() else "?"
        raise ModelError(f"{what}: type {kind} cannot be external", "export the model again")
    offset = _number(entries.get("offset") or "0", what)
    length = _number(entries.get("length") or str(needed), what)
    if length != needed:
        raise ModelError(f"{what}: {length} bytes given, its shape needs {needed}", "export the model again")
    size = _regular_size(path, location, what)
    if offset + length > size:
        raise ModelError(
            f"{what}: {path} is cut short, it has {size} bytes and {offset + length} are needed",
            "copy or download the file again",
        )
    return Extent(path, offset, length)


def _contained(location: str, folder: Path | None, what: str) -> Path:
    if folder is None:
        raise ModelError(
            f"{what} is in a file, but the model was given in memory", "give the path of the model instead"
        )
    try:
        return inside(folder, location)
    except ValueError as error:
        raise ModelError(
            f"{what}: {error}", f"put the file itself below {folder}, or export the model again"
        ) from error


def _number(text: str, what: str) -> int:
    try:
        return byte_number(text)
    except ValueError as error:
        raise ModelError(f"{what}: {error}", "export the model again") from error


def _regular_size(path: Path, location: str, what: str) -> int:
    try:
        status = path.stat()
    except OSError as error:
        raise ModelError(
            f"{what}: cannot read {location!r} in {path.parent} ({error.strerror})", "copy the file beside the model"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{what}: {path} is not a regular file", "copy the file itself beside the model")
    return status.st_size


def chunks(extent: Extent) -> Iterator[memoryview]:
    """Yield the bytes of ``extent`` piece by piece; each piece is only valid until the next one is asked for.

    Raises
    ------
    ModelError
        When the file cannot be read to the end of the extent.
    """
    buffer = memoryview(bytearray(min(CHUNK, extent.length)))
    left = extent.length
    try:
        with open_regular(extent.path) as file:
            file.seek(extent.offset)
            while left:
                got = file.readinto(buffer[: min(left, len(buffer))])
                if not got:
                    raise ModelError(f"{extent.path} became shorter while it was read", "leave it alone meanwhile")
                left -= got
                yield buffer[:got]
    except OSError as error:
        raise ModelError(
            f"cannot read {extent.path} ({error.strerror})", "check the file and its permissions"
        ) from error


def read(extent: Extent) -> bytearray:
    """Read all bytes of ``extent``, and nothing else of its file."""
    whole = bytearray(extent.length)
    at = 0
    for piece in chunks(extent):
        whole[at : at + len(piece)] = piece
        at += len(piece)
    return whole


def inline(proto: ModelProto, folder: Path | None) -> None:
    """Read every external tensor of ``proto`` into it, in place."""
    for tensor in every_tensor(proto):
        if is_external(tensor):
            inline_tensor(tensor, folder)


def inline_tensor(tensor: TensorProto, folder: Path | None) -> None:
    """Read the data of an external tensor into it, in place."""
    data = read(locate(tensor, folder))
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = bytes(data)


def external_files(proto: ModelProto, folder: Path | None) -> dict[str, Path]:
    """Map each location of external data to its (resolved) file, in sorted order, every extent checked."""
    found = {}
    for tensor in every_tensor(proto):
        if is_external(tensor):
            location = next(entry.value for entry in tensor.external_data if entry.key == "location")
            found[location] = locate(tensor, folder).path
    return dict(sorted(found.items()))
