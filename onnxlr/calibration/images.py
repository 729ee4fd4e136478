"""Images as a network was trained to see them: resized, cropped, scaled, normalised, channels in its order."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from onnxlr.calibration.fit import cast, fit_shape
from onnxlr.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from PIL.Image import Image

    from onnxlr.target import Input

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Layout = Literal["NCHW", "NHWC"]
Order = Literal["RGB", "BGR", "GREY"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
_DEEP = ("I", "F")  # modes of more than 8 bits a channel begin so, "I;16" among them


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How an image file becomes the array of one sample: value = (pixel * scale / 255 - mean) / std.

    The defaults leave the size alone and give RGB in 0..1, channels first.

    Parameters
    ----------
    size
        Length in pixels that the shorter side is resized to (bilinear, antialiased), the other in proportion; None:
        as it is.
    crop
        Height and width in pixels, cut from the middle; None: the whole image. An image that already has this size is
        taken as it is, not resized.
    mean, std
        One value, or one for each channel in the order of ``order``, in units after scaling.
    layout
        ``NCHW`` or ``NHWC``.
    order
        ``RGB``, ``BGR`` or ``GREY`` (one channel, ITU-R 601 luma).
    scale
        What the brightest pixel is: 1 or 255.

    Raises
    ------
    UsageError
        A value that makes no sense, named.
    """

    size: int | None = None
    crop: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout = "NCHW"
    order: Order = "RGB"
    scale: Literal[1, 255] = 1

    def __post_init__(self) -> None:
        for name, value, known in (
            ("layout", self.layout, get_args(Layout)),
            ("order", self.order, get_args(Order)),
            ("scale", self.scale, (1, 255)),
        ):
            if value not in known:
                raise UsageError(f"image {name} {value} is unknown", f"one of {', '.join(map(str, known))}")
        if self.size is not None and self.size < 1:
            raise UsageError(f"image size {self.size}: at least 1 pixel")
        if self.crop is not None and min(self.crop) < 1:
            raise UsageError(f"image crop {self.crop[0]}x{self.crop[1]}: at least 1 pixel")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in {1, self.channels}:
                raise UsageError(
                    f"image {name} has {len(values)} values", f"give one, or {self.channels} for {self.order}"
                )
            if not all(isfinite(value) and (name == "mean" or value > 0) for value in values):
                text = ",".join(map(str, values))
                raise UsageError(f"image {name} {text}: must be finite, and a standard deviation above 0")

    @property
    def channels(self) -> int:
        """1 for grey, else 3."""
        return 1 if self.order == "GREY" else 3

    @classmethod
    def imagenet(cls) -> ImageOptions:
        """Shorter side 256, centre 224x224, RGB in 0..1, ImageNet's mean and deviation: torchvision's convention."""
        return cls(size=256, crop=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    @classmethod
    def caffe(cls) -> ImageOptions:
        """Shorter side 256, centre 224x224, BGR in 0..255 less 104, 117, 123: the convention of Caffe's models."""
        return cls(size=256, crop=(224, 224), mean=(104.0, 117.0, 123.0), order="BGR", scale=255)


@dataclass(frozen=True, slots=True, eq=False)
class ImagePart:
    """The images ``files`` (relative to ``folder``), one sample each, for one input; ``shape`` is the first one's.

    Where they may be ``varied``, others need only fit the input, and ``given``, the shape that an option gives it.
    """

    folder: Path
    files: tuple[Path, ...]
    item: Input
    options: ImageOptions
    shape: Shape
    given: Shape | None = None
    varied: bool = False

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def reading(self) -> str:
        """What decides the samples beside the folder: how they are read, and a digest of which files these are.

        By name, size and time: a folder is no younger when a file in it is overwritten, or goes to another class.
        """
        found = sha256()
        for file in self.files:
            found.update(f"{file.as_posix()}\0{_stamp(self.folder / file)}\n".encode("utf-8", "surrogateescape"))
        return f"{self.options} {self.given} {found.hexdigest()}"

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.files)

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Shape of one sample, by input name."""
        return {self.item.name: self.shape}

    def read(self, chosen: Sequence[int], size: int) -> Iterator[dict[str, Array]]:
        """Read the images of the rising indices ``chosen``, at most ``size`` at a time.

        Raises
        ------
        ModelError
            A file that is no image, or an image of another size than the first.
        """
        waiting: list[Array] = []
        for index in chosen:
            path = self.folder / self.files[index]
            sample = cast(str(path), self.item, self._load(path)[np.newaxis], [0])
            if waiting and (len(waiting) == size or waiting[0].shape != sample.shape):
                yield {self.item.name: np.concatenate(waiting)}
                waiting = []
            waiting.append(sample)
        if waiting:
            yield {self.item.name: np.concatenate(waiting)}

    def _load(self, path: Path) -> Array:
        image = load_image(path, self.options)
        if image.shape == self.shape:
            return image
        if self.varied:
            _fit(path, self.item, image.shape, self.given, self.options)
            return image
        raise ModelError(
            f"{path} gives a sample of {_text(image.shape)}, {self.folder / self.files[0]} one of {_text(self.shape)}",
            "give --image-size and --image-crop, so that all become the same",
        )


def open_images(
    folder: Path,
    files: Sequence[Path],
    inputs: Sequence[Input],
    given: Mapping[str, Shape],
    options: ImageOptions,
    *,
    varied: bool = False,
) -> ImagePart:
    """Make a part of the images ``files``, relative to ``folder``; the first one is read to see that it fits.

    Raises
    ------
    UsageError
        Pillow is not installed, or the model has several inputs.
    ModelError
        The first file is no image, or does not fit the input.
    """
    if len(inputs) != 1:
        names = ", ".join(item.name for item in inputs)
        raise UsageError(
            f"{folder} holds images, the model takes {len(inputs)} inputs: {names}", "give an .npz file with all"
        )
    item, first = inputs[0], folder / files[0]
    shape = load_image(first, options).shape
    _fit(first, item, shape, given.get(item.name), options)
    free = item.dims is None or not item.dims or not isinstance(item.dims[0], int)
    return ImagePart(folder, tuple(files), item, options, shape, given.get(item.name), varied=varied and free)


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return the size of a file in bytes and when it was changed; None where that cannot be told."""
    try:
        known = path.stat()
    except OSError:  # it is not told here that it is gone, but when it is read
        return None
    return known.st_size, known.st_mtime_ns


def _fit(path: Path, item: Input, shape: Shape, given: Shape | None, options: ImageOptions) -> None:
    try:
        fit_shape(f"{path}, read as {options.layout} {options.order},", item, (1, *shape), given)
    except ModelError as error:
        hint = "set --image-preset, or --image-size, --image-crop, --image-layout and --image-order"
        raise ModelError(error.message, hint) from error


def load_image(path: Path, options: ImageOptions) -> Array:
    """Read one image as float32, [C,H,W] or [H,W,C] by ``options.layout``; an EXIF rotation is not applied.

    Raises
    ------
    UsageError
        Pillow is not installed.
    ModelError
        The file is no image, has more than 8 bits a channel, or is smaller than the crop.
    """
    image = _decode(path, "L" if options.order == "GREY" else "RGB")
    width, height = image.size
    if options.crop is None or (height, width) != options.crop:
        image = _resized(image, options.size)
        image = _cropped(path, image, options.crop)
    pixels: Array = np.asarray(image, dtype=np.float32).reshape(image.height, image.width, options.channels)
    if options.order == "BGR":
        pixels = pixels[:, :, ::-1]
    if options.scale == 1:
        pixels = pixels / np.float32(255)
    pixels = (pixels - np.asarray(options.mean, np.float32)) / np.asarray(options.std, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if options.layout == "NCHW" else pixels)


def _decode(path: Path, mode: str) -> Image:
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError("images are read with Pillow, which is not installed", "pip install onnxlr[images]") from error
    # SyntaxError is what Pillow raises for some damaged PNG files.
    failures = (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError)
    try:
        with Image.open(path) as image:
            if image.mode.startswith(_DEEP):
                raise ModelError(f"{path} has more than 8 bits a channel", "convert it, or give .npy arrays")
            if "transparency" in image.info:  # Pillow warns of a palette's transparency unless it goes this way
                return image.convert("RGBA").convert(mode)
            return image.convert(mode)
    except failures as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
        raise ModelError(f"cannot read the image {path}: {reason}", "repair it or take it away") from error


def _resized(image: Image, size: int | None) -> Image:
    """Bring the shorter side to ``size``; the longer one is rounded down, as torchvision does."""
    if size is None:
        return image
    shorter = min(image.size)
    width, height = (max(1, side * size // shorter) for side in image.size)
    from PIL import Image

    return image.resize((width, height), Image.Resampling.BILINEAR)


def _cropped(path: Path, image: Image, crop: tuple[int, int] | None) -> Image:
    if crop is None:
        return image
    height, width = crop
    if image.height < height or image.width < width:
        raise ModelError(
            f"{path} is {image.height}x{image.width} pixels, less than the crop of {height}x{width}",
            "give --image-size to resize it to before",
        )
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))
