"""Trials remembered, in a file where one is named: an interrupted search goes on where it was."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from onnxlr.errors import UsageError
from onnxlr.model_io import write_text
from onnxlr.planning.plan import Choice
from onnxlr.report.searched import LayerTime, Trial

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_VERSION = 1
Key = tuple[tuple[str, str, tuple[int, ...]], ...]


class Ledger:
    """Trials by plan. With a ``path`` they are read from there, and written whole after each new one.

    ``setting`` says what they hold for: model, data, target. A file made for another is refused.

    Raises
    ------
    UsageError
        When the file cannot be read, or belongs to another search.
    """

    def __init__(self, path: Path | None = None, setting: str = "") -> None:
        self.path = path
        self.setting = setting
        self._trials: dict[Key, Trial] = {}
        if path is not None and path.exists():
            self._trials = {key_of(trial.choices): trial for trial in _read(path, setting)}

    def find(self, choices: Sequence[Choice]) -> Trial | None:
        """Return the trial of a plan."""
        return self._trials.get(key_of(choices))

    def add(self, trial: Trial) -> None:
        """Remember a trial."""
        self._trials[key_of(trial.choices)] = trial
        if self.path is not None:
            data = {
                "onnxlr_search_state": _VERSION,
                "setting": self.setting,
                "trials": [asdict(one) for one in self._trials.values()],
            }
            write_text(self.path, json.dumps(data, indent=1, ensure_ascii=False) + "\n", force=True)


def key_of(choices: Sequence[Choice]) -> Key:
    """Return what makes two plans the same."""
    return tuple(sorted((choice.site, choice.scheme, choice.ranks) for choice in choices))


def _read(path: Path, setting: str) -> list[Trial]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.get("onnxlr_search_state") != _VERSION:
            raise UsageError(f"{path} is not the state of a search", "move it away, or give another output")
        if data["setting"] != setting:
            raise UsageError(
                f"{path} is the state of another search (other model, data or target)", "delete it to begin anew"
            )
        return [_trial(entry) for entry in data["trials"]]
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
