"""onnxlr inspect."""

from __future__ import annotations

from onnxlr.cli.options import Force, JsonFile, ModelPath, Provider, ProviderOption, Shapes, Threads, parse_shapes


def command(
    model: ModelPath,
    shape: Shapes = None,
    provider: ProviderOption = Provider.CPU,
    threads: Threads = 0,
    json_file: JsonFile = None,
    force: Force = False,
) -> None:
    """List every Conv, Gemm and MatMul: shape, share of MACs and of measured time, spectrum, what could replace it.

    Needs no data and writes nothing (but --json).
    """
    from onnxlr import api
    from onnxlr.cli.console import progress, show
    from onnxlr.cli.outputs import check_outputs
    from onnxlr.model_io import write_text
    from onnxlr.report.terminal import render_inspection

    check_outputs({"--json": json_file}, models=(model,), force=force)
    with progress() as tell:
        found = api.inspect(model, shapes=parse_shapes(shape), provider=provider.value, threads=threads, progress=tell)
    if json_file is not None:
        write_text(json_file, found.to_json(), force=force)
    show(render_inspection(found))
    if json_file is not None:
        show(f"wrote {json_file}")
