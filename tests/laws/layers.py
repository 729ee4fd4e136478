"""Layers of every shape for hypothesis, and a convolution in plain numpy to hold everything else against."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from onnxlr.schemes.base import Layer, LayerShape, Ranks, Scheme
from onnxlr.schemes.registry import all_schemes
from onnxlr_passes.geometry import Geometry

if TYPE_CHECKING:
    from onnxlr_passes.chain import Chain

SCHEMES = {scheme.name: scheme for scheme in all_schemes()}
CLOSED_FORMS = tuple(name for name, s in SCHEMES.items() if s.family in {"basis", "projection", "separable"})
# Families that fit every rank anew; their errors at lower ranks have tests of their own beside the solvers'.
FITTED = tuple(name for name, s in SCHEMES.items() if s.family in {"cp3", "cp4"})
# Families whose claimed error is that of a start which the fit only improves.
BOUNDED = tuple(name for name, s in SCHEMES.items() if s.family in {"tucker2", "asym3d", "mixed"})


@dataclass(frozen=True)
class Kinds:
    """Which layers to draw; by default every kind there is."""

    groups: tuple[int, ...] = (1, 1, 2, 3)
    axes: tuple[int, ...] = (2, 2, 2, 3, 1, 0)
    least_kernel: int = 1
    roomy: tuple[bool, ...] = (True, False)  # padded all around, as networks are


EVERY_KIND = Kinds()


def suited(name: str) -> Kinds:
    """Layers that a scheme does not refuse, mostly."""
    family = SCHEMES[name].family
    if family == "mixed":
        return Kinds(groups=(1,), axes=(2,), least_kernel=2, roomy=(True,))
    if family in {"separable", "asym3d", "cp4"}:
        return Kinds(axes=(2, 2, 3))
    return Kinds() if family == "basis" else Kinds(axes=(2, 2, 3, 1))


@st.composite
def geometries(draw: st.DrawFn, kinds: Kinds) -> Geometry:
    """Each axis has its own kernel, stride, dilation and pads at either end; linear maps have no groups."""
    rank = draw(st.sampled_from(kinds.axes))
    group = draw(st.sampled_from(kinds.groups)) if rank else 1
    kernel = tuple(draw(st.integers(kinds.least_kernel, 4 if rank < 3 else 3)) for _ in range(rank))
    strides = tuple(draw(st.sampled_from([1, 1, 2, 3])) for _ in range(rank))
    dilations = tuple(draw(st.sampled_from([1, 1, 2])) for _ in range(rank))
    roomy = draw(st.sampled_from(kinds.roomy))
    least = [(k - 1) * d if roomy else 0 for k, d in zip(kernel, dilations, strict=True)]
    pads = tuple((low + draw(st.integers(0, 2)), low + draw(st.integers(0, 2))) for low in least)
    return Geometry(kernel, strides, dilations, pads, group)


@st.composite
def layers(draw: st.DrawFn, kinds: Kinds = EVERY_KIND) -> Layer:
    """Random kernels, full or of low rank, large or small, one in many all zero."""
    geometry = draw(geometries(kinds))
    group = geometry.group
    # One input channel per group is depthwise, which no pass hands to a scheme.
    out, into = draw(st.integers(1, 7)), draw(st.integers(1 if group == 1 else 2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (group * out, into, *geometry.kernel)
    kind = draw(st.sampled_from(["full", "full", "low rank", "zero"]))
    if kind == "zero":
        return Layer(np.zeros(shape), geometry)
    if kind == "low rank":
        weight = rng.standard_normal((shape[0], 1)) @ rng.standard_normal((1, into * geometry.taps))
    else:
        weight = rng.standard_normal((shape[0], into * geometry.taps))
    return Layer(weight.reshape(shape) * draw(st.sampled_from([1.0, 1e-3, 1e3])), geometry)


def accepted(draw: st.DataObject, name: str) -> tuple[Scheme, Layer]:
    """Draw a layer the scheme takes."""
    scheme = SCHEMES[name]
    return scheme, draw.draw(layers(suited(name)).filter(lambda layer: scheme.refusal(layer.shape) is None))


def somewhere(draw: st.DataObject, scheme: Scheme, shape: LayerShape) -> Ranks:
    """Draw ranks between 1 and full; full ones where every other rank is a fit of half a second."""
    if scheme.name in FITTED:
        return scheme.full_rank(shape)
    return tuple(draw.draw(st.integers(1, full)) for full in scheme.full_rank(shape))


def convolve(x: np.ndarray, weight: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Convolve (N, C, *size) by definition: a sum over the taps of shifted, strided inputs."""
    rank, group = geometry.rank, geometry.group
    padded = np.pad(x, ((0, 0), (0, 0), *geometry.pads))
    size = geometry.output_size(x.shape[2:])
    parts = padded.reshape(x.shape[0], group, -1, *padded.shape[2:])
    kernels = weight.reshape(group, -1, *weight.shape[1:])
    total = np.zeros((x.shape[0], group, kernels.shape[1], *size))
    for tap in product(*map(range, geometry.kernel)):
        starts = [tap[axis] * geometry.dilations[axis] for axis in range(rank)]
        window = tuple(
            slice(start, start + (n - 1) * stride + 1, stride)
            for start, n, stride in zip(starts, size, geometry.strides, strict=True)
        )
        total += np.einsum("ngc...,gtc->ngt...", parts[(..., *window)], kernels[(..., *tap)])
    return total.reshape(x.shape[0], -1, *size)


def run_chain(chain: Chain, x: np.ndarray) -> np.ndarray:
    """Run the convolutions of a chain one after the other."""
    for step in chain.steps:
        x = np.concatenate([convolve(x, stage.weight, stage.geometry) for stage in step], axis=1)
    return x


def input_for(layer: Layer, seed: int = 0, extra: int = 5) -> np.ndarray:
    """Give a batch of two inputs just large enough that the kernel moves."""
    geometry = layer.geometry
    reach = [d * (k - 1) + 1 for k, d in zip(geometry.kernel, geometry.dilations, strict=True)]
    size = tuple(max(r - sum(p), 1) + extra for r, p in zip(reach, geometry.pads, strict=True))
    return np.random.default_rng(seed).standard_normal((2, layer.shape.in_channels, *size))
