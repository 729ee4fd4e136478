"""Trials and sketches remembered, in a file where one is named: a search that is begun again goes on where it was."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from onnxlr.errors import ModelError, UsageError
from onnxlr.model_io import write_text
from onnxlr.planning.plan import Choice
from onnxlr.report.searched import Baseline, LayerTime, Trial

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_VERSION = 3
Key = tuple[tuple[str, str, tuple[int, ...]], ...]


class Ledger:
    """Trials and sketches by plan, and the latencies of the original that plans are made by.

    With a ``path`` they are read from there, and written whole after each new one. ``optional``: a file that cannot be
    read or written is passed over, for it only saves time.

    ``setting`` says what they hold for: model, data, target. A file made for another is refused.

    Raises
    ------
    UsageError
        When the file cannot be read, or belongs to another search.
    """

    def __init__(self, path: Path | None = None, setting: str = "", *, optional: bool = False) -> None:
        self.path = path
        self.setting = setting
        self.optional = optional
        self.baseline: Baseline | None = None
        self._trials: dict[Key, Trial] = {}
        self._sketches: dict[Key, float] = {}
        if path is not None:
            try:
                self.baseline, trials, self._sketches = _read(path, setting)
                self._trials = {key_of(trial.choices): trial for trial in trials}
            except UsageError:
                if not optional:
                    raise

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials, in the order they were made."""
        return tuple(self._trials.values())

    def find(self, choices: Sequence[Choice]) -> Trial | None:
        """Return the trial of a plan."""
        return self._trials.get(key_of(choices))

    def add(self, trial: Trial) -> None:
        """Remember a trial."""
        self._trials[key_of(trial.choices)] = trial
        self._save()

    def sketch(self, choices: Sequence[Choice]) -> float | None:
        """Return how far the outputs of a plan's sketch shift."""
        return self._sketches.get(key_of(choices))

    def add_sketch(self, choices: Sequence[Choice], shift: float) -> None:
        """Remember a sketch."""
        self._sketches[key_of(choices)] = shift
        self._save()

    def _save(self) -> None:
        if self.path is not None:
            try:
                self._write(self.path)
            except (OSError, ModelError):
                if not self.optional:
                    raise

    def _write(self, path: Path) -> None:
        data = {
            "onnxlr_search_state": _VERSION,
            "setting": self.setting,
            "baseline": self.baseline and asdict(self.baseline),
            "trials": [asdict(one) for one in self._trials.values()],
            "sketches": [{"choices": key, "shift": shift} for key, shift in self._sketches.items()],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n", force=True)


def key_of(choices: Sequence[Choice]) -> Key:
    """Return what makes two plans the same."""
    return tuple(sorted((choice.site, choice.scheme, choice.ranks) for choice in choices))


def _read(path: Path, setting: str) -> tuple[Baseline | None, list[Trial], dict[Key, float]]:
    """Read a file, which need not be there yet."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.get("onnxlr_search_state") != _VERSION:
            raise UsageError(f"{path} is not the state of a search", "move it away, or give another output")
        if data["setting"] != setting:
            raise UsageError(
                f"{path} is the state of another search (other model, data or target)", "delete it to begin anew"
            )
        baseline = data["baseline"] and Baseline(**data["baseline"])
        sketches = {_key(entry["choices"]): float(entry["shift"]) for entry in data["sketches"]}
        return baseline, [_trial(entry) for entry in data["trials"]], sketches
    except (FileNotFoundError, NotADirectoryError):
        return None, [], {}
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror})", "check the file and its permissions") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged: it is not the state of a search", "delete it to begin anew") from error


def _trial(entry: dict[str, Any]) -> Trial:
    entry = dict(entry)
    entry["choices"] = tuple(
        Choice(one["site"], one["node"], one["scheme"], tuple(one["ranks"])) for one in entry["choices"]
    )
    entry["layers"] = tuple(LayerTime(**one) for one in entry["layers"])
    entry["errors"] = tuple((site, error) for site, error in entry["errors"])
    return Trial(**entry)


def _key(entry: list[Any]) -> Key:
    return tuple((site, scheme, tuple(ranks)) for site, scheme, ranks in entry)
