"""Random changes of training images, the same for the same seed and step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch.nn import functional

from onnxlr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


class Augmentation(Protocol):
    """Changes a batch of images (n, c, h, w), each in its own way, which ``rng`` and n decide and nothing else."""

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the changed images."""
        ...


@dataclass(frozen=True, slots=True)
class Flip:
    """Mirror left and right with probability one half."""

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the images, some of them mirrored."""
        chosen = torch.from_numpy(rng.random(len(images)) < 0.5)
        return torch.where(chosen[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True, slots=True)
class Crop:
    """Move by up to ``pixels`` in both directions, with zeros where nothing is known."""

    pixels: int

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the moved images."""
        n, _, height, width = images.shape
        wide = functional.pad(images, [self.pixels] * 4)
        corners = rng.integers(0, 2 * self.pixels + 1, (n, 2)).tolist()
        cut = [one[:, y : y + height, x : x + width] for one, (y, x) in zip(wide, corners, strict=True)]
        return torch.stack(cut)


def augmented(
    inputs: Mapping[str, Tensor], changes: Sequence[Augmentation], seed: tuple[int, ...]
) -> dict[str, Tensor]:
    """Return the inputs of a batch by name, images among them changed.

    All images of one sample move alike: what they show goes together.
    """
    out = dict(inputs)
    for name, value in inputs.items():
        if value.ndim == 4 and value.is_floating_point():
            rng = np.random.default_rng(seed)  # of its own, so that it draws what the other inputs' draw
            for change in changes:
                out[name] = change(out[name], rng)
    return out


def parse_augment(text: str) -> tuple[Augmentation, ...]:
    """Parse ``flip,crop:4``.

    Raises
    ------
    UsageError
        When it is not of that form.
    """
    made: list[Augmentation] = []
    for part in filter(None, text.split(",")):
        name, _, amount = part.strip().partition(":")
        if name == "flip" and not amount:
            made.append(Flip())
        elif name == "crop" and amount.isdigit() and int(amount) > 0:
            made.append(Crop(int(amount)))
        else:
            raise UsageError(f"--augment {text}: {part!r} is no augmentation", "for example --augment flip,crop:4")
    return tuple(made)
