"""The Python API of fine-tuning. This module alone of the package can be imported without torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from onnxlr import model_io
from onnxlr.calibration import DataOptions, ImageOptions
from onnxlr.errors import UsageError
from onnxlr.opening import is_folder
from onnxlr.progress import silent
from onnxlr.target import Target
from onnxlr.training.options import TrainOptions

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    import numpy as np
    import onnx

    from onnxlr.calibration import DataReader
    from onnxlr.progress import Progress
    from onnxlr.target import Feeds
    from onnxlr.training.summary import FinetuneSummary

    Source = str | os.PathLike[str] | onnx.ModelProto
    Data = str | os.PathLike[str] | DataReader | Iterable[Feeds]


@dataclass(frozen=True, slots=True, eq=False)
class Finetuned:
    """A fine-tuned model: the graph it came from with other weights, and the record of the run."""

    model: onnx.ModelProto
    summary: FinetuneSummary
    source: model_io.Model
    protect: tuple[Path, ...] = ()

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the model to ``path``, whole or not at all.

        Raises
        ------
        UsageError
            When the file exists and ``force`` is False, or is one of the inputs.
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
            protect=(*self.source.files, *self.protect),
        )
        return out


def finetune(
    model: Source,
    *,
    teacher: Source | None = None,
    data: Data,
    labels: str | np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None = None,
    samples: int | None = None,
    images: ImageOptions | None = None,
    options: TrainOptions | None = None,
    threads: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
) -> Finetuned:
    """Train the weights of ``model``, and write them back into the same graph.

    Parameters
    ----------
    model
        A rewritten model (any other will do): path, or a ModelProto, which is not changed.
    teacher
        The original, whose outputs are what ``model`` learns to give; None: learn from labels alone.
    data, samples
        Training samples: a path (.npz, .npy, a folder of those or of images), a CalibrationDataReader or any iterable
        of feeds; and how many of them to use. All are held in memory.
    images
        How image files of a folder become inputs; as they are, RGB in 0..1, by default.
    labels
        Name of an array in the .npz file, or the array: class numbers (n,), or what the first output should be.
    options
        How to train.
    threads
        That share each batch between them; 0 is every physical core this process may use. The weights depend on it in
        their last digits.
    checkpoint
        A file to go on from where it exists, and to write checkpoints to.
    progress
        Called with a stage's name and its share done.

    Raises
    ------
    OnnxlrError
        One of its children: torch is not installed, models or data that cannot be used.
    KeyboardInterrupt
        On SIGINT and SIGTERM, at the end of a step, after the checkpoint was written.
    """
    if find_spec("torch") is None:
        raise UsageError("fine-tuning needs PyTorch, which is not installed", "pip install 'onnxlr[train]'")
    from onnxlr.training.data import read_samples
    from onnxlr.training.finetune import finetune as train

    target = Target(threads=threads)
    options = options or TrainOptions()
    source = model_io.load(model)
    mentor = None if teacher is None else model_io.load(teacher)
    if images is not None and not is_folder(data):
        raise UsageError("image options are for a folder of images", "give one as data, or leave them out")
    if images is not None and images.layout == "NHWC" and options.augment:
        raise UsageError(f"--augment {options.augment}: it moves images with channels first, not NHWC", "leave it out")
    reading = DataOptions(samples, options.seed, images or ImageOptions())
    read = read_samples(source.proto, data, labels, reading)
    outcome = train(source, mentor, read, options, target, None if checkpoint is None else Path(checkpoint), progress)
    return Finetuned(outcome.proto, outcome.summary, source, () if mentor is None else mentor.files)
