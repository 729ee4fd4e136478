"""Write a model, with its large tensors in a second file where asked or needed: whole or not at all."""

from __future__ import annotations

import errno
import os
from typing import IO, TYPE_CHECKING

import onnx
from onnx import TensorProto

from onnxlr.errors import ModelError, UsageError
from onnxlr.model_io.atomic import create, draft, place, sync
from onnxlr.model_io.external import Extent, chunks, external_files, inline, inline_tensor, locate
from onnxlr.model_io.load import PROTOBUF_LIMIT
from onnxlr.model_io.tensors import dense_size
from onnxlr.model_io.walk import (
    copy_without_weights,
    every_tensor,
    initializers,
    is_external,
    other_tensors,
    raw_size,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

ALIGNMENT = 4096  # a page, so that a runtime can map each tensor
EXTERNAL_FROM = 1024  # bytes; smaller tensors stay in the model
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def save(
    proto: onnx.ModelProto,
    out: Path,
    *,
    folder: Path | None = None,
    external: bool = False,
    force: bool = False,
    protect: Sequence[Path] = (),
    limit: int = PROTOBUF_LIMIT,
) -> int:
    """Write ``proto``, which stays as it is, to ``out``; the same model gives the same bytes.

    Parameters
    ----------
    folder
        Where the external data of ``proto`` is looked up; it is copied from there piece by piece.
    external
        Write tensors over 1 KiB to ``OUT.data``; also done when the model has more than ``limit`` bytes.
    force
        Overwrite existing files.
    protect
        Files that are never overwritten, by whatever spelling or link, not even with ``force``.
    limit
        The most bytes for a model in one file.

    Returns
    -------
    Bytes written, both files together.

    Raises
    ------
    UsageError
        When ``out`` exists and ``force`` is not given, or is one of the inputs.
    ModelError
        When a file cannot be written; nothing is left behind then.
    """
    split = is_split(proto, folder, external=external, limit=limit)
    data = data_file(out)
    inputs = [*protect, *external_files(proto, folder).values()]
    try:
        for target in (out, data) if split else (out,):
            check_output(target, inputs, force=force)
        if split:
            return _save_split(proto, out, data, folder, force=force, limit=limit)
        return _save_whole(proto, out, folder, force=force)
    except FileExistsError as error:
        raise output_exists(str(error.filename2 or error.filename)) from error
    except OSError as error:
        raise cannot_write(out, error) from error


def is_split(proto: onnx.ModelProto, folder: Path | None, *, external: bool, limit: int = PROTOBUF_LIMIT) -> bool:
    """Whether :func:`save` writes two files: ``external`` asks for it, or one cannot hold the model."""
    return external or dense_size(proto, folder) > limit


def data_file(out: Path) -> Path:
    """Name the second file of a model written to ``out``, for the weights that are kept beside it."""
    return out.parent / f"{out.name}.data"


def _save_whole(proto: onnx.ModelProto, out: Path, folder: Path | None, *, force: bool) -> int:
    if any(is_external(tensor) for tensor in every_tensor(proto)):
        whole = onnx.ModelProto()
        whole.CopyFrom(proto)
        inline(whole, folder)
    else:
        whole = proto
    with draft(out) as temporary:
        with create(temporary) as file:
            written = file.write(whole.SerializeToString(deterministic=True))
            sync(file)
        place([(temporary, out)], force=force)
    return written


def _save_split(proto: onnx.ModelProto, out: Path, data: Path, folder: Path | None, *, force: bool, limit: int) -> int:
    with draft(data) as temporary_data, draft(out) as temporary:
        with create(temporary_data) as file:
            light = _write_weights(proto, file, data.name, folder, limit)
            sync(file)
            written = file.tell()
        with create(temporary) as file:
            written += file.write(light.SerializeToString(deterministic=True))
            sync(file)
        place([(temporary_data, data), (temporary, out)], force=force)
    return written


def _write_weights(
    proto: onnx.ModelProto, file: IO[bytes], location: str, folder: Path | None, limit: int
) -> onnx.ModelProto:
    """Write the large initializers, and all that is external already, to ``file``; return the model referring to it.

    Large tensors in attributes stay in the model unless they alone are over ``limit``: few tools look for more.
    """
    light = copy_without_weights(proto)
    extents: dict[Extent, int] = {}  # offsets in the new file: tensors that share their bytes go on sharing them

    def write(tensor: TensorProto, copy: TensorProto, *, large_too: bool) -> None:
        large = (raw_size(tensor) or 0) > EXTERNAL_FROM
        if is_external(tensor) and large:
            extent = locate(tensor, folder)
            if extent not in extents:
                extents[extent] = _append(file, chunks(extent))
            _refer(copy, location, extents[extent], extent.length)
        elif is_external(tensor):  # ONNX Runtime cannot use a small one everywhere, such as the condition of an If
            inline_tensor(copy, folder)
        elif large_too and large and tensor.HasField("raw_data"):
            data = tensor.raw_data
            _refer(copy, location, _append(file, [data]), len(data))
        elif large_too:
            copy.CopyFrom(tensor)

    for tensor, copy in zip(initializers(proto), initializers(light), strict=True):
        write(tensor, copy, large_too=True)
    spill = sum(raw_size(tensor) or 0 for tensor in other_tensors(light) if tensor.HasField("raw_data")) > limit
    for tensor, copy in zip(other_tensors(proto), other_tensors(light), strict=True):
        write(tensor, copy, large_too=spill)
    return light


def _append(file: IO[bytes], pieces: Iterable[bytes | memoryview]) -> int:
    """Write at the next multiple of the alignment; return that offset."""
    offset = -(-file.tell() // ALIGNMENT) * ALIGNMENT
    file.write(bytes(offset - file.tell()))
    for piece in pieces:
        file.write(piece)
    return offset


def _refer(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def check_output(target: Path, protect: Sequence[Path] = (), *, force: bool = False) -> None:
    """Refuse, before any work is done, an output that could not be written at its end.

    Raises
    ------
    UsageError
        When ``target`` exists and ``force`` is not given, or is one of the files of ``protect``.
    ModelError
        When there is no such folder, or ``target`` is one itself, a device, a pipe or a socket.
    """
    try:
        _check_output(target, protect, force=force)
    except OSError as error:  # a folder that may not be entered, a name too long
        raise cannot_write(target, error) from error


def _check_output(target: Path, protect: Sequence[Path], *, force: bool) -> None:
    if not target.parent.is_dir():
        raise ModelError(f"cannot write {target}: {target.parent} is not a folder", "create it first")
    if target.is_dir():
        raise ModelError(f"cannot write {target}: it is a directory", "give the name of a file")
    if target.exists() and not target.is_file():  # to replace a device such as /dev/null would take it from everybody
        raise ModelError(f"cannot write {target}: it is a device, a pipe or a socket", "give the name of a file")
    for one in protect:
        if target.exists() and one.exists() and target.samefile(one):
            raise UsageError(f"{target} is the same file as the input {one}", "give another output")
    if os.path.lexists(target) and not force:
        raise output_exists(str(target))


def output_exists(target: str) -> UsageError:
    """Say that ``target`` is not ours to overwrite."""
    return UsageError(f"{target} exists", "give another output, or --force to overwrite it")


def cannot_write(out: Path, error: OSError) -> ModelError:
    """Say why ``out`` cannot be written."""
    if error.errno in _FULL:
        return ModelError(f"cannot write {out} ({error.strerror})", "free some space, or give an output elsewhere")
    return ModelError(f"cannot write {out} ({error.strerror})", "check the folder and its permissions")
