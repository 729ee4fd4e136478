"""Read a model: from a file with its external data, or from memory."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from onnxlr.errors import ModelError
from onnxlr.model_io.check import check_model
from onnxlr.model_io.external import Extent, chunks, external_files, inline, locate
from onnxlr.model_io.tensors import dense_size
from onnxlr.model_io.walk import every_tensor, is_external
from onnxlr_passes.beside import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable

# A serialized protobuf must stay under 2 GiB; the margin is for what a rewrite and the runtime add.
PROTOBUF_LIMIT = (1 << 31) - (1 << 24)
INLINE_LIMIT = 1 << 30


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A model that was read and checked.

    ``proto``: with external tensors inlined when they were small in total, else still referring to ``folder``.
    ``path``: None for a model given in memory. ``folder``: where external data is looked up, None likewise.
    ``external``: the source kept weights in other files. ``size``: bytes of the .onnx and its external files.
    ``sha256``: hexadecimal, of the bytes of the .onnx file, then of each external file in sorted order.
    ``files``: the .onnx file and its external files, which nothing may overwrite.
    """

    proto: onnx.ModelProto
    path: Path | None
    folder: Path | None
    external: bool
    size: int
    sha256: str
    files: tuple[Path, ...] = ()


def load(source: str | os.PathLike[str] | onnx.ModelProto, *, inline_limit: int = INLINE_LIMIT) -> Model:
    """Read and check a model.

    Parameters
    ----------
    source
        Path of an .onnx file, or a model in memory, which is used as it is, not copied.
    inline_limit
        External tensors of at most this many bytes in total are read into the model; larger ones stay where they are.

    Raises
    ------
    ModelError
        When the source is not a readable, valid model, or its external data is missing, short or out of its folder.
    """
    if isinstance(source, onnx.ModelProto):
        return _from_memory(source)
    path = Path(source)
    data = _read_file(path)
    proto = _parse(data, path)
    digest = hashlib.sha256(data)
    size = len(data)
    del data
    check_model(proto, str(path))
    folder = _data_folder(proto, path)
    try:
        files = external_files(proto, folder)
    except ModelError as error:
        raise ModelError(f"{path}: {error.message}", error.hint) from error
    for file in files.values():
        length = file.stat().st_size
        _feed(digest, chunks(Extent(file, 0, length)))
        size += length
    total = sum(locate(tensor, folder).length for tensor in every_tensor(proto) if is_external(tensor))
    if files and total <= inline_limit and dense_size(proto, folder) <= PROTOBUF_LIMIT:
        inline(proto, folder)
    return Model(proto, path, folder, bool(files), size, digest.hexdigest(), (path, *files.values()))


def _from_memory(proto: onnx.ModelProto) -> Model:
    name = "the model given in memory"
    check_model(proto, name)
    size = dense_size(proto, None)
    if size > PROTOBUF_LIMIT:
        raise ModelError(f"{name} has {size} bytes, over the 2 GB of protobuf", "save it with external data")
    data = proto.SerializeToString(deterministic=True)
    return Model(proto, None, None, external=False, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def _feed(digest: hashlib._Hash, pieces: Iterable[memoryview]) -> None:
    for piece in pieces:
        digest.update(piece)


def _read_file(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ModelError(f"{path} is a directory", "give the .onnx file in it")
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size >= 1 << 31:
                raise ModelError(f"{path} is over 2 GB, more than protobuf can hold", "export it with external data")
            data = file.read()
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist", "check the path") from error
    except OSError as error:
        raise ModelError(f"cannot read {path} ({error.strerror})", "check the file and its permissions") from error
    if not data:
        raise ModelError(f"{path} is empty", "export or download the model again")
    return data


def _parse(data: bytes, path: Path) -> onnx.ModelProto:
    if data.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a Git LFS pointer, not the model itself", "run git lfs pull")
    if data[4:8] == b"ORTM":
        raise ModelError(f"{path} is in the ORT format", "give the .onnx model that it was made from")
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ModelError(
            f"{path} is not an ONNX model, or was cut short", "export or download the model again"
        ) from error
    return proto


def _data_folder(proto: onnx.ModelProto, path: Path) -> Path:
    """Find the folder of the external data: the one of ``path``, or for a linked model the one of the file linked to.

    Download caches keep the model and its data as links into a folder of blobs; ONNX Runtime accepts data there too.
    The locations are then rewritten (in place) to name the blobs themselves.
    """
    here = path.parent.absolute()
    if not path.is_symlink():
        return here
    there = path.resolve().parent
    entries = [
        entry
        for tensor in every_tensor(proto)
        if is_external(tensor)
        for entry in tensor.external_data
        if entry.key == "location" and entry.value and "\0" not in entry.value
    ]
    targets = [Path(os.path.realpath(here / entry.value)) for entry in entries]
    if not entries or all(target.is_relative_to(here.resolve()) for target in targets):
        return here
    if any(Path(entry.value).is_absolute() for entry in entries) or not all(t.is_relative_to(there) for t in targets):
        return here
    for entry, target in zip(entries, targets, strict=True):
        entry.value = str(target.relative_to(there))
    return there
