"""Standard output belongs to the report alone."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import TextIOWrapper


def take_stdout() -> None:
    """Let ``sys.stdout`` write where it did, and whatever else writes to file descriptor 1 write nowhere.

    Native code prints there what no option turns off: HiGHS tells of a solver it runs inside, in the middle of a report
    that somebody may be parsing. The terminal is asked for its width while it can still be found.
    """
    if not isinstance(sys.stdout, TextIOWrapper):  # somebody else's, in a test
        return
    sys.stdout.flush()
    with suppress(OSError):  # closed: there is nothing to keep
        own = os.dup(1)
        if os.isatty(own):
            os.environ.setdefault("COLUMNS", str(os.get_terminal_size(own).columns))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        sys.stdout = open(own, "w", encoding=sys.stdout.encoding, errors="backslashreplace")  # noqa: SIM115, PTH123
