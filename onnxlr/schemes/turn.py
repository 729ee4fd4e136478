"""A layer's answers in coordinates in which all errors count alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from onnxlr.schemes.base import Layer

if TYPE_CHECKING:
    from onnxlr.schemes.base import Array
    from onnxlr_passes.chain import Chain

FLOOR = 0.02
"""Share of the identity in the matrix that errors are weighed by: an estimate is not to be trusted to the last."""


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """The symmetric root ``there`` (T, T) of the matrix, of mean diagonal 1, and its inverse ``back``."""

    there: Array
    back: Array

    @classmethod
    def of(cls, matrix: Array) -> Turn:
        """Weigh errors e as e^T G e, for a positive semidefinite ``matrix`` G (T, T); a zero matrix changes nothing."""
        level = float(np.trace(matrix)) / len(matrix)
        scaled = matrix / level if 0.0 < level < inf else np.eye(len(matrix))
        values, vectors = np.linalg.eigh((1.0 - FLOOR) * scaled + FLOOR * np.eye(len(matrix)))
        root = np.sqrt(np.maximum(values, FLOOR))
        return cls((vectors * root) @ vectors.T, (vectors / root) @ vectors.T)

    def layer(self, layer: Layer) -> Layer:
        """Return the layer that answers in these coordinates."""
        return Layer(np.tensordot(self.there, layer.weight, (1, 0)), layer.geometry)

    def chain(self, chain: Chain) -> Chain:
        """Return what a chain for the layer is in these coordinates, without its bias."""
        return _turned(chain, self.there)

    def undone(self, chain: Chain) -> Chain:
        """Return what a chain for the turned layer is for the layer."""
        return _turned(chain, self.back)


def _turned(chain: Chain, matrix: Array) -> Chain:
    (last,) = chain.steps[-1]
    turned = replace(last, weight=np.tensordot(matrix, last.weight, (1, 0)))
    return replace(chain, steps=(*chain.steps[:-1], (turned,)), bias=None)
