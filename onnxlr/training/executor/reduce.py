"""Reductions over axes, which are an attribute in older opsets and an input in newer ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from onnxlr.training.executor.call import Call, Operator

    Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _reduced(function: Reduction) -> Callable[[Call], Tensor]:
    def apply(call: Call) -> Tensor:
        axes = call.axes(1)
        if not axes and call.node.integer("noop_with_empty_axes", 0):
            return call[0]
        every = list(range(call[0].ndim))
        return function(call[0], axes or every, bool(call.node.integer("keepdims", 1)))

    return apply


def _product(value: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % value.ndim for axis in axes), reverse=True):
        value = value.prod(axis, keepdim=keep)
    return value


def _mean(value: Tensor, axes: list[int], keep: bool) -> Tensor:
    return value.mean(axes, keepdim=keep)


def _sum(value: Tensor, axes: list[int], keep: bool) -> Tensor:
    return value.sum(axes, keepdim=keep, dtype=value.dtype)


def _l1(value: Tensor, axes: list[int], keep: bool) -> Tensor:
    return value.abs().sum(axes, keepdim=keep, dtype=value.dtype)


def _l2(value: Tensor, axes: list[int], keep: bool) -> Tensor:
    return value.square().sum(axes, keepdim=keep).sqrt()


def _log_sum(value: Tensor, axes: list[int], keep: bool) -> Tensor:
    return value.sum(axes, keepdim=keep).log()


def _log_sum_exp(value: Tensor, axes: list[int], keep: bool) -> Tensor:
    return value.logsumexp(axes, keepdim=keep)


def _sum_square(value: Tensor, axes: list[int], keep: bool) -> Tensor:
    return value.square().sum(axes, keepdim=keep, dtype=value.dtype)


def _max(value: Tensor, axes: list[int], keep: bool) -> Tensor:
    return value.amax(axes, keepdim=keep)


def _min(value: Tensor, axes: list[int], keep: bool) -> Tensor:
    return value.amin(axes, keepdim=keep)


def _argument(function: Callable[[Tensor, int, bool], Tensor]) -> Callable[[Call], Tensor]:
    def apply(call: Call) -> Tensor:
        if call.node.integer("select_last_index", 0):
            raise call.node.refusal("select_last_index is not covered")
        return function(call[0], call.node.integer("axis", 0), bool(call.node.integer("keepdims", 1)))

    return apply


TABLE: Final[Mapping[str, Operator]] = {
    "ReduceMean": _reduced(_mean),
    "ReduceSum": _reduced(_sum),
    "ReduceMax": _reduced(_max),
    "ReduceMin": _reduced(_min),
    "ReduceProd": _reduced(_product),
    "ReduceL1": _reduced(_l1),
    "ReduceL2": _reduced(_l2),
    "ReduceLogSum": _reduced(_log_sum),
    "ReduceLogSumExp": _reduced(_log_sum_exp),
    "ReduceSumSquare": _reduced(_sum_square),
    "ArgMax": _argument(torch.argmax),
    "ArgMin": _argument(torch.argmin),
}
