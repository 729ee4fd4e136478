"""Measured latencies kept between runs: one file of JSON lines, only ever appended to.

The file is ``latencies.jsonl`` in the folder that ``ONNXLR_CACHE_DIR`` names, else in the platform's folder for caches
(``~/.cache/onnxlr`` on Linux). Several processes may append at once: a batch is one write in append mode, a line that
is torn or foreign all the same is passed over, and of two lines with one key the later counts. A file that is not one
of these is left alone. Nothing here raises over the state of the disk; what was wrong is said in notes.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from onnxlr.errors import ModelError
from onnxlr.model_io import remove

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxlr.target import Description

CACHE_DIR = "ONNXLR_CACHE_DIR"
_FILE = "latencies.jsonl"
_METHOD = 2  # to be raised when chains are timed, or written as nodes, in another way: older entries are not found
_HEADER = {"onnxlr_latencies": 1}
_DIGEST = 32  # hexadecimal digits


@dataclass(frozen=True, slots=True)
class Entry:
    """One measurement: ``layer`` seconds of the dense layer in its context; the rest relative to that.

    ``context`` is the neighbours alone, ``ratio`` the chain in its context, ``spread`` half of its 95 % interval
    relative to it.
    """

    layer: float
    context: float
    ratio: float
    spread: float


@dataclass(frozen=True, slots=True)
class Contents:
    """What a cache holds: entries by target in words, bytes on disk, and what could not be read."""

    path: Path
    size: int
    targets: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]

    @property
    def entries(self) -> int:
        """Count the measurements of all targets."""
        return sum(count for _, count in self.targets)


@dataclass(frozen=True, slots=True)
class LatencyCache:
    """A cache at ``path``; None keeps nothing."""

    path: Path | None

    def read(self, target: Description) -> tuple[dict[str, Entry], tuple[str, ...]]:
        """Return the entries of a target by key, and notes on what could not be read."""
        wanted = target_digest(target)
        lines, notes = _load(self.path)
        return {line.key: line.entry for line in lines.entries if line.target == wanted}, notes

    def add(self, target: Description, entries: Mapping[str, Entry]) -> tuple[str, ...]:
        """Append entries of a target; return notes where they could not be kept."""
        if self.path is None or not entries:
            return ()
        digest = target_digest(target)
        rows: list[dict[str, Any]] = [{"target": digest, "is": asdict(replace(target, versions={}))}]
        rows += [{"target": digest, "key": key, "entry": list(asdict(e).values())} for key, e in entries.items()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                if file.tell() == 0:
                    rows.insert(0, _HEADER)
                elif not _ours(self.path):
                    return (_foreign(self.path),)
                file.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        except OSError as error:
            return (f"the latency cache {self.path} cannot be written ({error.strerror or error})",)
        return ()

    def contents(self) -> Contents:
        """Return what the cache holds.

        Raises
        ------
        ValueError
            When there is no path.
        """
        if self.path is None:
            raise ValueError("no cache")
        lines, notes = _load(self.path)
        counts = Counter(target for target, _ in {(line.target, line.key) for line in lines.entries})
        named = sorted((lines.targets.get(target, f"target {target}"), count) for target, count in counts.items())
        return Contents(self.path, _size(self.path), tuple(named), notes)

    def clear(self) -> bool:
        """Remove the file; return whether there was one.

        Raises
        ------
        ModelError
            When the file is not a cache, or cannot be removed.
        """
        if self.path is None:
            return False
        try:
            if not _is_there(self.path):
                return False
            ours = _ours(self.path)
        except OSError as error:
            raise ModelError(f"{self.path} cannot be removed ({error.strerror or error})") from error
        if not ours:
            raise ModelError(f"{self.path} is not a latency cache of this version: it stays", "remove it by hand")
        remove(self.path)
        return True


def default_cache(*, use: bool = True) -> LatencyCache:
    """Return the cache of this user; one that keeps nothing where ``use`` is False."""
    if not use:
        return LatencyCache(None)
    folder = os.environ.get(CACHE_DIR) or platformdirs.user_cache_dir("onnxlr", appauthor=False)
    return LatencyCache(Path(folder, _FILE))


def entry_key(placement: str, chain: str) -> str:
    """Return the key of a chain in a placement, both as their own keys."""
    return sha256(f"{placement}\n{chain}".encode()).hexdigest()[:_DIGEST]


def target_digest(target: Description) -> str:
    """Return the digest of all that a latency depends on apart from what is run."""
    text = json.dumps([_METHOD, asdict(replace(target, versions={}))], sort_keys=True)
    return sha256(text.encode()).hexdigest()[:_DIGEST]


@dataclass(frozen=True, slots=True)
class _Line:
    target: str
    key: str
    entry: Entry


@dataclass(slots=True)
class _Lines:
    entries: list[_Line] = field(default_factory=list)
    targets: dict[str, str] = field(default_factory=dict)


def _load(path: Path | None) -> tuple[_Lines, tuple[str, ...]]:
    found = _Lines()
    if path is None:
        return found, ()
    try:
        if not _is_there(path):
            return found, ()
        if not _ours(path):
            return found, (_foreign(path),)
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return found, (f"the latency cache {path} cannot be read ({error.strerror or error})",)
    broken = 0
    for line in text.splitlines():
        broken += not _parse(line, found)
    return found, (f"{broken} unreadable lines of the latency cache {path} are passed over",) if broken else ()


def _parse(text: str, found: _Lines) -> bool:
    """Take one line in; return whether it was one of ours."""
    try:
        row = json.loads(text)
    except ValueError:
        return False
    if row == _HEADER:
        return True
    if not isinstance(row, dict) or not isinstance(row.get("target"), str):
        return False
    if isinstance(row.get("is"), dict):
        found.targets[row["target"]] = _words(row["is"])
        return True
    entry = _entry(row.get("entry"))
    if entry is None or not isinstance(row.get("key"), str):
        return False
    found.entries.append(_Line(row["target"], row["key"], entry))
    return True


def _entry(values: Any) -> Entry | None:
    """Read the numbers of an entry; None when they are not those of one."""
    if not isinstance(values, list) or len(values) != 4:
        return None
    if not all(isinstance(value, int | float) and math.isfinite(value) and value >= 0.0 for value in values):
        return None
    return Entry(*values) if values[0] > 0.0 and values[2] > 0.0 else None


def _words(target: dict[str, Any]) -> str:
    machine = target.get("gpu") or target.get("cpu")
    count = target.get("threads")
    threads = f"{count} thread{'' if count == 1 else 's'}"
    return f"{target.get('provider')}, {threads}, {machine}, ONNX Runtime {target.get('onnxruntime')}"


def _is_there(path: Path) -> bool:
    """Whether there is something at ``path``; an OSError where that cannot be told, as in a folder of somebody else."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _size(path: Path) -> int:
    """Return the bytes of a file; 0 where there is none, or none that can be reached."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _ours(path: Path) -> bool:
    """Whether a file begins as a cache does."""
    expected = json.dumps(_HEADER).encode() + b"\n"
    try:
        with path.open("rb") as file:
            return file.read(len(expected)) == expected
    except OSError:
        return False


def _foreign(path: Path) -> str:
    return f"{path} is not a latency cache of this version: it is neither used nor changed"
