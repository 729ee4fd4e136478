"""Arithmetic, comparisons and logic, element by element."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from onnxlr.training.executor.call import Call, Operator


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Call], Tensor]:
    def apply(call: Call) -> Tensor:
        return function(call[0])

    return apply


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], Tensor]:
    def apply(call: Call) -> Tensor:
        return function(call[0], call[1])

    return apply


def _many(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], Tensor]:
    def apply(call: Call) -> Tensor:
        return reduce(function, call.given())

    return apply


def divide(call: Call) -> Tensor:
    """Div: integers are truncated."""
    whole = not call[0].is_floating_point()
    return torch.div(call[0], call[1], rounding_mode="trunc" if whole else None)


def power(call: Call) -> Tensor:
    """Pow: the result has the type of the base."""
    return torch.pow(call[0], call[1]).to(call[0].dtype)


def modulo(call: Call) -> Tensor:
    """Mod: the sign of the divisor, or of the dividend with ``fmod``."""
    return (torch.fmod if call.node.integer("fmod", 0) else torch.remainder)(call[0], call[1])


def mean(call: Call) -> Tensor:
    """Mean of all inputs."""
    values = call.given()
    return reduce(torch.add, values) / len(values)


def where(call: Call) -> Tensor:
    """Where."""
    return torch.where(call[0], call[1], call[2])


TABLE: Final[Mapping[str, Operator]] = {
    "Add": _binary(torch.add),
    "Sub": _binary(torch.sub),
    "Mul": _binary(torch.mul),
    "Div": divide,
    "Pow": power,
    "Mod": modulo,
    "Max": _many(torch.maximum),
    "Min": _many(torch.minimum),
    "Sum": _many(torch.add),
    "Mean": mean,
    "Neg": _unary(torch.neg),
    "Abs": _unary(torch.abs),
    "Exp": _unary(torch.exp),
    "Log": _unary(torch.log),
    "Sqrt": _unary(torch.sqrt),
    "Reciprocal": _unary(torch.reciprocal),
    "Floor": _unary(torch.floor),
    "Ceil": _unary(torch.ceil),
    "Round": _unary(torch.round),
    "Sign": _unary(torch.sign),
    "Erf": _unary(torch.erf),
    "Sin": _unary(torch.sin),
    "Cos": _unary(torch.cos),
    "Not": _unary(torch.logical_not),
    "And": _binary(torch.logical_and),
    "Or": _binary(torch.logical_or),
    "Xor": _binary(torch.logical_xor),
    "Equal": _binary(torch.eq),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Where": where,
}
