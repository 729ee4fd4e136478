"""Simplify with onnxsim, then put back all it loses.

onnxsim folds constants, drops nodes that do nothing and fuses what the runtime wants fused. On the way it drops
metadata of nodes, values and initializers, doc strings of initializers, quantization annotations, training_info and
unused initializers, names the nameless nodes, adds inferred value_info and its own metadata (seen with 0.8.1). So its
answer is taken for the graph's structure alone: everything that has a counterpart in the source is the source's own.

It runs in a process of its own: a crash in its native code, its output, its environment variables and the seconds
and memory of its import stay there.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, external_data_helper, helper, shape_inference

from onnxlr_passes.base import Change, PassError, PassResult
from onnxlr_passes.extents import without_weights
from onnxlr_passes.restore import name_after_readers, plain_value, restore
from onnxlr_passes.scopes import scopes
from onnxlr_passes.stored import external_data

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Left out: BatchNormalization, which FoldBatchNorm folds in float64, and the two that merge equal layers and equal
# weights, which then can no longer be told apart by name.
_SKIPPED = ("fuse_bn_into_conv", "eliminate_common_subexpression", "eliminate_duplicate_initializer")

_WORKER = """
import sys
import onnx, onnxsim
source, target, largest, *skipped = sys.argv[1:]
simplified, valid = onnxsim.simplify(onnx.load(source), skipped_optimizers=skipped, tensor_size_threshold=largest)
if not valid:
    sys.exit("its result does not pass the checker of onnx")
onnx.save(simplified, target)
"""


@dataclass(frozen=True, slots=True)
class Simplify:
    """Run onnxsim; what survives keeps every field it had, and a result that is not safe is thrown away.

    The model comes back unchanged, with one change that says why, when onnxsim fails or takes longer than
    ``time_limit_s`` seconds, when its result does not pass the checker or has another signature, and without running
    it: a model with training information, with initializers listed as inputs (run UnlistInitializers first), with more
    than ``largest_model`` bytes of tensors (a protobuf ends at 2 GiB and there are several copies of it), or with
    external data and no ``folder`` to read it from. Local functions and custom domains are safe: their bodies and calls
    are kept. No constant of more than ``largest_constant`` bytes is made of a smaller one (ConstantOfShape, Expand,
    Tile).
    """

    folder: Path | None = None
    largest_model: int = 1_500_000_000
    largest_constant: int = 1 << 20
    time_limit_s: float = 600.0

    @property
    def name(self) -> str:
        """How messages call this pass."""
        return "simplify"

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Give a simpler copy of ``model``, or ``model`` itself when there is nothing to gain or no safe way."""
        reason = self._refusal(model)
        if reason:
            return _refused(model, reason)
        try:
            loaded = _with_data_inside(model, self.folder)
        except PassError as error:
            return _refused(model, f"its external data cannot be read ({error})")
        typed = _with_typed_outputs(loaded)
        answer = self._run(typed)
        if isinstance(answer, str):
            return _refused(model, answer)
        problem = _signature_change(typed.graph, answer.graph)
        if problem:
            return _refused(model, problem)
        name_after_readers(loaded, answer)
        restored = restore(typed, typed, answer)
        try:
            onnx.checker.check_model(restored)
        except onnx.checker.ValidationError as error:
            return _refused(model, f"the result does not pass the checker of onnx ({_first_line(str(error))})")
        if typed is not model:
            restored = restore(model, loaded, answer)
        changes = tuple(_changes(model, restored))
        return PassResult(restored, changes) if changes else PassResult(model)

    def _refusal(self, model: onnx.ModelProto) -> str:
        initializers = {tensor.name for tensor in model.graph.initializer}
        if len(model.training_info):
            return "it has training information, which refers to its nodes and initializers"
        if any(value.name in initializers for value in model.graph.input):
            return "initializers are listed as inputs"
        external = any(external_data_helper.uses_external_data(tensor) for tensor in _tensors(model))
        if external and self.folder is None:
            return "it has external data and no folder to read it from"
        size = sum(_size(tensor) for tensor in _tensors(model))
        if size > self.largest_model:
            return f"its tensors take {size / 1e9:.2f} GB, more than {self.largest_model / 1e9:.2f} GB"
        return ""

    def _run(self, model: onnx.ModelProto) -> onnx.ModelProto | str:
        """Give onnxsim's answer, or why there is none."""
        try:
            with tempfile.TemporaryDirectory(prefix="onnxlr-simplify-") as folder:
                source, target = Path(folder, "source.onnx"), Path(folder, "target.onnx")
                source.write_bytes(model.SerializeToString())
                done = self._child(source, target)
                if done.returncode < 0:
                    return f"onnxsim crashed ({signal.Signals(-done.returncode).name})"
                if done.returncode:
                    return f"onnxsim failed ({_last_line(done.stderr)})"
                return onnx.load(target)
        except subprocess.TimeoutExpired:
            return f"onnxsim took longer than {self.time_limit_s:g} s"
        except OSError as error:
            return f"onnxsim could not be started ({error})"

    def _child(self, source: Path, target: Path) -> subprocess.CompletedProcess[str]:
        options = [str(source), str(target), f"{self.largest_constant}B", *_SKIPPED]
        return subprocess.run(
            # -P: a file onnx.py in the working directory is not the library
            [sys.executable, "-P", "-c", _WORKER, *options],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            env={"ORT_DISABLE_TELEMETRY": "1", **os.environ},  # it runs ONNX Runtime, which would report that
            timeout=self.time_limit_s,
        )


def _refused(model: onnx.ModelProto, reason: str) -> PassResult:
    return PassResult(model, (Change(model.graph.name, f"not simplified: {reason}"),))


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "no message")


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "no message")


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of ``model``: initializers and node attributes, in every scope."""
    for scope in scopes(model):
        if scope.graph is not None:
            yield from scope.graph.initializer
            for sparse in scope.graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for node in scope.nodes:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)


def _size(tensor: TensorProto) -> int:
    if tensor.data_type in {TensorProto.UNDEFINED, TensorProto.STRING}:
        return 0
    return int(math.prod(tensor.dims)) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _with_data_inside(model: onnx.ModelProto, folder: Path | None) -> onnx.ModelProto:
    """Give a copy that holds its external data; ``model`` itself when it has none."""
    if not any(external_data_helper.uses_external_data(tensor) for tensor in _tensors(model)):
        return model
    loaded = onnx.ModelProto()
    loaded.CopyFrom(model)
    for tensor in _tensors(loaded):
        if external_data_helper.uses_external_data(tensor):
            data = external_data(tensor, folder)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = data
    return loaded


def _with_typed_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give a copy with the types of outputs that declare none or no shape, as far as they can be inferred.

    The checker that onnxsim and this pass call asks for them, ONNX Runtime does not. ``model`` itself when all do.
    """
    if all(output.type.tensor_type.HasField("shape") for output in model.graph.output):
        return model
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    try:
        inferred = shape_inference.infer_shapes(without_weights(model, {}), data_prop=True)
    except (shape_inference.InferenceError, ValueError):  # a graph it cannot walk: onnxsim will say so
        return typed
    for output, known in zip(typed.graph.output, inferred.graph.output, strict=True):
        output.type.CopyFrom(known.type)
    return typed


def _signature_change(before: onnx.GraphProto, after: onnx.GraphProto) -> str:
    """Say how the signature changed; an output whose unknown dimensions were inferred has not changed."""
    if [(value.name, value.type) for value in before.input] != [(value.name, value.type) for value in after.input]:
        return "onnxsim changed the inputs"
    if [value.name for value in before.output] != [value.name for value in after.output]:
        return "onnxsim changed the outputs"
    for old, new in zip(before.output, after.output, strict=True):
        old_type, new_type = old.type.tensor_type, new.type.tensor_type
        dims = list(zip(old_type.shape.dim, new_type.shape.dim, strict=False))
        clash = any(a.HasField("dim_value") and b.HasField("dim_value") and a.dim_value != b.dim_value for a, b in dims)
        ranks = len(old_type.shape.dim) != len(new_type.shape.dim) and old_type.HasField("shape")
        if clash or ranks or old_type.elem_type != new_type.elem_type:
            return f"onnxsim changed the type of output '{old.name}'"
    return ""


def _changes(before: onnx.ModelProto, after: onnx.ModelProto) -> Iterator[Change]:
    old, new = _by_output(before), _by_output(after)
    for key in [*old, *(key for key in new if key not in old)]:
        if key not in new:
            yield Change(old[key].name or key, f"{old[key].op_type} removed")
        elif key not in old:
            yield Change(new[key].name or key, f"{new[key].op_type} added")
        elif _essence(old[key]) != _essence(new[key]):
            yield Change(new[key].name or key, f"{new[key].op_type} has other inputs or attributes")
    tensors = [{tensor.name for tensor in _initializers_everywhere(model)} for model in (before, after)]
    yield from (Change(name, "initializer removed") for name in sorted(tensors[0] - tensors[1]))
    yield from (Change(name, "initializer added") for name in sorted(tensors[1] - tensors[0]))
    if before.ir_version != after.ir_version:
        yield Change(before.graph.name, f"IR version {before.ir_version} raised to {after.ir_version}")


def _by_output(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    nodes = (node for scope in scopes(model) if scope.graph is not None for node in scope.nodes)
    return {next((name for name in node.output if name), node.name): node for node in nodes}


def _essence(node: onnx.NodeProto) -> tuple[str, list[str], list[str], dict[str, bytes]]:
    attributes = {attribute.name: plain_value(attribute) for attribute in node.attribute}
    return node.op_type, list(node.input), list(node.output), attributes


def _initializers_everywhere(model: onnx.ModelProto) -> Iterable[TensorProto]:
    return [tensor for scope in scopes(model) if scope.graph is not None for tensor in scope.graph.initializer]
