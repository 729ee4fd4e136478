"""Image options: presets, single parts over them, and one line where they do not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from onnxlr.calibration import ImageOptions
from onnxlr.cli.images import Layout, Order, Preset, image_options
from onnxlr.errors import UsageError
from tests.cli.small import QUICK, network, onnxlr, refused, written

if TYPE_CHECKING:
    from pathlib import Path


def parse(preset: Preset | None = None, **said: object) -> ImageOptions | None:
    every = dict.fromkeys(("size", "crop", "mean", "std", "scale", "layout", "order"))
    return image_options(preset, **(every | said))  # type: ignore[arg-type]


def test_presets_and_what_changes_them() -> None:
    assert parse() is None
    assert parse(Preset.IMAGENET) == ImageOptions.imagenet()
    assert parse(Preset.CAFFE) == ImageOptions.caffe()
    assert parse(Preset.UNIT) == ImageOptions()
    assert parse(Preset.IMAGENET, size=232, crop="225x224") == ImageOptions(
        232, (225, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    assert parse(crop="16", mean="1,2,3", std="2", scale=255, layout=Layout.NHWC, order=Order.BGR) == ImageOptions(
        None, (16, 16), (1.0, 2.0, 3.0), (2.0,), "NHWC", "BGR", 255
    )


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"crop": "2y2"}, "--image-crop 2y2"),
        ({"mean": "1,b"}, "--image-mean 1,b"),
        ({"std": "0"}, "above 0"),
        ({"scale": 3}, "image scale 3"),
        ({"mean": "1,2"}, "image mean has 2 values"),
    ],
)
def test_values_that_make_no_sense_are_one_line(said: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse(**said)
    assert "\n" not in caught.value.message


def pictures(folder: Path, size: tuple[int, int]) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(9):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{i}.png")


def test_a_folder_of_images_from_end_to_end(tmp_path: Path) -> None:
    written(network(batch="N"), tmp_path / "m.onnx")
    pictures(tmp_path / "images", (20, 24))
    data = ["--data", "images", "--memory", "256MB"]
    refused(tmp_path, 3, "--image-crop", "rewrite", "m.onnx", *QUICK, *data)
    refused(tmp_path, 2, "folder of images", "rewrite", "m.onnx", *QUICK, "--image-size", "16")
    refused(tmp_path, 2, "--memory lots", "rewrite", "m.onnx", *QUICK, "--data", "images", "--memory", "lots")
    made = []
    for options in (["unit", "--jobs", "1"], ["unit", "--jobs", "2"], ["imagenet"], ["unit", "--copies", "2"]):
        arguments = [*QUICK, *data, "--image-crop", "16x16", "--image-preset", *options]
        out = ["-o", "out.onnx", "--save-plan", "p.json", "--no-validate", "--force"]
        done = onnxlr("rewrite", "m.onnx", *arguments, *out, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert ("each of 9 images is looked at 2 times" in " ".join(done.stdout.split())) == ("--copies" in options)
        made.append(((tmp_path / "out.onnx").read_bytes(), (tmp_path / "p.json").read_bytes()))
    assert made[0] == made[1], "the number of jobs changes nothing"
    assert made[0][0] != made[2][0], "the preset does"
    assert made[0][0] != made[3][0], "and copies do"
