"""The command line: parsing, exit codes, and nothing heavy until a command runs."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

import typer

from onnxlr.cli import bench, cache, finetune, inspect, rewrite, search, validate
from onnxlr.cli.guard import guard
from onnxlr.cli.streams import take_stdout

_DONE = "Exit codes: 0 done; 2 usage; 3 a model or its data cannot be read or used;"
_INTERRUPTED = "130 interrupted (no partial file)."
_REWRITE = (
    f"{_DONE} 4 the asked budget cannot be met (nothing written); 5 the rewritten model failed validation (nothing "
    f"written); {_INTERRUPTED}"
)
_SEARCH = (
    f"{_DONE} 4 nothing is faster (nothing written); 5 the model, simplified and folded, failed validation (nothing "
    "written); 130 interrupted (the same command goes on)."
)
_VALIDATE = f"{_DONE} 5 NEW failed; {_INTERRUPTED}"
_FINETUNE = f"{_DONE} 5 the runtime does not compute what was trained (nothing written); {_INTERRUPTED}"
_READ_ONLY = f"{_DONE} {_INTERRUPTED}"

app = typer.Typer(
    name="onnxlr",
    help="Make trained ONNX models faster: low-rank chains of plain convolutions, with measured proof.",
    epilog=_REWRITE,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("rewrite", short_help="Make a model faster, and prove it.", epilog=_REWRITE)(guard(rewrite.command))
app.command("search", short_help="Show what speed costs in accuracy.", epilog=_SEARCH)(guard(search.command))
app.command("finetune", short_help="Train a rewritten model to answer as the original.", epilog=_FINETUNE)(
    guard(finetune.command)
)
app.command("inspect", short_help="List what a model is made of and what could be saved.", epilog=_READ_ONLY)(
    guard(inspect.command)
)
app.command("bench", short_help="Time models against each other.", epilog=_READ_ONLY)(guard(bench.command))
app.add_typer(cache.app, name="cache", short_help="Show or clear the latencies measured before.")
app.command("validate", short_help="Compare two models on the same inputs.", epilog=_VALIDATE)(guard(validate.command))


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"onnxlr {version('onnxlr')}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    del version


def main() -> None:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that the locale cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    # From 1.29 on ONNX Runtime reports its use to its maker, and writes to the temporary folder, unless told not to
    # before it is loaded. What someone converts here is theirs; ORT_DISABLE_TELEMETRY=0 allows it.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    take_stdout()
    app()


if __name__ == "__main__":
    main()
