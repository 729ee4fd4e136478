"""Labelled 24x24 grey character patches, rendered from font faces.

Classes: 0-9 are the digits, 10-35 the letters A-Z (capital and small drawn alike often), 36 is background. A glyph
keeps its aspect ratio; its longer side covers 14 to 21 pixels. What varies: rotation, shear, size, position, pieces of
neighbouring characters, blur, contrast and its sign, a gradient or textured ground, noise.
"""

from __future__ import annotations

import multiprocessing
import string
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fonts import Face

SIZE = 24
CLASSES = 37
BACKGROUND = 36
CLASS_NAMES = (*string.digits, *string.ascii_uppercase, "background")
SUPERSAMPLING = 3
GLYPH_SIZE = 60  # font size in pixels, close to the supersampled patch so that one bilinear pass suffices
CHUNK = 1000  # patches that share one random stream: the result does not depend on the number of processes

Patches = NDArray[np.uint8]
Labels = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Glyph:
    """Ink of one character (uint8 image) and the height of its top edge in the line, in pixels of GLYPH_SIZE."""

    ink: Image.Image
    top: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the patch looks: centre (pixels of the line), scale (patch pixels per line pixel), angle (rad), shear."""

    x: float
    y: float
    scale: float
    angle: float
    shear: float


def render(faces: Sequence[Face], count: int, seed: int, processes: int = 1) -> tuple[Patches, Labels]:
    """Render `count` patches: uint8 [count, 1, 24, 24] and uint8 labels [count].

    The result is fixed by `faces`, `count`, `seed` and the versions of Pillow, FreeType and numpy. Every family is
    drawn equally often. Raises ValueError if `faces` is empty.
    """
    if not faces:
        raise ValueError("no usable font face: fetch the fonts first (fonts.py)")
    families: dict[str, list[Path]] = defaultdict(list)
    for face in faces:
        families[face.family].append(face.path)
    pools = tuple(tuple(paths) for _, paths in sorted(families.items()))
    jobs = [(pools, min(CHUNK, count - start), seed, start) for start in range(0, count, CHUNK)]
    if processes == 1:
        chunks = [_render_chunk(job) for job in jobs]
    else:
        with multiprocessing.Pool(processes) as pool:
            chunks = pool.map(_render_chunk, jobs, chunksize=1)
    return np.concatenate([patches for patches, _ in chunks]), np.concatenate([labels for _, labels in chunks])


def _render_chunk(job: tuple[tuple[tuple[Path, ...], ...], int, int, int]) -> tuple[Patches, Labels]:
    pools, count, seed, start = job
    rng = np.random.default_rng([seed, start])
    patches = np.empty((count, 1, SIZE, SIZE), np.uint8)
    labels = rng.integers(0, CLASSES, count).astype(np.uint8)
    for index, label in enumerate(labels):
        pool = pools[rng.integers(len(pools))]
        path = pool[rng.integers(len(pool))]
        ink = _background_ink(rng, path) if label == BACKGROUND else _character_ink(rng, path, int(label))
        patches[index, 0] = _paint(rng, ink)
    return patches, labels


def _character_ink(rng: np.random.Generator, path: Path, label: int) -> Image.Image:
    name = CLASS_NAMES[label]
    glyph = _glyph(path, name.lower() if rng.random() < 0.5 else name)
    width, height = glyph.ink.size
    left = _random_glyph(rng, path) if rng.random() < 0.5 else None
    right = _random_glyph(rng, path) if rng.random() < 0.5 else None
    line, origin = _line(rng, left, glyph, right)
    scale = rng.uniform(14, 21) / max(width, height)
    jitter = rng.uniform(-2, 2, 2) / scale
    centre = (origin + width / 2 + jitter[0], glyph.top + height / 2 + jitter[1])
    return _look(line, Placement(*centre, scale, _angle(rng), rng.normal(0, 0.1)))


def _background_ink(rng: np.random.Generator, path: Path) -> Image.Image:
    """Ink that is no character: nothing, strokes and edges, the gap between two characters, a far-off glyph."""
    kind = rng.random()
    if kind < 0.2:
        return Image.new("L", (SIZE * SUPERSAMPLING, SIZE * SUPERSAMPLING))
    if kind < 0.45:
        return _shapes(rng)
    glyph = _random_glyph(rng, path)
    width, height = glyph.ink.size
    scale = rng.uniform(15, 24) / max(width, height, 30)
    if kind < 0.75:
        line, origin = _line(rng, None, glyph, _random_glyph(rng, path))
        x, y = origin + width + 2.0, glyph.top + height / 2 + rng.normal(0, 3) / scale
    else:
        line, origin = _line(rng, None, glyph, None)
        turn = rng.uniform(0, 2 * np.pi)
        x = origin + width / 2 + np.cos(turn) * (width / 2 + rng.uniform(2, 9) / scale)
        y = glyph.top + height / 2 + np.sin(turn) * (height / 2 + rng.uniform(2, 9) / scale)
    return _look(line, Placement(x, y, scale, _angle(rng), rng.normal(0, 0.1)))


def _angle(rng: np.random.Generator) -> float:
    return float(np.deg2rad(np.clip(rng.normal(0, 6), -15, 15)))


def _shapes(rng: np.random.Generator) -> Image.Image:
    side = SIZE * SUPERSAMPLING
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.5:  # an edge of some surface: half a plane
        turn, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3) * side
        normal = np.array([np.cos(turn), np.sin(turn)])
        along = np.array([-normal[1], normal[0]])
        foot = side / 2 + normal * offset
        corners = [foot + 2 * side * along, foot - 2 * side * along]
        corners += [corners[1] + 2 * side * normal, corners[0] + 2 * side * normal]
        draw.polygon([(float(x), float(y)) for x, y in corners], fill=255)
        return image
    for _ in range(rng.integers(1, 4)):  # long strokes that leave the patch on both sides
        turn = rng.uniform(0, np.pi)
        x, y = rng.uniform(0, side, 2)
        reach = np.array([np.cos(turn), np.sin(turn)]) * 2 * side
        ends = (float(x - reach[0]), float(y - reach[1]), float(x + reach[0]), float(y + reach[1]))
        draw.line(ends, fill=int(rng.integers(120, 256)), width=int(rng.integers(2, 15)))
    return image


def _random_glyph(rng: np.random.Generator, path: Path) -> Glyph:
    characters = string.digits + string.ascii_letters
    return _glyph(path, characters[rng.integers(len(characters))])


@lru_cache(maxsize=256)
def _font(path: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), GLYPH_SIZE)


@lru_cache(maxsize=40_000)
def _glyph(path: Path, character: str) -> Glyph:
    font = _font(path)
    left, top, right, bottom = (int(edge) for edge in font.getbbox(character))
    ink = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(ink).text((-left, -top), character, fill=255, font=font)
    return Glyph(ink, top)


def _line(rng: np.random.Generator, left: Glyph | None, middle: Glyph, right: Glyph | None) -> tuple[Image.Image, int]:
    """Set up to three glyphs on one line with a gap of 3 to 14 pixels; return the line and where `middle` starts."""
    gaps = rng.integers(3, 15, 2)
    origin = 0 if left is None else left.ink.width + int(gaps[0])
    end = origin + middle.ink.width
    width = end if right is None else end + int(gaps[1]) + right.ink.width
    bottoms = [glyph.top + glyph.ink.height for glyph in (left, middle, right) if glyph is not None]
    line = Image.new("L", (width, max(1, *bottoms)))
    line.paste(middle.ink, (origin, middle.top))
    if left is not None:
        line.paste(left.ink, (0, left.top))
    if right is not None:
        line.paste(right.ink, (end + int(gaps[1]), right.top))
    return line, origin


def _look(line: Image.Image, at: Placement) -> Image.Image:
    """Resample the line into a supersampled patch. The affine map takes patch pixels to line pixels."""
    side = SIZE * SUPERSAMPLING
    step = 1.0 / (at.scale * SUPERSAMPLING)
    cosine, sine = np.cos(at.angle) * step, np.sin(at.angle) * step
    a, b = cosine, sine + at.shear * cosine
    d, e = -sine, cosine - at.shear * sine
    half = side / 2
    matrix = (a, b, at.x - (a + b) * half, d, e, at.y - (d + e) * half)
    affine = tuple(float(entry) for entry in matrix)
    return line.transform((side, side), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)


def _paint(rng: np.random.Generator, ink: Image.Image) -> Patches:
    """Blur and shrink the ink, then lay it in one grey level over a ground of another; add noise."""
    blurred = ink.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.1, 0.9)) * SUPERSAMPLING))
    mask = np.asarray(blurred.reduce(SUPERSAMPLING), np.float32) / 255
    contrast = float(rng.uniform(50, 220))
    dark = float(rng.uniform(0, 255 - contrast))
    ground, colour = (dark + contrast, dark) if rng.random() < 0.5 else (dark, dark + contrast)
    texture = _texture(rng, 0.3 * contrast)
    inside = _texture(rng, 0.1 * contrast)
    patch = (ground + texture) * (1 - mask) + (colour + inside) * mask
    patch += rng.normal(0, rng.uniform(0, 0.07) * contrast, patch.shape)
    return np.clip(np.rint(patch), 0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, strength: float) -> Floats:
    """Smooth random grey: a gradient plus noise of one coarse grid, each of a random share of `strength`."""
    slope = rng.uniform(-1, 1, 2) * rng.random() * strength / SIZE
    steps = np.arange(SIZE) - SIZE / 2
    ground = steps[:, None] * slope[0] + steps[None, :] * slope[1]
    cells = int(rng.integers(2, 10))
    coarse = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    noise = np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    texture: Floats = (ground + noise * rng.random() * strength * 0.7).astype(np.float32)
    return texture
