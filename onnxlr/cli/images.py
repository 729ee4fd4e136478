"""Options that say how image files become inputs, and their parser."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from onnxlr.errors import UsageError

if TYPE_CHECKING:
    from onnxlr.calibration import ImageOptions


class Preset(StrEnum):
    """Conventions by name."""

    IMAGENET = "imagenet"
    CAFFE = "caffe"
    UNIT = "unit"


class Layout(StrEnum):
    """Where the channels are."""

    NCHW = "NCHW"
    NHWC = "NHWC"


class Order(StrEnum):
    """Channel orders."""

    RGB = "RGB"
    BGR = "BGR"
    GREY = "GREY"


ImagePreset = Annotated[
    Optional[Preset],  # noqa: UP045 - typer reads the annotations at run time
    typer.Option(
        "--image-preset",
        help="How image files become inputs: imagenet (shorter side 256, centre 224, RGB, ImageNet's mean and "
        "deviation), caffe (the same size, BGR in 0..255 less 104,117,123), unit (as they are, RGB in 0..1; the "
        "default). The options below change single parts of it.",
        show_default=False,
    ),
]
ImageSize = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--image-size", help="Pixels the shorter side is resized to.", min=1, show_default=False),
]
ImageCrop = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--image-crop", metavar="HxW", help="Pixels cut from the middle, as 224x224.", show_default=False),
]
ImageMean = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--image-mean", metavar="A[,B,C]", help="Subtracted, one value or one a channel.", show_default=False),
]
ImageStd = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--image-std", metavar="A[,B,C]", help="Divided by, after that.", show_default=False),
]
ImageScale = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--image-scale", help="What the brightest pixel is, 1 or 255.", show_default=False),
]
ImageLayout = Annotated[
    Optional[Layout],  # noqa: UP045
    typer.Option("--image-layout", help="Where the channels are.", show_default=False),
]
ImageOrder = Annotated[
    Optional[Order],  # noqa: UP045
    typer.Option("--image-order", help="Order of the channels.", show_default=False),
]


def image_options(
    preset: Preset | None,
    *,
    size: int | None,
    crop: str | None,
    mean: str | None,
    std: str | None,
    scale: int | None,
    layout: Layout | None,
    order: Order | None,
) -> ImageOptions | None:
    """Return the preset with what was said beside it; None where nothing was said.

    Raises
    ------
    UsageError
        When a value is not of its form, or values do not go together.
    """
    from onnxlr.calibration import ImageOptions

    said: dict[str, Any] = {
        "size": size,
        "crop": None if crop is None else _crop(crop),
        "mean": None if mean is None else _numbers("--image-mean", mean),
        "std": None if std is None else _numbers("--image-std", std),
        "scale": scale,
        "layout": None if layout is None else layout.value,
        "order": None if order is None else order.value,
    }
    said = {name: value for name, value in said.items() if value is not None}
    if preset is None and not said:
        return None
    start = {Preset.IMAGENET: ImageOptions.imagenet, Preset.CAFFE: ImageOptions.caffe}.get(preset or Preset.UNIT)
    return replace(ImageOptions() if start is None else start(), **said)


def _crop(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and (width or height).isdigit()):
        raise UsageError(f"--image-crop {text} is not HxW", "for example 224x224")
    return int(height), int(width or height)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} {text} is not a list of numbers", "for example 0.485,0.456,0.406") from error
