"""The record of a fine-tuning run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxlr.training.options import TrainOptions
    from onnxlr.training.task import Evaluation


@dataclass(frozen=True, slots=True)
class FinetuneSummary:
    """What was trained on what, and what that changed on the held-out part.

    ``trained`` and ``held_out`` count samples, ``blocks`` rewritten layers, ``weights`` trained numbers. ``history``
    holds (phase, step, held-out loss) of every evaluation. ``steps`` are those planned; early stopping takes fewer.
    """

    model: str
    model_sha256: str
    teacher: str | None
    trained: int
    held_out: int
    blocks: int
    weights: int
    steps: int
    before: Evaluation
    after: Evaluation
    history: tuple[tuple[int, int, float], ...]
    options: TrainOptions
    notes: tuple[str, ...]
    seconds: float = 0.0

    def to_json(self) -> str:
        """Return all of it as JSON text."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
