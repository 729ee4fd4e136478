"""Fold an inference BatchNormalization into the Conv before it.

Per output channel o, with s = scale / sqrt(var + epsilon): W'[o] = s[o] W[o] and b'[o] = s[o] (b[o] - mean[o]) + B[o]
(Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018,
section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxlr_passes.base import Change, PassResult
from onnxlr_passes.cleanup import remove_orphans
from onnxlr_passes.constants import FLOAT_TYPES, Constant, Constants
from onnxlr_passes.scopes import DEFAULT_DOMAINS, fresh_name, scopes, value_names
from onnxlr_passes.unlist_initializers import allow_unlisted_initializers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from onnxlr_passes.scopes import Scope

_FIRST_OPSET = 7  # before, BatchNormalization has is_test and consumed_inputs
_TRAINING_MODE = 14
_SPATIAL_DROPPED = 9
_DEFAULT_EPSILON = float(np.float32(1e-5))  # attributes are float32


@dataclass(frozen=True, slots=True)
class FoldBatchNorm:
    """Fold Conv -> BatchNormalization where all weights are constant and only the BatchNormalization reads the Conv.

    The Conv keeps its name, attributes, doc string and metadata and takes over the output name of the
    BatchNormalization, so nothing downstream changes. Weights are computed in float64 and written in the Conv's type
    under new names (``<output>/folded_weight``): a weight that other nodes share stays as it is, one that nothing else
    reads goes. A fold that would not give finite weights is left alone. ``folder`` is where external data lies.
    """

    folder: Path | None = None

    @property
    def name(self) -> str:
        """How messages call this pass."""
        return "fold-batchnorm"

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Give a copy of ``model`` with its BatchNormalizations folded, or ``model`` itself when none can be.

        Raises
        ------
        PassError
            When the data of a weight cannot be read.
        """
        if not any(True for _ in _folds(model, self.folder)):
            return PassResult(model)
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        changes: list[Change] = []
        while done := _run(copy, self.folder):  # one BatchNormalization of a row of them each time
            changes.extend(done)
        if not changes:
            return PassResult(model)
        return PassResult(copy, (*changes, *allow_unlisted_initializers(copy)))


@dataclass(frozen=True, slots=True, eq=False)
class _Fold:
    scope: Scope
    conv: onnx.NodeProto
    norm: onnx.NodeProto
    epsilon: float
    weight: Constant  # (M, C / group, *kernel)
    bias: Constant | None  # (M,)
    moments: tuple[Constant, Constant, Constant, Constant]  # scale, B, mean, var: (M,) each

    @property
    def orphans(self) -> set[str]:
        """The values this fold stops reading, and the Conv's old output."""
        return {*self.conv.input[1:], *self.norm.input[1:], self.conv.output[0]}


def _run(model: onnx.ModelProto, folder: Path | None) -> list[Change]:
    taken = value_names(model)
    changes: list[Change] = []
    orphans: set[str] = set()
    for fold in list(_folds(model, folder)):
        arrays = _folded(fold)
        if arrays is None:
            continue
        orphans |= fold.orphans
        changes.append(_apply(fold, *arrays, taken))
    return changes + remove_orphans(model, orphans)


def _folds(model: onnx.ModelProto, folder: Path | None) -> Iterator[_Fold]:
    constants = Constants(model, folder)
    for scope in scopes(model):
        if scope.opset < _FIRST_OPSET:
            continue
        for norm in scope.nodes:
            if norm.op_type == "BatchNormalization" and norm.domain in DEFAULT_DOMAINS:
                fold = _fold(scope, norm, constants)
                if fold is not None:
                    yield fold


def _fold(scope: Scope, norm: onnx.NodeProto, constants: Constants) -> _Fold | None:
    conv = _conv_before(scope, norm)
    epsilon = _inference_epsilon(scope, norm)
    if conv is None or epsilon is None:
        return None
    found = [constants.resolve(scope, name) for name in (conv.input[1], *norm.input[1:5])]
    if len(conv.input) > 2 and conv.input[2]:
        found.append(constants.resolve(scope, conv.input[2]))
    known = [value for value in found if isinstance(value, Constant) and value.dtype in FLOAT_TYPES]
    if len(known) != len(found) or len(found) < 5:
        return None
    weight, scale, shift, mean, variance, *bias = known
    if len(weight.shape) < 3 or any(value.shape != weight.shape[:1] for value in known[1:]):
        return None
    return _Fold(scope, conv, norm, epsilon, weight, bias[0] if bias else None, (scale, shift, mean, variance))


def _conv_before(scope: Scope, norm: onnx.NodeProto) -> onnx.NodeProto | None:
    name = norm.input[0] if len(norm.input) == 5 else ""
    conv = scope.producer(name)
    if conv is None or conv.op_type != "Conv" or conv.domain not in DEFAULT_DOMAINS or len(conv.input) < 2:
        return None
    alone = scope.where(name) is scope and len(scope.consumers(name)) == 1 and not scope.is_output(name)
    return conv if alone else None


def _inference_epsilon(scope: Scope, norm: onnx.NodeProto) -> float | None:
    """Give epsilon when ``norm`` normalizes each channel by the moments given, else None."""
    if any(attribute.ref_attr_name for attribute in norm.attribute) or any(norm.output[1:]):
        return None
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in norm.attribute}
    if scope.opset >= _TRAINING_MODE and attributes.get("training_mode", 0):
        return None
    if scope.opset < _SPATIAL_DROPPED and not attributes.get("spatial", 1):
        return None
    return float(attributes.get("epsilon", _DEFAULT_EPSILON))


def _folded(fold: _Fold) -> tuple[NDArray[np.generic], NDArray[np.generic]] | None:
    """Compute weight and bias in float64; give them in the Conv's type, or None when a fold loses finite values."""
    scale, shift, mean, variance = (value.array.astype(np.float64) for value in fold.moments)
    weight = fold.weight.array
    bias = np.zeros(weight.shape[0]) if fold.bias is None else fold.bias.array.astype(np.float64)
    with np.errstate(all="ignore"):  # whatever is not finite is refused below
        factor = scale / np.sqrt(variance + fold.epsilon)
        new_weight = weight.astype(np.float64) * factor.reshape(-1, *[1] * (weight.ndim - 1))
        new_bias = (bias - mean) * factor + shift
        written = new_weight.astype(weight.dtype), new_bias.astype(weight.dtype)
    if not all(np.isfinite(array.astype(np.float64)).all() for array in written):
        return None
    return written


def _apply(fold: _Fold, weight: NDArray[np.generic], bias: NDArray[np.generic], taken: set[str]) -> Change:
    conv, norm = fold.conv, fold.norm
    output = norm.output[0]
    names = [fresh_name(f"{output}/folded_{part}", taken) for part in ("weight", "bias")]
    position = next(place for place, node in enumerate(fold.scope.nodes) if node is conv)
    for name, array in zip(names, (weight, bias), strict=True):
        tensor = numpy_helper.from_array(array, name)
        if fold.scope.graph is not None:
            fold.scope.graph.initializer.append(tensor)
        else:  # a function holds no initializers
            fold.scope.nodes.insert(position, helper.make_node("Constant", [], [name], name, value=tensor))
    conv.input[:] = [conv.input[0], *names]
    fold.scope.nodes.remove(norm)
    conv.output[0] = output
    what = f"BatchNormalization '{norm.name or output}' folded into weight and bias"
    listed = [value.origin for value in (fold.weight, fold.bias, *fold.moments) if value and value.listed_as_input]
    if listed:
        what += f"; feeding {', '.join(listed)} at run time no longer has an effect on it"
    return Change(conv.name or output, what)
