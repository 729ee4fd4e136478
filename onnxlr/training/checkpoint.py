"""Where a run stands, in a file that is whole or not there."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from onnxlr.errors import ModelError, UsageError
from onnxlr.model_io.text import write_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

_FORMAT = 1


@dataclass(slots=True)
class State:
    """Where a run stands: ``phase`` and the ``step`` reached in it, the weights, and the best ones so far.

    ``evaluated`` is the step of this phase whose weights were last evaluated, -1 for none; ``history`` holds (phase,
    step, held-out loss). ``optimizer`` is the state of torch's optimizer, None at the beginning of a phase.
    """

    weights: dict[str, Tensor]
    best: dict[str, Tensor]
    best_loss: float = float("inf")
    phase: int = 0
    step: int = 0
    evaluated: int = -1
    waited: int = 0
    optimizer: dict[str, Any] | None = None
    history: list[tuple[int, int, float]] = field(default_factory=list)


def save_state(path: Path, fingerprint: str, state: State) -> None:
    """Write a checkpoint, replacing the one before in a single step.

    Raises
    ------
    ModelError
        When it cannot be written.
    """
    buffer = io.BytesIO()
    torch.save({"onnxlr_checkpoint": _FORMAT, "run": fingerprint, "state": _fields(state)}, buffer)
    write_bytes(path, buffer.getbuffer(), force=True)


def load_state(path: Path, fingerprint: str) -> State | None:
    """Read a checkpoint; None where there is none.

    Raises
    ------
    UsageError
        When it belongs to a run with other models, data or options.
    ModelError
        When it is not a checkpoint.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(f"{path} is not a checkpoint that can be read", "remove it to start anew") from error
    if not isinstance(content, dict) or content.get("onnxlr_checkpoint") != _FORMAT:
        raise ModelError(f"{path} is not a checkpoint of this version", "remove it to start anew")
    if content["run"] != fingerprint:
        raise UsageError(
            f"{path} is the checkpoint of a run with other models, data or options",
            "remove it to start anew, or give another --checkpoint",
        )
    return State(**content["state"])


def _fields(state: State) -> dict[str, Any]:
    return {name: getattr(state, name) for name in State.__slots__}
