"""The Python API: the same jobs as the command line, for export scripts."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onnxlr import model_io, pipeline
from onnxlr.calibration import DataOptions, ImageOptions, Memory, from_iterable, open_source, parse_memory
from onnxlr.cost.cache import default_cache
from onnxlr.cost.timing import TimingOptions
from onnxlr.errors import UsageError
from onnxlr.evaluation import open_evaluation
from onnxlr.inspection import inspect_model as _inspect_model
from onnxlr.parallel import working
from onnxlr.planning.budget import Energy, Evbmf, KeepMacs, Rank
from onnxlr.planning.plan import Plan, read_plan
from onnxlr.prepare import Selection
from onnxlr.progress import silent
from onnxlr.request import Evaluation, Request
from onnxlr.search.find import TRIALS
from onnxlr.search.goals import Goals
from onnxlr.target import Target, graph_inputs, seeded_feeds
from onnxlr.validation.feeds import feeds_from_data
from onnxlr.validation.latency import BenchResult
from onnxlr.validation.latency import bench as _bench
from onnxlr.validation.verdict import Limits, Verdict
from onnxlr.validation.verdict import validate as _validate

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import onnx

    from onnxlr.calibration import DataReader
    from onnxlr.calibration import Source as Calibration
    from onnxlr.evaluation import EvaluationData
    from onnxlr.planning.budget import Budget
    from onnxlr.progress import Progress
    from onnxlr.report.findings import Inspection
    from onnxlr.report.front import Front
    from onnxlr.report.summary import Summary
    from onnxlr.target import Feeds

    Source = str | os.PathLike[str] | onnx.ModelProto
    Data = str | os.PathLike[str] | DataReader | Iterable[Feeds]

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


def budget_of(keep_macs: float | None, energy: float | None, rank: int | str | None) -> Budget:
    """Return the one budget that was given; half of the MACs when none was.

    Raises
    ------
    UsageError
        When several are given, or a value makes no sense.
    """
    given = [name for name, v in (("keep-macs", keep_macs), ("energy", energy), ("rank", rank)) if v is not None]
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1]} exclude each other", "give one of them")
    if energy is not None:
        return Energy(energy)
    if rank is not None:
        if rank == "evbmf":
            return Evbmf()
        if isinstance(rank, str) and not rank.isdigit():
            raise UsageError(f"--rank {rank} is neither a whole number nor evbmf", "for example --rank 32")
        return Rank(int(rank))
    return KeepMacs(0.5 if keep_macs is None else keep_macs)


def rewrite(
    model: Source,
    *,
    scheme: str | Sequence[str] = "auto",
    keep_macs: float | None = None,
    energy: float | None = None,
    rank: int | str | None = None,
    data: Data | None = None,
    samples: int | None = None,
    images: ImageOptions | None = None,
    memory: int | str = "4GB",
    evaluation: str | os.PathLike[str] | None = None,
    metric: str | Callable[[Any, Any], float] | None = None,
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
        ``auto`` (all families) or any of basis, projection, separable, tucker2, cp3, cp4, mixed, asym3d.
    keep_macs, energy, rank
        How much, one of: share of the model's multiply-adds to keep (default 0.5); share of every kernel's squared
        norm to keep; this very rank on every layer (or ``"evbmf"``: the rank that stands above the noise).
    data, samples
        Unlabelled calibration data: a path (.npz, .npy, a folder of those or of images), a CalibrationDataReader or any
        iterable of feeds; and how many samples of it to use. Factors are fitted to what the layers make of them, one
        layer after the other, an eighth of the data being held out to measure the output error on.
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
        or a dict by name. None takes what the data call for.
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
    replayed = _plan(plan, scheme, (keep_macs, energy, rank))
    if samples is not None and data is None:
        raise UsageError("--samples says how much of --data to use", "give --data as well, or leave it out")
    goals = Goals(max_drop, max_error, min_speedup, target_latency, keep_macs, max_size)
    if goals.searching and (energy is not None or rank is not None):
        raise UsageError("--energy and --rank leave nothing to search for", "leave them out, or the goals")
    if images is not None and not any(_is_folder(path) for path in (data, evaluation)):
        raise UsageError("image options are for a folder of images", "give one as data, or leave them out")
    limit = Memory(parse_memory(memory) if isinstance(memory, str) else memory)
    options = DataOptions(samples, seed, images or ImageOptions(), limit, varied=True)
    source = model_io.load(model)
    with (
        working(jobs),
        _calibration(source, data, shapes or {}, options) as calibration,
        _evaluation(source, evaluation, shapes or {}, replace(options, samples=None, varied=False)) as judged_on,
    ):
        request = Request(
            schemes=(scheme,) if isinstance(scheme, str) else tuple(scheme),
            budget=budget_of(keep_macs, energy, rank),
            goals=goals,
            trials=trials,
            cache=default_cache(use=cache),
            selection=Selection(tuple(include), tuple(exclude)),
            target=_target(provider, threads, _shapes(shapes, calibration, judged_on)),
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


def _is_folder(data: Data | None) -> bool:
    return isinstance(data, str | PathLike) and Path(data).is_dir()


@contextmanager
def _calibration(
    model: model_io.Model, data: Data | None, shapes: Mapping[str, Sequence[int]], options: DataOptions
) -> Iterator[Calibration | None]:
    """Open calibration data for a model; nothing where there are none."""
    if data is None:
        yield None
        return
    inputs = graph_inputs(model.proto)
    if isinstance(data, str | PathLike):
        opened = open_source(Path(data), inputs, shapes, options)
    else:
        opened = from_iterable(data, inputs, shapes, options)
    with opened:
        yield opened


@contextmanager
def _evaluation(
    model: model_io.Model,
    path: str | PathLike[str] | None,
    shapes: Mapping[str, Sequence[int]],
    options: DataOptions,
) -> Iterator[EvaluationData | None]:
    """Open evaluation data for a model; nothing where there are none."""
    if path is None:
        yield None
        return
    opened = open_evaluation(Path(path), graph_inputs(model.proto), shapes, options)
    with opened.source:
        yield opened


def _shapes(
    given: Mapping[str, Sequence[int]] | None, calibration: Calibration | None, judged_on: EvaluationData | None
) -> Mapping[str, Sequence[int]] | None:
    """Return the shapes to work at: those given, else those of one sample."""
    source = calibration if calibration is not None or judged_on is None else judged_on.source
    if given or source is None:
        return given
    label = None if judged_on is None else judged_on.label
    return {name: (source.batch or 1, *shape) for name, shape in source.shapes.items() if name != label}


def search(
    model: Source,
    *,
    scheme: str | Sequence[str] = "auto",
    data: Data | None = None,
    samples: int | None = None,
    evaluation: str | os.PathLike[str] | None = None,
    metric: str | Callable[[Any, Any], float] | None = None,
    eval_share: float = 0.5,
    peak: float = 1.0,
    trials: int = 24,
    cache: bool = True,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    provider: Provider = "cpu",
    threads: int = 0,
    simplify: bool = True,
    seed: int = 0,
    state: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
) -> Front:
    """Return the models that no other beats in both speed and loss, from slightly faster to the fastest.

    The parameters are those of :func:`rewrite`; ``trials`` models are built. Each of the front has the plan to
    replay. ``state`` names a file that trials are kept in, so that an interrupted search goes on where it was.

    Raises
    ------
    OnnxlrError
        One of its children, each with the exit code of the command line.
    """
    source = model_io.load(model)
    with (
        _calibration(source, data, shapes or {}, DataOptions(samples=samples, seed=seed)) as calibration,
        _evaluation(source, evaluation, shapes or {}, DataOptions(seed=seed)) as judged_on,
    ):
        request = Request(
            schemes=(scheme,) if isinstance(scheme, str) else tuple(scheme),
            trials=trials,
            selection=Selection(tuple(include), tuple(exclude)),
            target=_target(provider, threads, _shapes(shapes, calibration, judged_on)),
            data=calibration,
            evaluation=None if judged_on is None else Evaluation(judged_on, metric, eval_share, peak),
            cache=default_cache(use=cache),
            simplify=simplify,
            seed=seed,
        )
        return pipeline.front(source, request, None if state is None else Path(state), progress)


def _plan(
    plan: Plan | str | os.PathLike[str] | None, scheme: str | Sequence[str], budget: Sequence[float | str | None]
) -> Plan | None:
    """Return the plan to replay, which leaves nothing else to choose."""
    if plan is None:
        return None
    if any(value is not None for value in budget):
        raise UsageError("--plan already says how much", "leave out --keep-macs, --energy and --rank")
    if scheme != "auto" and tuple(scheme) != ("auto",):
        raise UsageError("--plan already says which schemes", "leave out --scheme")
    return plan if isinstance(plan, Plan) else read_plan(Path(plan))


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
    return _inspect_model(model_io.load(model), _target(provider, threads, shapes), progress)


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
        _target(provider, threads, shapes),
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
    target = _target(provider, threads, shapes)
    feeds = (
        seeded_feeds(old.proto, target, seed=seed, count=samples)
        if data is None
        else feeds_from_data(Path(data), graph_inputs(old.proto), shapes or {}, DataOptions(samples, seed))
    )
    limits = Limits(min_cosine, max_error)
    return _validate(old, now, target, feeds, limits=limits, progress=lambda share: progress("compare", share))


def _target(provider: str, threads: int, shapes: Mapping[str, Sequence[int]] | None) -> Target:
    fixed = tuple((name, tuple(shape)) for name, shape in (shapes or {}).items())
    return Target(provider=provider, threads=threads, shapes=fixed)
