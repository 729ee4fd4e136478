"""A teacher, its student, and a quick fine-tuning of a student against the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

import onnxlr
from onnxlr.training.options import TrainOptions
from tests.training.networks import classifier, images, rewritten

if TYPE_CHECKING:
    from onnxlr.training.api import Finetuned

TEACHER = classifier()
STUDENT = rewritten(TEACHER, "tucker2", (3, 3))
CHAINS = {"tucker2": (3, 3), "basis": (3,), "separable-vh": (4,), "cp3": (6,), "cp4": (6,), "mixed": (3, 3, 2)}
QUICK = TrainOptions(epochs=3, block_epochs=1, batch=(32,), learning_rate=0.02, block_rate=0.02)


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The weights by name."""
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def changed(before: onnx.ModelProto, after: onnx.ModelProto) -> set[str]:
    """The names of the weights that differ."""
    one, other = arrays(before), arrays(after)
    return {name for name in one if not np.array_equal(one[name], other[name])}


def tune(student: onnx.ModelProto, **options: object) -> Finetuned:
    """Fine-tune against ``TEACHER`` on 256 images, by ``QUICK`` and what ``options`` says else."""
    wanted = {name: getattr(QUICK, name) for name in TrainOptions.__slots__} | options
    return onnxlr.finetune(student, teacher=TEACHER, data=[images(256)], options=TrainOptions(**wanted), threads=1)
