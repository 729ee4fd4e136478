"""onnxlr takes a trained ONNX model and gives back a faster one, with proof.

``rewrite``, ``search``, ``inspect``, ``bench``, ``validate`` and ``finetune`` (for which torch must be installed) are
the API; what they raise is in ``onnxlr.errors``. Nothing heavy is imported before one of them is used.

ONNX Runtime's official builds report their use to Microsoft unless ``ORT_DISABLE_TELEMETRY=1`` is in the environment
when it is loaded. The command line sets it; in Python the process is its caller's, and so is this choice.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxlr.api import Rewrite, bench, inspect, rewrite, validate
    from onnxlr.evaluation import SessionMetric
    from onnxlr.front import search
    from onnxlr.planning.plan import Plan
    from onnxlr.training.api import finetune

_HOMES = {
    "Plan": "onnxlr.planning.plan",
    "SessionMetric": "onnxlr.evaluation",
    "search": "onnxlr.front",
    "finetune": "onnxlr.training.api",
}

__all__ = ["Plan", "Rewrite", "SessionMetric", "bench", "finetune", "inspect", "rewrite", "search", "validate"]


def __getattr__(name: str) -> object:
    """Import the API when it is first asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'onnxlr' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "onnxlr.api")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
