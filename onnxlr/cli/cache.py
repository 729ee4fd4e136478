"""onnxlr cache show and onnxlr cache clear."""

from __future__ import annotations

import typer

from onnxlr.cli.guard import guard

app = typer.Typer(
    name="cache",
    help="Latencies measured before, which planning does not measure again. They lie in the user's cache folder, or in "
    "the one that ONNXLR_CACHE_DIR names.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def show() -> None:
    """Print where the cache is, its size, and the measurements of each target."""
    from onnxlr.cli.console import show as write
    from onnxlr.cost.cache import default_cache
    from onnxlr.report.cached import render_contents

    write(*render_contents(default_cache().contents()))


def clear() -> None:
    """Remove all measurements, and the models tried in searches."""
    from onnxlr.cli.console import show as write
    from onnxlr.cost.cache import default_cache
    from onnxlr.setting import forget

    cache = default_cache()
    searches = forget(cache)
    if searches:
        write(f"removed the trials of {searches} searches")
    write(f"removed {cache.path}" if cache.clear() else f"there is no cache at {cache.path}")


app.command("show", short_help="Print where it is and what it holds.")(guard(show))
app.command("clear", short_help="Remove all measurements.")(guard(clear))
