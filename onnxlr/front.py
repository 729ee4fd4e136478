"""The Python side of ``onnxlr search``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxlr import model_io, pipeline
from onnxlr.cost.cache import default_cache
from onnxlr.opening import calibration_data, data_options, evaluation_data, shapes_of, target_of
from onnxlr.parallel import working
from onnxlr.prepare import Selection
from onnxlr.progress import silent
from onnxlr.request import Evaluation, Request

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import onnx

    from onnxlr.calibration import ImageOptions
    from onnxlr.evaluation import SessionMetric
    from onnxlr.opening import Data
    from onnxlr.progress import Progress
    from onnxlr.report.front import Front


def search(
    model: str | os.PathLike[str] | onnx.ModelProto,
    *,
    scheme: str | Sequence[str] = "auto",
    data: Data | None = None,
    samples: int | None = None,
    copies: int = 1,
    images: ImageOptions | None = None,
    memory: int | str = "4GB",
    evaluation: str | os.PathLike[str] | None = None,
    metric: str | SessionMetric | Callable[[Any, Any], float] | None = None,
    eval_share: float = 0.5,
    peak: float = 1.0,
    trials: int = 24,
    at: Sequence[float] = (),
    cache: bool = True,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    provider: str = "cpu",
    threads: int = 0,
    simplify: bool = True,
    seed: int = 0,
    jobs: int = 0,
    state: str | os.PathLike[str] | None = None,
    deliver: Callable[[Front], None] | None = None,
    progress: Progress = silent,
) -> Front:
    """Return the models that no other beats in both speed and loss, from slightly faster to the fastest.

    The parameters are those of :func:`onnxlr.rewrite`; ``trials`` models are built, the first of them at the speed-ups
    ``at``. Each of the front has the plan to replay. Trials are kept beside the latency cache, so that a search broken
    off goes on where it was, and more ``trials`` add to those there are. Without the cache, or with a metric of your
    own, they are kept in the file ``state`` until all are made and ``deliver``, which is called with the front, has
    returned: what it cannot write is not lost then.

    Raises
    ------
    OnnxlrError
        One of its children, each with the exit code of the command line.
    """
    options, judging = data_options(data, evaluation, samples, images, memory, seed, copies)
    source = model_io.load(model)
    with (
        working(jobs),
        calibration_data(source, data, shapes or {}, options) as calibration,
        evaluation_data(source, evaluation, shapes or {}, judging) as judged_on,
    ):
        request = Request(
            schemes=(scheme,) if isinstance(scheme, str) else tuple(scheme),
            trials=trials,
            at=tuple(at),
            selection=Selection(tuple(include), tuple(exclude)),
            target=target_of(provider, threads, shapes_of(shapes, calibration, judged_on)),
            data=calibration,
            evaluation=None if judged_on is None else Evaluation(judged_on, metric, eval_share, peak),
            cache=default_cache(use=cache),
            simplify=simplify,
            seed=seed,
        )
        return pipeline.front(source, request, None if state is None else Path(state), progress, deliver=deliver)
