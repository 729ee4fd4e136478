from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from onnxlr.calibration import DataOptions, ImageOptions, open_source
from onnxlr.errors import ModelError, OnnxlrError, UsageError
from onnxlr.target import Input


def image_input(*dims, dtype=np.float32):
    return (Input("x", np.dtype(dtype), ("n", *dims)),)


RGB = image_input(3, "h", "w")


def picture(path, pixels):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def read(folder, inputs=RGB, **options):
    with open_source(folder, inputs, {}, DataOptions(image=ImageOptions(**options))) as source:
        return np.concatenate([batch["x"] for batch in source.batches(2)])


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def test_values_layout_and_order(tmp_path, pixels):
    picture(tmp_path / "a.png", pixels)
    np.testing.assert_allclose(read(tmp_path)[0], pixels.transpose(2, 0, 1) / 255, rtol=1e-6)
    nhwc = read(tmp_path, image_input("h", "w", 3), layout="NHWC", scale=255)
    np.testing.assert_array_equal(nhwc[0], pixels)
    caffe = read(tmp_path, scale=255, order="BGR", mean=(104, 117, 123))
    expected = pixels[:, :, ::-1].transpose(2, 0, 1) - np.array([104.0, 117, 123])[:, None, None]
    np.testing.assert_array_equal(caffe[0], expected)
    normal = read(tmp_path, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    np.testing.assert_allclose(normal[0], (pixels.transpose(2, 0, 1) / 255 - mean) / std, rtol=1e-5, atol=1e-6)
    assert read(tmp_path, image_input(1, 6, 8), order="GREY").shape == (1, 1, 6, 8)
    raw = read(tmp_path, image_input(3, 6, 8, dtype=np.uint8), scale=255)
    assert raw.dtype == np.uint8


def test_crop_is_the_middle_and_an_image_of_that_size_is_left_alone(tmp_path, pixels):
    picture(tmp_path / "a.png", pixels)
    middle = read(tmp_path, scale=255, crop=(4, 4))[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(middle, pixels[1:5, 2:6])
    same = read(tmp_path, scale=255, size=12, crop=(6, 8))[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(same, pixels)
    assert read(tmp_path, size=12).shape == (1, 3, 12, 16)


def test_presets_give_the_size(tmp_path):
    picture(tmp_path / "a.png", np.zeros((300, 400, 3)))
    for options in (ImageOptions.imagenet(), ImageOptions.caffe()):
        with open_source(tmp_path, image_input(3, 224, 224), {}, DataOptions(image=options)) as source:
            (batch,) = source.batches(1)
        assert batch["x"].shape == (1, 3, 224, 224)
        np.testing.assert_allclose(batch["x"][0, :, 0, 0], -np.array(options.mean) / np.array(options.std), rtol=1e-6)


def test_sorted_recursive_and_hidden_files_passed_over(tmp_path):
    for value, name in enumerate(["a/2.png", "a/10.bmp", "b.webp", ".hidden.png", "a/notes.txt"]):
        if name.endswith("txt"):
            (tmp_path / name).write_text("words")
        else:
            picture(tmp_path / name, np.full((4, 4, 3), value))
    np.testing.assert_array_equal(read(tmp_path, scale=255)[:, 0, 0, 0], [1, 0, 2])


def test_what_does_not_fit_is_one_line(tmp_path, pixels, monkeypatch):
    picture(tmp_path / "good" / "a.png", pixels)
    picture(tmp_path / "sizes" / "a.png", pixels)
    picture(tmp_path / "sizes" / "b.png", pixels[:5])
    whole = (tmp_path / "good" / "a.png").read_bytes()
    for name, content in (("cut", whole[:-40]), ("text", b"words")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(content)
    (tmp_path / "deep").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep" / "a.png")
    picture(tmp_path / "both" / "a.png", pixels)
    np.save(tmp_path / "both" / "a.npy", pixels)
    for name, inputs, options, kind, words in (
        ("sizes", RGB, {}, ModelError, "b.png"),
        ("cut", RGB, {}, ModelError, "cannot read the image"),
        ("text", RGB, {}, ModelError, "cannot read the image"),
        ("deep", RGB, {}, ModelError, "more than 8 bits"),
        ("both", RGB, {}, UsageError, "both arrays"),
        ("good", image_input(3, 7, 8), {}, ModelError, "does not fit"),
        ("good", image_input("h", "w", 3), {}, ModelError, "layout"),
        ("good", RGB, {"crop": (7, 7)}, ModelError, "less than the crop"),
        ("good", RGB * 2, {}, UsageError, "takes 2 inputs"),
        ("good/a.png", RGB, {}, UsageError, "give the folder"),
    ):
        with pytest.raises(kind) as caught:
            read(tmp_path / name, inputs, **options)
        assert isinstance(caught.value, OnnxlrError)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UsageError, match=r"pip install onnxlr\[images\]"):
        read(tmp_path / "good")


@pytest.mark.parametrize(
    "options",
    [{"size": 0}, {"crop": (0, 4)}, {"mean": (1, 2)}, {"std": (0,)}, {"layout": "CHW"}, {"order": "rgb"}, {"scale": 2}],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(UsageError, match=f"image {next(iter(options))}"):
        ImageOptions(**options)


def test_images_of_several_sizes_where_they_may_vary(tmp_path, pixels):
    for i, image in enumerate((pixels, pixels, pixels[:4], pixels)):
        picture(tmp_path / f"{i}.png", image)
    options = DataOptions(image=ImageOptions(), varied=True)
    with open_source(tmp_path, RGB, {}, options) as source:
        shapes = [batch["x"].shape for batch in source.batches(8)]
    assert shapes == [(2, 3, 6, 8), (1, 3, 4, 8), (1, 3, 6, 8)]
    with open_source(tmp_path, image_input(3, 6, 8), {}, options) as source, pytest.raises(ModelError, match=r"2\.png"):
        list(source.batches(8))
