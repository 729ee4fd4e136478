"""Sessions: pinned provider options, fixed threads, errors in one line, no silent fall-back to the CPU."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state  # pyright: ignore[reportAttributeAccessIssue]

from onnxlr.errors import ModelError, UsageError
from onnxlr.target.cuda import FATAL, load_libraries, log_silenced
from onnxlr.target.machine import cpu_name, gpu_name, usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onnxlr.target.inputs import Feeds

Array = np.ndarray[Any, Any]

# ONNX Runtime's exceptions have no common base; ValueError is what it raises for missing or unknown feeds.
RUNTIME_ERRORS = (
    ort_state.EPFail,
    ort_state.EngineError,
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.ModelLoaded,
    ort_state.NoModel,
    ort_state.NoSuchFile,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
    RuntimeError,
    ValueError,
)

_REASON_CHARS = 300


@dataclass(frozen=True, slots=True)
class _Provider:
    """An execution provider: its name, its options as ``(key, value)``, what to install for it."""

    ort_name: str
    options: tuple[tuple[str, str], ...] = ()
    install: str = ""
    behind: tuple[str, ...] = ()


# cuDNN's DEFAULT search picks an algorithm without looking, and TF32 keeps 10 bits of mantissa: either would make a
# comparison of two models a comparison of accidents.
_PROVIDERS: dict[str, _Provider] = {
    "cpu": _Provider("CPUExecutionProvider"),
    "cuda": _Provider(
        "CUDAExecutionProvider",
        (("cudnn_conv_algo_search", "EXHAUSTIVE"), ("use_tf32", "0")),
        "pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]', on a machine with an NVIDIA GPU",
    ),
    "tensorrt": _Provider(
        "TensorrtExecutionProvider",
        (("trt_fp16_enable", "0"), ("trt_int8_enable", "0")),
        "pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]', with the TensorRT it was built for",
        behind=("cuda",),
    ),
    "openvino": _Provider(
        "OpenVINOExecutionProvider",
        (("device_type", "CPU"), ("num_streams", "1")),
        "pip install onnxruntime-openvino",
    ),
}
PROVIDERS = tuple(_PROVIDERS)


@dataclass(frozen=True, slots=True)
class Description:
    """The target in words, for reports; ``versions`` are those of what a latency does not depend on."""

    provider: str
    options: Mapping[str, str]
    threads: int
    onnxruntime: str
    cpu: str
    gpu: str
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Target:
    """Where models are run and timed.

    Parameters
    ----------
    provider
        ``cpu``, ``cuda``, ``tensorrt`` or ``openvino``.
    threads
        Threads within an operator. 0, the default, means every physical core this process may use (affinity mask and
        cgroup quota counted); after construction the field holds the number itself. More than that is refused: an
        oversubscribed machine times its scheduler, not the model.
    shapes
        Shapes of inputs with free sizes, as ``(name, sizes)``.

    Raises
    ------
    UsageError
        Unknown provider, or a number of threads below 0 or above the cores.
    """

    provider: str = "cpu"
    threads: int = 0
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __post_init__(self) -> None:
        if self.provider not in _PROVIDERS:
            raise UsageError(f"unknown provider '{self.provider}'", f"one of {', '.join(PROVIDERS)}")
        cores = usable_cores()
        if not 0 <= self.threads <= cores:
            raise UsageError(f"--threads {self.threads}: this process may use {cores} physical cores", f"1 to {cores}")
        object.__setattr__(self, "threads", self.threads or cores)

    @property
    def on_gpu(self) -> bool:
        """Whether an NVIDIA GPU runs the models."""
        return self.provider in {"cuda", "tensorrt"}

    def session(self, model: bytes | Path, *, name: str = "", profile: Path | None = None) -> ort.InferenceSession:
        """Make a session for ``model``: its bytes, or the file to load (with its external data beside it).

        Parameters
        ----------
        name
            How a message calls the model; by default the file's name.
        profile
            Prefix of the trace file to write, when every node is to be timed; ``end_profiling`` gives the file's name.

        Raises
        ------
        ModelError
            The provider is not there or does not take over, or ONNX Runtime refuses the model, with its reason.
        """
        name = name or (model.name if isinstance(model, Path) else "")
        where = f"{name}: " if name else ""
        wanted = _PROVIDERS[self.provider].ort_name
        if wanted not in ort.get_available_providers():
            raise self._unavailable("is not part of the installed ONNX Runtime")
        lacking = load_libraries() if self.on_gpu else ""
        try:
            with log_silenced() if lacking else nullcontext():
                session = ort.InferenceSession(
                    model if isinstance(model, bytes) else str(model),
                    _session_options(self.threads, profile),
                    providers=[(provider.ort_name, self._options(provider)) for provider in self._chain()],
                    enable_fallback=0,
                )
        except RUNTIME_ERRORS as error:
            if lacking:
                raise self._unavailable(f"could not be started: {lacking}") from error
            raise ModelError(
                f"{where}ONNX Runtime {ort.__version__} cannot run the model on {self.provider}: {reason(error)}"
            ) from error
        if wanted not in session.get_providers():
            why = lacking or "ONNX Runtime would go on without it"
            raise self._unavailable(f"could not be started: {why}")
        return session

    def describe(self) -> Description:
        """Describe the target for a report: versions, machine, pinned options."""
        return Description(
            provider=self.provider,
            options=self._options(_PROVIDERS[self.provider]),
            threads=self.threads,
            onnxruntime=ort.__version__,
            cpu=cpu_name(),
            gpu=gpu_name() if self.on_gpu else "",
            versions={
                "onnxlr": version("onnxlr"),
                "onnx": version("onnx"),
                "numpy": np.__version__,
                "python": python_version(),
            },
        )

    def _chain(self) -> tuple[_Provider, ...]:
        """List the provider, then those that take the operators it does not have."""
        first = _PROVIDERS[self.provider]
        last = () if self.provider == "cpu" else (_PROVIDERS["cpu"],)
        return (first, *(_PROVIDERS[name] for name in first.behind), *last)

    def _options(self, provider: _Provider) -> dict[str, str]:
        """Pinned options of one provider."""
        threads = {"num_of_threads": str(self.threads)} if provider is _PROVIDERS["openvino"] else {}
        return dict(provider.options) | threads

    def _unavailable(self, why: str) -> ModelError:
        return ModelError(f"the {self.provider} provider {why}", _PROVIDERS[self.provider].install)


def run(session: ort.InferenceSession, feeds: Feeds) -> list[Array]:
    """Run once; the outputs in the model's order.

    Raises
    ------
    ModelError
        ONNX Runtime cannot run the model on these feeds, or an output is not a tensor.
    """
    try:
        outputs = session.run(None, dict(feeds))
    except RUNTIME_ERRORS as error:
        raise ModelError(f"ONNX Runtime cannot run the model: {reason(error)}") from error
    arrays: list[Array] = []
    for meta, value in zip(session.get_outputs(), outputs, strict=True):
        if not isinstance(value, np.ndarray):
            raise ModelError(f"output '{meta.name}' is a {meta.type}, not a tensor")
        arrays.append(value)
    return arrays


def bind(session: ort.InferenceSession, feeds: Feeds) -> Callable[[], None]:
    """Make a call that runs the session on ``feeds`` and drops the outputs, with little Python around it.

    Input/output binding takes about 8 microseconds less a call than ``session.run``, a third of a very small model's
    time. On a GPU the inputs are still copied to the device and the outputs back at every call, as they are for a
    caller who holds arrays.

    Raises
    ------
    ModelError
        The model does not run on these feeds.
    """
    run(session, feeds)
    if any(value.dtype.kind in "OUS" for value in feeds.values()):  # strings cannot be bound
        return partial(_run_and_drop, session, dict(feeds))
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return partial(session.run_with_iobinding, binding)


def reason(error: BaseException) -> str:
    """Say what ONNX Runtime says, in one line without its error code and source location."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    # What is not supported, and up to what, stands behind the promises.
    text = re.sub(r"ONNX Runtime only \*guara.*?(Opset \d+ is under development).*?(Current official)", r"\1. \2", text)
    text = re.sub(r"/onnxruntime_src/\S+:\d+ .*?\) (?=[A-Z])", "", text)
    return text if len(text) <= _REASON_CHARS else f"{text[:_REASON_CHARS].rstrip()} ..."


def _run_and_drop(session: ort.InferenceSession, feeds: Feeds) -> None:
    session.run(None, feeds)


def _session_options(threads: int, profile: Path | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL  # errors reach us as exceptions: no need to print them as well
    # Else a session's workers keep spinning for a while after a run, and slow down the next model timed here.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return options
