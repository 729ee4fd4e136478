"""The Python API: the same jobs as the command line, for export scripts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onnxlr import model_io, pipeline
from onnxlr.calibration import DataOptions
from onnxlr.cost.cache import default_cache
from onnxlr.cost.timing import TimingOptions
from onnxlr.errors import UsageError
from onnxlr.inspection import inspect_model as _inspect_model
from onnxlr.opening import calibration_data, data_options, evaluation_data, shapes_of, target_of
from onnxlr.parallel import working
from onnxlr.prepare import Selection
from onnxlr.progress import silent
from onnxlr.request import Evaluation, Request, budget_of, replayed_plan
from onnxlr.searching.find import TRIALS
from onnxlr.searching.goals import Goals
from onnxlr.target import graph_inputs, seeded_feeds
from onnxlr.validation.feeds import feeds_from_data
from onnxlr.validation.latency import BenchResult
from onnxlr.validation.latency import bench as _bench
from onnxlr.validation.verdict import Limits, Verdict
from onnxlr.validation.verdict import validate as _validate

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import onnx

    from onnxlr.calibration import ImageOptions
    from onnxlr.evaluation import SessionMetric
    from onnxlr.opening import Data
    from onnxlr.planning.plan import Plan
    from onnxlr.progress import Progress
    from onnxlr.report.findings import Inspection
    from onnxlr.report.summary import Summary

    Source = str | os.PathLike[str] | onnx.ModelProto

Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]


@dataclass(frozen=True, slots=True, eq=False)
class Rewrite:
    """A rewritten model with its proof.

    ``model`` is the new ModelProto (external data of huge models still refers to the source's folder, which
    :meth:`save` copies from); ``plan`` can be replayed; ``summary`` holds every figure of the report.
    """

    model: onnx.ModelProto
    plan: Plan
    summary: Summary
    source: model_io.Model

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the model to ``path``, whole or not at all; weights over 2 GB go to ``path`` + ``.data``.

        Raises
        ------
        UsageError
            When the file exists and ``force`` is False, or is the source model.
        ModelError
            When it cannot be written.
        """
        out = Path(path)
        model_io.save(
            self.model,
            out,
            folder=self.source.folder,
            external=self.source.external,
            force=force,
            protect=self.source.files,
        )
        return out


def rewrite(
    model: Source,
    *,
    scheme: str | Sequence[str] = "auto",
    keep_macs: float | None = None,
    energy: float | None = None,
    rank: int | str | None = None,
    data: Data | None = None,
    samples: int | None = None,
    copies: int = 1,
    images: ImageOptions | None = None,
    memory: int | str = "4GB",
    evaluation: str | os.PathLike[str] | None = None,
    metric: str | SessionMetric | Callable[[Any, Any], float] | None = None,
    eval_share: float = 0.5,
    peak: float = 1.0,
    max_drop: float | None = None,
    max_error: float | None = None,
    min_speedup: float | None = None,
    target_latency: float | None = None,
    max_size: float | None = None,
    trials: int = TRIALS,
    cache: bool = True,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    provider: Provider = "cpu",
    threads: int = 0,
    plan: Plan | str | os.PathLike[str] | None = None,
    simplify: bool = True,
    validate: bool = True,
    dry_run: bool = False,
    seed: int = 0,
    jobs: int = 0,
    progress: Progress = silent,
) -> Rewrite:
    """Replace convolutions and large linear layers of ``model`` by cheaper low-rank chains.

    Parameters
    ----------
    model
        Path of an .onnx file, or a ModelProto, which is not changed.
    scheme
        ``auto`` (all families; of winograd, which is exact, only where goals have latency measured) or any of basis,
        projection, separable, tucker2, cp3, cp4, mixed, asym3d and winograd.
    keep_macs, energy, rank
        How much, one of: share of the model's multiply-adds to keep (default 0.5); share of every kernel's squared
        norm to keep; this very rank on every layer (or ``"evbmf"``: the rank that stands above the noise).
    data, samples
        Unlabelled calibration data: a path (.npz, .npy, a folder of those or of images), a CalibrationDataReader or any
        iterable of feeds; and how many samples of it to use. Factors are fitted to what the layers make of them, one
        layer after the other, an eighth of the data being held out to measure the output error on.
    copies
        How often each image of ``data`` is looked at: as it is, mirrored, then zoomed in on random parts. For a few
        hundred images or less, of things that look as likely the other way round.
    images
        How image files become inputs, those of ``evaluation`` too; None for RGB in 0..1 of the size they have.
    memory
        Bytes, or as ``"4GB"``, that fitting to data may take, about; what is larger goes to temporary files.
    evaluation
        Labelled data to judge the model on: an .npz with an array per input and the labels, or a folder of class
        folders of images; unlabelled data where the metric needs no labels.
    metric
        ``top1``, ``top5``, ``psnr``, ``cosine``, ``agreement`` (with the original), ``module:function``, or a callable
        of (outputs, labels) that returns a number, higher being better: ``outputs`` is the array of the only output,
        or a dict by name; or a :class:`SessionMetric`, which runs the model itself: ``evaluation`` then just tells how
        far outputs are from the original's. None takes what the data call for.
    eval_share
        Share of the evaluation data that models are chosen by; the accuracy is reported on the others.
    peak
        Largest value of a picture, for psnr.
    max_drop
        Most that the metric may fall, in its unit: 0.01 is one point of an accuracy, 0.1 a tenth of a dB.
    max_error
        Largest relative L2 error of the outputs, where there are no evaluation data; proves no accuracy.
    min_speedup, target_latency, max_size
        Times faster at least; milliseconds a run at most; megabytes at most. All goals, and ``keep_macs`` with them,
        hold at once: the fastest model within the limit on the loss is searched for, or the most accurate one where
        there is no such limit.
    trials
        How many models may be built and measured on the way.
    cache
        Whether measured latencies are looked up in, and added to, this user's cache.
    include, exclude
        Shell patterns on node names.
    shapes
        Full shapes of inputs with free dimensions, by input name.
    provider, threads
        Where to measure; 0 threads is every physical core this process may use.
    plan
        A plan to replay instead of choosing.
    simplify
        Whether to run onnxsim first.
    validate
        Whether to run both models, compare them and time them.
    dry_run
        Plan and count only; ``Rewrite.model`` is then the prepared original.
    seed
        Of the random feeds.
    jobs
        Layers worked on at a time; 0 for as many as this process may use cores. The result does not depend on it.
    progress
        Called with a stage's name and its share done.

    Raises
    ------
    OnnxlrError
        One of its children, each with the exit code of the command line.
    """
    replayed = replayed_plan(plan, scheme, (keep_macs, energy, rank))
    goals = Goals(max_drop, max_error, min_speedup, target_latency, keep_macs, max_size)
    if goals.searching and (energy is not None or rank is not None):
        raise UsageError("--energy and --rank leave nothing to search for", "leave them out, or the goals")
    options, judging = data_options(data, evaluation, samples, images, memory, seed, copies)
    source = model_io.load(model)
    with (
        working(jobs),
        calibration_data(source, data, shapes or {}, options) as calibration,
        evaluation_data(source, evaluation, shapes or {}, judging) as judged_on,
    ):
        request = Request(
            schemes=(scheme,) if isinstance(scheme, str) else tuple(scheme),
            budget=budget_of(keep_macs, energy, rank),
            goals=goals,
            trials=trials,
            cache=default_cache(use=cache),
            selection=Selection(tuple(include), tuple(exclude)),
            target=target_of(provider, threads, shapes_of(shapes, calibration, judged_on)),
            plan=replayed,
            data=calibration,
            evaluation=None if judged_on is None else Evaluation(judged_on, metric, eval_share, peak),
            simplify=simplify,
            validate=validate,
            dry_run=dry_run,
            seed=seed,
        )
        outcome = pipeline.run(source, request, progress)
    return Rewrite(outcome.proto, outcome.plan, outcome.summary, source)


def inspect(
    model: Source,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    provider: Provider = "cpu",
    threads: int = 0,
    progress: Progress = silent,
) -> Inspection:
    """List every Conv, Gemm and MatMul with its shape, its share of MACs and time, and what could replace it.

    Raises
    ------
    OnnxlrError
        When the model cannot be read, or an input's shape must be given.
    """
    return _inspect_model(model_io.load(model), target_of(provider, threads, shapes), progress)


def bench(
    *models: Source,
    shapes: Mapping[str, Sequence[int]] | None = None,
    provider: Provider = "cpu",
    threads: int = 0,
    seconds: float = 1.5,
    seed: int = 0,
    progress: Progress = silent,
) -> BenchResult:
    """Time models against each other, taking turns on the same seeded feeds; the first is the reference.

    ``seconds`` are spent on each model.

    Raises
    ------
    OnnxlrError
        When a model cannot be read or run.
    """
    return _bench(
        [model_io.load(model) for model in models],
        target_of(provider, threads, shapes),
        seed=seed,
        options=TimingOptions(budget_s=seconds),
        progress=lambda share: progress("measure", share),
    )


def validate(
    reference: Source,
    new: Source,
    *,
    data: str | os.PathLike[str] | None = None,
    samples: int = 16,
    min_cosine: float = 0.9,
    max_error: float | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    provider: Provider = "cpu",
    threads: int = 0,
    seed: int = 0,
    progress: Progress = silent,
) -> Verdict:
    """Compare two models on the same feeds: ``samples`` seeded random ones, or samples of ``data``.

    ``data`` is an .npz file with an array per input, an .npy file, or a folder of those or of images.

    The new model passes when every output has a cosine of at least ``min_cosine`` with the reference's and, where
    ``max_error`` is given, a relative L2 error of at most that.

    Raises
    ------
    OnnxlrError
        When a model cannot be read or run, or the data do not fit.
    """
    old, now = model_io.load(reference), model_io.load(new)
    target = target_of(provider, threads, shapes)
    feeds = (
        seeded_feeds(old.proto, target, seed=seed, count=samples)
        if data is None
        else feeds_from_data(Path(data), graph_inputs(old.proto), shapes or {}, DataOptions(samples, seed))
    )
    limits = Limits(min_cosine, max_error)
    return _validate(old, now, target, feeds, limits=limits, progress=lambda share: progress("compare", share))
