"""A measurement that a report records, set up again: the same files, target, shapes and seed.

Read are the summary of a rewrite (``onnxlr rewrite --json``) and the result of a bench (``onnxlr bench --json``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxlr.errors import ModelError, UsageError
from onnxlr.model_io import load
from onnxlr.target import Target

if TYPE_CHECKING:
    from onnxlr.model_io import Model

_HINT = "pass a file of onnxlr rewrite --json or onnxlr bench --json"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was measured: ``files`` are path and SHA-256 of each model, the reference first; ``where`` is the report.

    ``faster`` is the speed-up of each model but the first, as it was then, ``machine`` what it was then measured on.
    """

    where: Path
    files: tuple[tuple[str, str], ...]
    target: Target
    seed: int
    faster: tuple[float, ...]
    machine: tuple[tuple[str, str], ...]

    def models(self) -> tuple[Model, ...]:
        """Load the models, found by the path on record, or beside the report by their name.

        Raises
        ------
        ModelError
            When a model is gone, cannot be read, or is no longer the one that was measured.
        """
        return tuple(self._model(path, digest) for path, digest in self.files)

    def notes(self) -> tuple[str, ...]:
        """Say what was measured then, and what is not as it was."""
        then = [f"{ratio:.2f}x" for ratio in self.faster]
        now = self.target.describe()
        current = {"onnxruntime": now.onnxruntime, "cpu": now.cpu, "gpu": now.gpu}
        other = [f"{name} was {value}, is {current[name]}" for name, value in self.machine if current[name] != value]
        return (f"recorded in {self.where}: {', '.join(then) or 'no ratio'}", *other)

    def _model(self, recorded: str, digest: str) -> Model:
        beside = self.where.parent / Path(recorded).name
        path = next((path for path in (Path(recorded), beside) if path.exists()), None)
        if path is None:
            raise ModelError(f"{recorded}, which {self.where} records, is gone", "put it back, or beside the report")
        model = load(path)
        if model.sha256 != digest:
            raise ModelError(
                f"{path} is not the model that {self.where} records (SHA-256 {model.sha256[:12]}, not {digest[:12]})",
                "measure it with onnxlr bench",
            )
        return model


def read_recorded(path: Path) -> Recorded:
    """Read the measurement that the report at ``path`` records.

    Raises
    ------
    UsageError
        When the file cannot be read, is no report, or records no measurement of written models.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror or str(error) if isinstance(error, OSError) else "not JSON"
        raise UsageError(f"{path}: cannot read the report ({why})", _HINT) from error
    if not isinstance(data, dict) or not ("onnxlr_summary" in data or "onnxlr_bench" in data):
        raise UsageError(f"{path}: not a report of onnxlr", _HINT)
    try:
        return _summary(path, data) if "onnxlr_summary" in data else _bench(path, data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path}: the report lacks what is needed to measure again ({error})", _HINT) from error


def _summary(path: Path, data: dict[str, Any]) -> Recorded:
    measured = data["measured"]
    if measured is None:
        raise UsageError(f"{path}: the report records no measurement", "rewrite without --dry-run and --no-validate")
    if not data["written"]:
        raise UsageError(f"{path}: the report names no written model", "time models with onnxlr bench")
    files = ((data["model"], data["model_sha256"]), (data["written"], data["written_sha256"]))
    return _recorded(path, files, measured, (float(measured["speedup"]["ratio"]),))


def _bench(path: Path, data: dict[str, Any]) -> Recorded:
    models = data["models"]
    ratios = tuple(float(model["speedup"]["ratio"]) for model in models if model["speedup"] is not None)
    return _recorded(path, tuple((model["model"], model["sha256"]) for model in models), data, ratios)


def _recorded(
    path: Path, files: tuple[tuple[str, str], ...], measured: dict[str, Any], faster: tuple[float, ...]
) -> Recorded:
    target = measured["target"]
    shapes = tuple((str(name), tuple(int(size) for size in sizes)) for name, sizes in measured["shapes"].items())
    if not files or not all(isinstance(text, str) for file in files for text in file):
        raise ValueError("models without path or hash")
    return Recorded(
        path,
        files,
        Target(provider=str(target["provider"]), threads=int(target["threads"]), shapes=shapes),
        int(measured["seed"]),
        faster,
        tuple((name, str(target[name])) for name in ("onnxruntime", "cpu", "gpu")),
    )
