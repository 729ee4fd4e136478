"""Matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from onnxlr.training.executor.call import Call, Operator


def gemm(call: Call) -> Tensor:
    """Gemm: alpha A B + beta C."""
    node, left, right, added = call.node, call[0], call[1], call.get(2)
    left = left.T if node.integer("transA", 0) else left
    right = right.T if node.integer("transB", 0) else right
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    product = left @ right
    product = product if alpha == 1.0 else alpha * product
    return product if added is None else product + (added if beta == 1.0 else beta * added)


def matmul(call: Call) -> Tensor:
    """MatMul, with numpy's broadcasting."""
    return torch.matmul(call[0], call[1])


def einsum(call: Call) -> Tensor:
    """Einsum."""
    return torch.einsum(call.node.text("equation", ""), *call.given())


TABLE: Final[Mapping[str, Operator]] = {"Gemm": gemm, "MatMul": matmul, "Einsum": einsum}
