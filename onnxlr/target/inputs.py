"""What a model must be fed: the graph inputs that are not initialisers, their types and their shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnxlr.errors import ModelError, UsageError

if TYPE_CHECKING:
    from onnxlr.target.session import Target

Feeds = Mapping[str, np.ndarray[Any, Any]]
Shape = tuple[int, ...]

_EXAMPLE_SIZE = {3: 128, 4: 224, 5: 32}  # what a hint proposes for a free spatial size, by rank


@dataclass(frozen=True, slots=True)
class Input:
    """One graph input: ``dims`` has an int for a fixed size, a name (or '?') for a free one; None: rank unknown."""

    name: str
    dtype: np.dtype[Any]
    dims: tuple[int | str, ...] | None

    def __str__(self) -> str:
        """Name, type and shape as a message shows them."""
        dims = "unknown rank" if self.dims is None else "x".join(map(str, self.dims)) or "scalar"
        return f"'{self.name}' ({self.dtype} {dims})"


def graph_inputs(model: onnx.ModelProto) -> tuple[Input, ...]:
    """List what a run of ``model`` must be fed, in order; initialisers listed as inputs (IR 3) are not among them.

    Raises
    ------
    ModelError
        An input that is not a dense tensor.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return tuple(_input(value) for value in graph.input if value.name not in constants)


def resolve_shapes(model: onnx.ModelProto, given: Mapping[str, Sequence[int]] | Target) -> dict[str, Shape]:
    """Give every input of ``model`` a concrete shape.

    A free first size becomes 1 (the batch). A free size that shares its symbol with a size given for another input
    takes that value. Any other free size must be given.

    Parameters
    ----------
    given
        Shapes by input name, or the ``Target`` that holds them.

    Raises
    ------
    UsageError
        A free size that nothing fixes, a given shape that conflicts with the model's, or no such input.
    """
    shapes = given if isinstance(given, Mapping) else dict(given.shapes)
    inputs = graph_inputs(model)
    unknown = sorted(set(shapes) - {item.name for item in inputs})
    if unknown:
        names = ", ".join(item.name for item in inputs) or "none"
        raise UsageError(
            f"--shape names the input '{unknown[0]}', which the model does not have", f"its inputs: {names}"
        )
    symbols: dict[str, int] = {}
    for item in inputs:
        if item.name in shapes:
            _check(item, shapes[item.name])
            symbols |= {
                dim: size for dim, size in zip(item.dims or (), shapes[item.name], strict=False) if isinstance(dim, str)
            }
    symbols.pop("?", None)
    return {i.name: tuple(shapes[i.name]) if i.name in shapes else _fill(i, symbols) for i in inputs}


def shape_option(item: Input, sizes: Sequence[int | str]) -> str:
    """Write the ``--shape`` option that gives ``item`` the shape ``sizes``; a free size is shown by an example."""
    example = _EXAMPLE_SIZE.get(len(sizes), 128)
    text = "x".join(
        str(size if isinstance(size, int) else 1 if axis == 0 else example) for axis, size in enumerate(sizes)
    )
    return f"--shape {item.name}={text}"


def _check(item: Input, shape: Sequence[int]) -> None:
    """Refuse a given shape of another rank, with another size where the model fixes it, or with a size below 1."""
    text = "x".join(map(str, shape))
    if any(size < 1 for size in shape):
        raise UsageError(f"--shape {item.name}={text}: sizes must be at least 1")
    if item.dims is None:
        return
    if len(shape) != len(item.dims) or any(
        isinstance(d, int) and d != s for d, s in zip(item.dims, shape, strict=True)
    ):
        sizes = [d if isinstance(d, int) or axis >= len(shape) else shape[axis] for axis, d in enumerate(item.dims)]
        hint = f"for example {shape_option(item, sizes)}" if item.dims else "it is a scalar: leave the option out"
        raise UsageError(f"--shape {item.name}={text} does not fit the model's input {item}", hint)


def _fill(item: Input, symbols: Mapping[str, int]) -> Shape:
    """Shape of an input that no option names."""
    if item.dims is None:
        raise UsageError(
            f"the rank of input '{item.name}' is unknown", f"give its shape, as in --shape {item.name}=1x3x224x224"
        )
    sizes = [
        symbols.get(dim, 1 if axis == 0 else dim) if isinstance(dim, str) else dim for axis, dim in enumerate(item.dims)
    ]
    fixed = tuple(size for size in sizes if isinstance(size, int))
    if len(fixed) < len(sizes):
        raise UsageError(
            f"the model leaves sizes of its input {item} open", f"fix them, as in {shape_option(item, sizes)}"
        )
    return fixed


def _input(value: onnx.ValueInfoProto) -> Input:
    if value.type.WhichOneof("value") != "tensor_type":
        kind = (value.type.WhichOneof("value") or "untyped").removesuffix("_type")
        raise ModelError(f"input '{value.name}' is a {kind}", "only models whose inputs are dense tensors can be run")
    tensor = value.type.tensor_type
    known = onnx.TensorProto.DataType.values()
    if tensor.elem_type not in known or tensor.elem_type == onnx.TensorProto.UNDEFINED:
        raise ModelError(f"input '{value.name}' has no element type", "export the model again with typed inputs")
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    if not tensor.HasField("shape"):
        return Input(value.name, dtype, None)
    dims = tuple(
        int(d.dim_value) if d.HasField("dim_value") and d.dim_value >= 0 else (d.dim_param or "?")
        for d in tensor.shape.dim
    )
    return Input(value.name, dtype, dims)
