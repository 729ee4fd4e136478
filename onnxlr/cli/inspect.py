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
    from onnxlr.model_io import check_output, write_text
    from onnxlr.report.terminal import render_inspection

    if json_file is not None:
        check_output(json_file, protect=(model,), force=force)
    with progress() as tell:
        found = api.inspect(model, shapes=parse_shapes(shape), provider=provider.value, threads=threads, progress=tell)
    show(render_inspection(found))
    if json_file is not None:
        write_text(json_file, found.to_json(), force=force)
        show(f"wrote {json_file}")
