"""Fine-tuning broken off, at any step or by a signal, goes on to the same bytes, and by no checkpoint but its own."""

from __future__ import annotations

import signal
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

import onnxlr
from onnxlr.errors import ModelError, UsageError
from onnxlr.progress import silent
from onnxlr.training.options import TrainOptions
from tests.training.networks import classifier, images, rewritten
from tests.training.teacher_and_student import STUDENT, TEACHER, tune

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from onnxlr.progress import Progress


class BrokenOff(Exception):  # noqa: N818 - a signal of the test, not an error
    """Raised to break a run off."""


def bytes_of(
    student: onnx.ModelProto,
    teacher: onnx.ModelProto,
    options: TrainOptions,
    progress: Progress,
    checkpoint: Path | None,
) -> bytes:
    result = onnxlr.finetune(
        student,
        teacher=teacher,
        data=[images(256)],
        options=options,
        threads=1,
        checkpoint=checkpoint,
        progress=progress,
    )
    return result.model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("at", [1, 7, 8, 20, 27])
def test_a_run_broken_off_anywhere_goes_on_to_the_same_bytes(at: int, tmp_path: Path) -> None:
    options = TrainOptions(
        epochs=3, batch=(32,), learning_rate=0.02, checkpoint_every=3, augment="flip", batchnorm=True
    )
    teacher = classifier(batchnorm=True)
    student = rewritten(teacher, "cp3", (6,))
    path = tmp_path / "run.checkpoint"
    told = 0

    def interrupt(stage: str, share: float) -> None:
        nonlocal told
        told += 1
        if told == at:
            raise BrokenOff

    start = partial(bytes_of, student, teacher, options)
    whole = start(silent, None)
    with pytest.raises(BrokenOff):  # as abrupt as a kill: nothing is saved on the way out
        start(interrupt, path)
    assert path.exists() == (at > 3)
    assert start(silent, path) == whole


def test_a_signal_is_heard_after_the_step_and_saves_it(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    options = TrainOptions(epochs=3, batch=(32,), checkpoint_every=1000)
    steps = []

    def interrupt(stage: str, share: float) -> None:
        steps.append((stage, share))
        if len(steps) == 10:
            signal.raise_signal(signal.SIGINT)

    start = partial(bytes_of, STUDENT, TEACHER, options)
    with pytest.raises(KeyboardInterrupt):
        start(interrupt, path)
    assert len(steps) == 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed: list[object] = []
    assert start(lambda *told: resumed.append(told), path) == start(silent, None)
    assert len(resumed) == 4 * 7 - 10


def test_a_thread_has_no_signals_to_mind() -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(tune(STUDENT)))
    thread.start()
    thread.join()
    assert found[0].model.SerializeToString() == tune(STUDENT).model.SerializeToString()


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    options = TrainOptions(epochs=1, batch=(32,), checkpoint_every=1)
    onnxlr.finetune(STUDENT, teacher=TEACHER, data=[images(64)], options=options, threads=1, checkpoint=path)
    other = TrainOptions(epochs=2, batch=(32,), checkpoint_every=1)
    with pytest.raises(UsageError, match="of a run with other models, data or options; remove it"):
        onnxlr.finetune(STUDENT, teacher=TEACHER, data=[images(64)], options=other, threads=1, checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="not a checkpoint"):
        onnxlr.finetune(STUDENT, teacher=TEACHER, data=[images(64)], options=options, threads=1, checkpoint=path)
