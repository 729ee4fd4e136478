"""All that the trials of a search depend on, as text, and where trials are kept between runs."""

from __future__ import annotations

from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxlr.evaluation import SessionMetric
from onnxlr.model_io import remove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from importlib.resources.abc import Traversable

    from onnxlr.calibration import Source
    from onnxlr.cost.cache import LatencyCache
    from onnxlr.model_io import Model
    from onnxlr.request import Request

_FOLDER = "searches"


def setting_of(model: Model, request: Request) -> str:
    """Return the model, the data, the target, the schemes and the code that a search goes by; not its goals."""
    judged = request.evaluation
    by = judged and (
        source_of(judged.data.source),
        judged.metric if isinstance(judged.metric, str | None) else _name_of(judged.metric),
        judged.share,
        judged.peak,
    )
    data = request.data and source_of(request.data)
    asked = (sorted(request.schemes), request.selection, request.simplify, request.seed)
    code = (version("onnxlr"), code_digest())
    return f"{model.sha256} {request.target} {request.target.describe()} {data} {by} {asked} {code}"


def source_of(source: Source) -> tuple[object, ...]:
    """Return what tells data apart: files with sizes and times, how they are read, and which samples are used.

    And the memory that work on them may take, for it decides which layers are fitted from rows, and from how many.
    """
    found: list[object] = []
    for part in source.parts:
        path = Path(part.where)
        known = path.stat() if path.exists() else None
        found.append((part.where, part.reading, part.count, known and (known.st_size, known.st_mtime_ns)))
    chosen = sha256(",".join(map(str, source.chosen)).encode()).hexdigest()
    return (*found, chosen, source.memory.limit)


def _name_of(metric: SessionMetric | Callable[[Any, Any], float]) -> str:
    if isinstance(metric, SessionMetric):
        return f"{metric.name} on a session"
    return str(getattr(metric, "__qualname__", type(metric).__name__))


def kept_at(request: Request, setting: str) -> Path | None:
    """Return the file that trials are kept in beside the latency cache.

    None where there is no cache, or where a change would not show: data that are no files, metrics of the user's own.
    """
    if request.cache.path is None:
        return None
    judged = request.evaluation
    metric = None if judged is None else judged.metric
    own = metric is not None and (not isinstance(metric, str) or ":" in metric)
    sources = (request.data, None if judged is None else judged.data.source)
    if own or any(source is not None and source.resource is not None for source in sources):
        return None
    digest = sha256(setting.encode()).hexdigest()[:32]
    return request.cache.path.parent / _FOLDER / f"{digest}.json"


def forget(cache: LatencyCache) -> int:
    """Remove the trials kept beside a cache; return of how many searches.

    Raises
    ------
    ModelError
        When a file cannot be removed.
    """
    found = [] if cache.path is None else sorted((cache.path.parent / _FOLDER).glob("*.json"))
    for path in found:
        remove(path)
    return len(found)


def code_digest() -> str:
    """Return a digest of the sources: trials made by other code would be fitted differently today."""
    digest = sha256()
    for package in ("onnxlr", "onnxlr_passes"):
        for source in _sources(files(package)):
            digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def _sources(folder: Traversable) -> Iterator[Traversable]:
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        if entry.is_dir():
            yield from _sources(entry)
        elif entry.name.endswith(".py"):
            yield entry
