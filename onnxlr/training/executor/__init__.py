"""An ONNX inference graph as a differentiable torch module, one function per operator."""

from __future__ import annotations

from onnxlr.training.executor.graph import TorchGraph
from onnxlr.training.executor.table import operators

__all__ = ["TorchGraph", "operators"]
