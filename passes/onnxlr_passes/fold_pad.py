"""Fold an explicit zero Pad into the pads of the Conv behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from onnxlr_passes.base import Change, PassResult
from onnxlr_passes.cleanup import remove_orphans
from onnxlr_passes.constants import Constant, Constants
from onnxlr_passes.scopes import DEFAULT_DOMAINS, scopes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onnxlr_passes.scopes import Scope

# Before opset 2 the attribute is called paddings; before opset 7 Conv itself is not covered anywhere in this package.
_FIRST_OPSET = 7
_PADS_AS_INPUT = 11


@dataclass(frozen=True, slots=True)
class FoldPad:
    """Fold Pad -> Conv where the Pad adds zeros (mode constant) to spatial axes only and only the Conv reads it.

    Conv must have explicit pads (auto_pad NOTSET or VALID). ``folder`` is where external data lies.
    """

    folder: Path | None = None

    @property
    def name(self) -> str:
        """How messages call this pass."""
        return "fold-pad"

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Give a copy of ``model`` with its Pads folded, or ``model`` itself when none can be."""
        if not any(True for _ in _folds(model, self.folder)):
            return PassResult(model)
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        changes: list[Change] = []
        while folds := list(_folds(copy, self.folder)):  # one Pad of a row of them each time
            for fold in folds:
                fold.apply()
                changes.append(Change(fold.conv.name or fold.conv.output[0], f"Pad {fold.label} folded into pads"))
            changes.extend(remove_orphans(copy, {name for fold in folds for name in fold.orphans}))
        return PassResult(copy, tuple(changes))


@dataclass(frozen=True, slots=True, eq=False)
class _Fold:
    scope: Scope
    pad: onnx.NodeProto
    conv: onnx.NodeProto
    pads: list[int]  # of the Conv afterwards: begins, then ends
    orphans: frozenset[str]

    @property
    def label(self) -> str:
        return f"'{self.pad.name or self.pad.output[0]}'"

    def apply(self) -> None:
        self.conv.input[0] = self.pad.input[0]
        attributes = self.conv.attribute
        for position in reversed(range(len(attributes))):
            if attributes[position].name == "auto_pad":
                del attributes[position]
        given = next((attribute for attribute in attributes if attribute.name == "pads"), None)
        if given is None:
            attributes.append(helper.make_attribute("pads", self.pads))
        else:
            given.ints[:] = self.pads
        self.scope.nodes.remove(self.pad)


def _folds(model: onnx.ModelProto, folder: Path | None) -> Iterator[_Fold]:
    constants = Constants(model, folder)
    for scope in scopes(model):
        if scope.opset < _FIRST_OPSET:
            continue
        for conv in scope.nodes:
            if conv.op_type == "Conv" and conv.domain in DEFAULT_DOMAINS:
                fold = _fold(scope, conv, constants)
                if fold is not None:
                    yield fold


def _fold(scope: Scope, conv: onnx.NodeProto, constants: Constants) -> _Fold | None:
    pad = _pad_before(scope, conv)
    if pad is None or any(attribute.ref_attr_name for node in (pad, conv) for attribute in node.attribute):
        return None
    rank = _rank(scope, conv, constants)
    added = None if rank is None else _added(scope, pad, rank, constants)
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in conv.attribute}
    if rank is None or added is None or attributes.get("auto_pad", b"NOTSET") not in {b"", b"NOTSET", b"VALID"}:
        return None
    own = list(attributes.get("pads", ())) or [0] * (2 * (rank - 2))
    begins, ends = added[:rank], added[rank:]
    if len(own) != 2 * (rank - 2) or any(amount < 0 for amount in added) or any(begins[:2] + ends[:2]):
        return None
    pads = [mine + more for mine, more in zip(own, begins[2:] + ends[2:], strict=True)]
    return _Fold(scope, pad, conv, pads, frozenset(pad.input[1:]) | {pad.output[0]})


def _pad_before(scope: Scope, conv: onnx.NodeProto) -> onnx.NodeProto | None:
    name = conv.input[0] if conv.input else ""
    pad = scope.producer(name)
    if pad is None or pad.op_type != "Pad" or pad.domain not in DEFAULT_DOMAINS:
        return None
    alone = scope.where(name) is scope and len(scope.consumers(name)) == 1 and not scope.is_output(name)
    return pad if alone else None


def _rank(scope: Scope, conv: onnx.NodeProto, constants: Constants) -> int | None:
    for attribute in conv.attribute:
        if attribute.name == "kernel_shape":
            return 2 + len(attribute.ints)
    weight = constants.resolve(scope, conv.input[1]) if len(conv.input) > 1 else ""
    return len(weight.shape) if isinstance(weight, Constant) else None


def _added(scope: Scope, pad: onnx.NodeProto, rank: int, constants: Constants) -> list[int] | None:
    """Give the zeros ``pad`` adds before each of ``rank`` axes, then after each; None when it does anything else."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in pad.attribute}
    if attributes.get("mode", b"constant") != b"constant":
        return None
    if scope.opset < _PADS_AS_INPUT:
        pads = list(attributes.get("pads", ()))
        return pads if len(pads) == 2 * rank and attributes.get("value", 0.0) == 0 else None
    given = [*pad.input[1:], "", "", ""][:3]
    if given[1]:
        value = constants.resolve(scope, given[1])
        if isinstance(value, str) or np.any(value.array.astype(np.float64) != 0):
            return None
    amounts = constants.integers(scope, given[0])
    axes = constants.integers(scope, given[2]) if given[2] else list(range(rank))
    if isinstance(amounts, str) or isinstance(axes, str) or len(amounts) != 2 * len(axes):
        return None
    if any(not -rank <= axis < rank for axis in axes) or len({axis % rank for axis in axes}) != len(axes):
        return None
    added = [0] * (2 * rank)
    for position, axis in enumerate(axes):
        added[axis % rank] = amounts[position]
        added[rank + axis % rank] = amounts[len(axes) + position]
    return added
