"""What the preparing passes did, in a line for each."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxlr.report.summary import ChangeRow

_MOST = 4  # kinds of changes of one pass that are named
_NAME = re.compile(r" ?'[^']*'")


def notes_on(changes: Sequence[ChangeRow]) -> tuple[str, ...]:
    """Sum up the changes of each pass in one line: what, how many times, the commonest first."""
    lines = []
    for made_by in dict.fromkeys(change.made_by for change in changes):
        kinds = Counter(_NAME.sub("", change.what) for change in changes if change.made_by == made_by)
        named = [f"{what} ({number})" if number > 1 else what for what, number in kinds.most_common(_MOST)]
        others = sum(kinds.values()) - sum(number for _, number in kinds.most_common(_MOST))
        named += [f"{others} other change{'s' if others > 1 else ''} (all in --json)"] if others else []
        lines.append(f"{made_by}: {', '.join(named)}")
    return tuple(lines)
