"""Draw the README's picture, docs/demo.svg, from a run of the demo on this machine.

`make picture`, or `python docs/picture.py` with onnxlr installed.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

PROJECT = Path(__file__).parents[1]
PICTURE = PROJECT / "docs" / "demo.svg"
COLUMNS = 100


def main() -> None:
    """Run the demo as in a terminal, and keep what it prints."""
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    demo = (sys.executable, "samples/charnet/demo.py")
    run = subprocess.run(demo, cwd=PROJECT, env=environment, capture_output=True, check=False)
    if run.returncode:
        sys.exit(run.stderr.decode())
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print("$ make demo", style="bold cyan")
    console.print(Text.from_ansi(run.stdout.decode()))
    svg = console.export_svg(title="onnxlr", unique_id="demo")
    # Loads nothing from elsewhere: whatever shows the picture has a font of fixed width.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code, monospace", "monospace")
    PICTURE.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
