"""What trials that are kept depend on: data that have changed are other data."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from onnxlr.calibration import DataOptions, Memory, open_source
from onnxlr.errors import ModelError
from onnxlr.evaluation import open_evaluation
from onnxlr.setting import source_of
from onnxlr.target import Input

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INPUTS = (Input("x", np.dtype(np.float32), ("n", 3, 4, 4)),)


def shade(path: Path, value: int) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(path)


def overwrite(folder: Path) -> None:
    """Other pixels, and not one byte more or less: the time alone tells."""
    path = folder / "a" / "0.bmp"
    before = path.stat()
    shade(path, 255)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))


def enlarge(folder: Path) -> None:
    """More bytes, and the time as it was: the size alone tells."""
    path = folder / "a" / "0.bmp"
    before = path.stat()
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def reclass(folder: Path) -> None:
    (folder / "a" / "0.bmp").rename(folder / "b" / "9.bmp")


@pytest.mark.parametrize("change", [overwrite, enlarge, reclass])
def test_a_folder_of_images_with_another_file_in_it_is_other_data(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    for name in ("a", "b"):
        for value in (0, 1):
            shade(tmp_path / name / f"{value}.bmp", value)

    def known() -> tuple[tuple[object, ...], ...]:
        judged = open_evaluation(tmp_path, INPUTS, {}, DataOptions())
        return source_of(open_source(tmp_path, INPUTS, {}, DataOptions())), source_of(judged.source)

    before = known()
    assert known() == before
    change(tmp_path)
    assert all(new != old for new, old in zip(known(), before, strict=True))


def test_an_image_that_is_gone_is_told_when_it_is_read(tmp_path: Path) -> None:
    shade(tmp_path / "a.bmp", 0)
    source = open_source(tmp_path, INPUTS, {}, DataOptions())
    before = source_of(source)
    (tmp_path / "a.bmp").unlink()
    assert source_of(source) != before
    with pytest.raises(ModelError, match="cannot read the image"):
        list(source.batches(1))


def test_less_memory_is_another_setting_for_it_makes_other_fits(tmp_path: Path) -> None:
    shade(tmp_path / "a.bmp", 0)
    large, small = Memory(4 * 10**9), Memory(64 * 10**6)
    assert small.wide(1, 9 * 128)
    assert not large.wide(1, 9 * 128)
    known = [source_of(open_source(tmp_path, INPUTS, {}, DataOptions(memory=one))) for one in (large, small, large)]
    assert known[0] == known[2] != known[1]
