"""The command line: parsing, exit codes, and nothing heavy until a command runs."""

from __future__ import annotations

import sys
from typing import NoReturn

import click
import typer
from typer.main import get_command

from onnxlr.cli import bench, inspect, rewrite, validate
from onnxlr.errors import OnnxlrError

_EPILOG = (
    "Exit codes: 0 done; 2 usage; 3 the model cannot be read or used; 4 the asked budget cannot be met (nothing "
    "written); 5 the rewritten model failed validation (nothing written); 130 interrupted (nothing written)."
)
INTERRUPTED = 130

app = typer.Typer(
    name="onnxlr",
    help="Make trained ONNX models faster: low-rank chains of plain convolutions, with measured proof.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("rewrite", epilog=_EPILOG)(rewrite.command)
app.command("inspect", epilog=_EPILOG)(inspect.command)
app.command("bench", epilog=_EPILOG)(bench.command)
app.command("validate", epilog=_EPILOG)(validate.command)


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


def main() -> NoReturn:
    """Run the command line and exit; errors a user can act on are one line on stderr, a bug keeps its traceback."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        result = get_command(app).main(args=arguments, prog_name="onnxlr", standalone_mode=False)
    except OnnxlrError as error:
        typer.echo(f"onnxlr: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        typer.echo("onnxlr: interrupted; nothing was written", err=True)
        return INTERRUPTED
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()
