"""Every operator the executor has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxlr.training.executor import (
    activations,
    constants,
    conv,
    elementwise,
    linear,
    normalize,
    pooling,
    reduce,
    resize,
    select,
    shape,
)

if TYPE_CHECKING:
    from onnxlr.training.executor.call import Operator


def operators() -> dict[str, Operator]:
    """Return the function of every operator of the default domain, by its type."""
    modules = (
        activations, constants, conv, elementwise, linear, normalize, pooling, reduce, resize, select, shape,
    )  # fmt: skip
    return {name: function for module in modules for name, function in module.TABLE.items()}
