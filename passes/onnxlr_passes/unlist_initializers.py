"""Initializers that are also listed as graph inputs: make them plain constants."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from onnxlr_passes.base import Change, PassResult

# From IR version 4 on, an initializer need not be listed among the inputs; before, it had to be.
_IR_VERSION = 4


def allow_unlisted_initializers(model: onnx.ModelProto) -> list[Change]:
    """Raise the IR version of ``model``, in place, to 4 where it is lower: for a pass that adds initializers."""
    if model.ir_version >= _IR_VERSION:
        return []
    change = Change(
        model.graph.name, f"IR version {model.ir_version} raised to {_IR_VERSION} for unlisted initializers"
    )
    model.ir_version = _IR_VERSION
    return [change]


@dataclass(frozen=True, slots=True)
class UnlistInitializers:
    """Remove every input of the main graph that has an initializer; inputs without one stay.

    Such an input is a default that the caller may replace at run time, so ONNX Runtime can neither fold it nor pack it
    into its blocked layout. Nobody can feed it afterwards: every change says so. A model of IR version below 4 is
    raised to 4, where unlisted initializers are allowed.
    """

    @property
    def name(self) -> str:
        """How messages call this pass."""
        return "unlist-initializers"

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Give a copy of ``model`` without the listed initializers, or ``model`` itself when none is listed."""
        held = {tensor.name for tensor in model.graph.initializer}
        held.update(tensor.values.name for tensor in model.graph.sparse_initializer)
        listed = [value.name for value in model.graph.input if value.name in held]
        if not listed:
            return PassResult(model)
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for position in reversed(range(len(copy.graph.input))):
            if copy.graph.input[position].name in held:
                del copy.graph.input[position]
        changes = [Change(name, "initializer is no longer an input: it cannot be fed at run time") for name in listed]
        return PassResult(copy, (*changes, *allow_unlisted_initializers(copy)))
