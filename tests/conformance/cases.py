"""ONNX's own backend test cases that hold a Conv, Gemm or MatMul, with weights where a rewrite looks for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper, version_converter
from onnx.backend.test import loader
from onnx.backend.test.case import node as node_cases
from onnx.reference import ReferenceEvaluator

from onnxlr_passes.scopes import default_opset

STORED = ("simple", "pytorch-operator", "pytorch-converted")
# The newest opset that every ONNX Runtime in use can run; ONNX's own evaluator runs what is newer.
NEWEST_RUN = 22


@dataclass(frozen=True, eq=False)
class Case:
    """A model with its inputs by name, less those promoted to initializers, and what it must give."""

    name: str
    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    expected: tuple[np.ndarray, ...]


@cache
def cases(*words: str) -> tuple[Case, ...]:
    """Every case named after one of ``words`` (lower case), or holding an operator that is, in the order of ONNX."""
    found = [*_generated(words), *_stored(words)]
    return tuple({case.name: case for case in found}.values())


def _generated(words: tuple[str, ...]) -> list[Case]:
    for module in iter_modules(node_cases.__path__):
        if any(word in module.name for word in words):
            import_module(f"{node_cases.__name__}.{module.name}")
    found = []
    for case in node_cases._NodeTestCases:
        if _about(case.name, case.model, words):
            inputs, outputs = case.data_sets[0]
            names = [value.name for value in case.model.graph.input]
            found.append(_case(case.name, case.model, dict(zip(names, inputs, strict=True)), outputs))
    return found


def _stored(words: tuple[str, ...]) -> list[Case]:
    found = []
    for kind in STORED:
        for case in loader.load_model_tests(kind=kind):
            folder = Path(str(case.model_dir))
            model = onnx.load(folder / "model.onnx")
            if _about(case.name, model, words):
                data = folder / "test_data_set_0"
                held = {tensor.name for tensor in model.graph.initializer}
                names = [value.name for value in model.graph.input if value.name not in held]
                feeds = {name: _tensor(data / f"input_{i}.pb") for i, name in enumerate(names)}
                outputs = [_tensor(data / f"output_{i}.pb") for i in range(len(model.graph.output))]
                found.append(_case(case.name, _upgraded(model), feeds, outputs))
    return found


def _about(name: str, model: onnx.ModelProto, words: tuple[str, ...]) -> bool:
    texts = [name.lower(), *(node.op_type.lower() for node in model.graph.node)]
    return any(word in text for word in words for text in texts)


def _upgraded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Bring the stored models, of opset 6, to one that is supported, their weights no longer listed as inputs."""
    if (default_opset(model.opset_import) or 1) >= 7:
        return model
    return version_converter.convert_version(model, 13)


def _case(name: str, model: onnx.ModelProto, feeds: dict[str, np.ndarray], expected: list[np.ndarray]) -> Case:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    producers = {output: node for node in copy.graph.node for output in node.output}
    weights = set()
    for node in copy.graph.node:
        if node.op_type in {"Conv", "Gemm", "MatMul"} and len(node.input) > 1:
            value = node.input[1]
            while value in producers and producers[value].op_type in {"Identity", "Cast"}:
                value = producers[value].input[0]
            weights.add(value)
    for value in list(copy.graph.input):
        if value.name in weights and value.name in feeds and value.name != copy.graph.input[0].name:
            copy.graph.initializer.append(numpy_helper.from_array(np.asarray(feeds[value.name]), value.name))
            copy.graph.input.remove(value)
    left = {value.name: np.asarray(feeds[value.name]) for value in copy.graph.input if value.name in feeds}
    return Case(name, copy, left, tuple(np.asarray(array) for array in expected))


def _tensor(path: Path) -> np.ndarray:
    return numpy_helper.to_array(onnx.load_tensor(path))


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run a model that is at the IR and opset of its case."""
    if (default_opset(model.opset_import) or 1) > NEWEST_RUN:
        return [np.asarray(array) for array in ReferenceEvaluator(model).run(None, feeds)]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(array) for array in session.run(None, feeds)]
