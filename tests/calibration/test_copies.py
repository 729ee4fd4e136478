"""Copies of images: the image itself first, its mirror image, then parts of it in its size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from onnxlr.calibration import DataOptions, ImageOptions, Source, copied, open_source
from onnxlr.calibration.copies import LEAST_AREA, Crop, crop_of, cropped
from onnxlr.errors import UsageError
from onnxlr.setting import source_of
from onnxlr.target import Input

if TYPE_CHECKING:
    from pathlib import Path

INPUTS = (Input("x", np.dtype(np.float32), ("n", 3, 6, 9)),)


def source(folder: Path, count: int = 5) -> Source:
    images = np.random.default_rng(count).standard_normal((count, 3, 6, 9)).astype(np.float32)
    np.savez(folder / "data.npz", x=images)
    return open_source(folder / "data.npz", INPUTS, {}, DataOptions())


def stream(of: Source, size: int) -> np.ndarray:
    return np.concatenate([batch["x"] for batch in of.batches(size)])


def test_an_image_comes_as_it_is_then_mirrored_then_in_parts(tmp_path: Path) -> None:
    plain = source(tmp_path)
    original, four = stream(plain, 2), stream(copied(plain, INPUTS, 4, 0, "NCHW"), 2)
    assert four.shape == (20, 3, 6, 9)
    np.testing.assert_array_equal(four[0::4], original)
    np.testing.assert_array_equal(four[1::4], original[..., ::-1])
    parts = np.concatenate([four[2::4], four[3::4]])
    assert len(np.unique(parts.round(5), axis=0)) == len(parts), "every part is another"
    assert copied(plain, INPUTS, 1, 0, "NCHW") is plain


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 6), copies=st.integers(1, 5), sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_the_size_of_batches_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, count: int, copies: int, sizes: tuple[int, int]
) -> None:
    of = copied(source(tmp_path_factory.mktemp("data"), count), INPUTS, copies, 3, "NCHW")
    first, second = (stream(of, size) for size in sizes)
    np.testing.assert_array_equal(first, second)
    assert len(first) == of.count == count * copies


def test_a_sample_has_the_same_copies_whichever_are_used(tmp_path: Path) -> None:
    every, some = source(tmp_path), source(tmp_path).only([1, 4])
    all_copies, their_copies = (stream(copied(of, INPUTS, 3, 7, "NCHW"), 4) for of in (every, some))
    np.testing.assert_array_equal(their_copies, all_copies.reshape(5, 3, 3, 6, 9)[[1, 4]].reshape(6, 3, 6, 9))


@given(sample=st.integers(0, 99), copy=st.integers(2, 9))
def test_a_part_lies_within_its_image(sample: int, copy: int) -> None:
    crop = crop_of(0, sample, copy)
    assert LEAST_AREA <= crop.side**2 <= 1.0
    assert min(crop.top, crop.left) >= 0.0
    assert max(crop.top, crop.left) + crop.side <= 1.0 + 1e-12


def test_parts_are_mirrored_as_often_as_not_and_each_its_own() -> None:
    crops = [crop_of(seed, sample, copy) for seed in range(2) for sample in range(50) for copy in (2, 3)]
    assert len(set(crops)) == len(crops)
    assert 70 < sum(crop.mirrored for crop in crops) < 130
    assert min(crop.side for crop in crops) < 0.75
    assert max(crop.side for crop in crops) > 0.95


def test_a_part_fills_the_image() -> None:
    """Bilinear interpolation gives a ramp back exactly: half of 8 pixels, from the third on, is 1.75 to 5.25."""
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32), (1, 8, 8))
    part = cropped(ramp, Crop(top=0.0, left=0.25, side=0.5), "NCHW")
    np.testing.assert_allclose(part[0, 0], np.arange(1.75, 5.5, 0.5), atol=1e-6)
    down = cropped(ramp.transpose(0, 2, 1), Crop(top=0.25, left=0.0, side=0.5, mirrored=True), "NCHW")
    np.testing.assert_allclose(down[0, :, 0], np.arange(1.75, 5.5, 0.5), atol=1e-6)
    corner = cropped(ramp, Crop(top=0.0, left=0.0, side=0.5), "NCHW")
    np.testing.assert_allclose(corner[0, 0], [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25], atol=1e-6)


def test_channels_may_come_last_and_pixels_be_whole_numbers() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 6, 9)).astype(np.uint8)
    crop = Crop(0.1, 0.2, 0.75, mirrored=True)
    first, last = cropped(image, crop, "NCHW"), cropped(image.transpose(1, 2, 0), crop, "NHWC")
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, last.transpose(2, 0, 1))
    rounded = cropped(image.astype(np.float32), crop, "NCHW")
    assert np.abs(first - rounded).max() <= 0.5 + 1e-4
    np.testing.assert_array_equal(cropped(np.full((1, 1, 5), 7.0, np.float32), crop, "NCHW"), np.full((1, 1, 5), 7.0))


def test_only_images_are_copied(tmp_path: Path) -> None:
    pairs = (Input("x", np.dtype(np.float32), ("n", 2)),)
    np.savez(tmp_path / "pairs.npz", x=np.ones((4, 2), np.float32))
    with pytest.raises(UsageError, match="--copies is for images"):
        copied(open_source(tmp_path / "pairs.npz", pairs, {}, DataOptions()), pairs, 2, 0, "NCHW")
    with pytest.raises(UsageError, match="--copies 0"):
        DataOptions(copies=0)


def test_data_read_otherwise_are_other_data(tmp_path: Path) -> None:
    """Trials kept from a search with other copies, or images normalised otherwise, must not be taken for these."""
    Image.fromarray(np.zeros((6, 9, 3), np.uint8)).save(tmp_path / "a.png")
    options = DataOptions()
    grey = replace(options, image=ImageOptions(mean=(0.5,)))
    plain, other = (open_source(tmp_path, INPUTS, {}, one) for one in (options, grey))
    known = [source_of(one) for one in (plain, other, *(copied(plain, INPUTS, 2, s, "NCHW") for s in (0, 1)))]
    assert len(set(known)) == len(known)
    assert source_of(plain) == source_of(open_source(tmp_path, INPUTS, {}, options))
