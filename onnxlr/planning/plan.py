"""A plan: which layer becomes what. Written as JSON that a person can read, edit and replay."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxlr.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Choice:
    """One layer's fate: ``site`` is its key in the model, ``node`` its name, ``scheme`` and ``ranks`` its chain."""

    site: str
    node: str
    scheme: str
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All layers to rewrite, in node order; every other layer stays as it is.

    ``model_sha256`` names the model the plan was made for and ``budget`` what was asked, both in words only: a plan
    may be replayed on a retrained model with the same layers.
    """

    choices: tuple[Choice, ...]
    model_sha256: str = ""
    budget: str = ""

    def to_json(self) -> str:
        """Return the plan as JSON text, one layer a line, the same text for the same plan."""
        layers = ",\n".join(
            "    "
            + json.dumps(
                {"site": c.site, "node": c.node, "scheme": c.scheme, "ranks": list(c.ranks)}, ensure_ascii=False
            )
            for c in self.choices
        )
        head = json.dumps({"onnxlr_plan": _VERSION, "model_sha256": self.model_sha256, "budget": self.budget}, indent=2)
        body = f"[\n{layers}\n  ]" if layers else "[]"
        return f'{head[:-2]},\n  "layers": {body}\n}}\n'


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises
    ------
    UsageError
        When the file cannot be read or is not a plan; the message names the place.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path}: cannot read the plan ({_why(error)})", "pass a file made with --save-plan"
        ) from error
    return parse_plan(text, str(path))


def parse_plan(text: str, where: str) -> Plan:
    """Parse a plan's JSON text; ``where`` names it in messages.

    Raises
    ------
    UsageError
        When the text is not a plan.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{where}:{error.lineno}: not JSON ({error.msg})", "pass a file made with --save-plan"
        ) from error
    if not isinstance(data, dict) or data.get("onnxlr_plan") != _VERSION:
        raise UsageError(f"{where}: not a plan of version {_VERSION}", "pass a file made with --save-plan")
    layers = data.get("layers")
    if not isinstance(layers, list):
        raise UsageError(f'{where}: "layers" is not a list', "see a file made with --save-plan")
    choices = tuple(_choice(entry, f"{where}: layer {number}") for number, entry in enumerate(layers, start=1))
    keys = [choice.site for choice in choices]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise UsageError(f"{where}: {twice[0]!r} is planned twice", "keep one of the two")
    return Plan(choices, str(data.get("model_sha256", "")), str(data.get("budget", "")))


def _choice(entry: Any, where: str) -> Choice:
    if not isinstance(entry, dict):
        raise UsageError(f"{where} is not an object", 'each layer is {"site", "node", "scheme", "ranks"}')
    site, scheme, ranks = entry.get("site"), entry.get("scheme"), entry.get("ranks")
    if not isinstance(site, str) or not isinstance(scheme, str):
        raise UsageError(f'{where}: "site" and "scheme" are names', "see a file made with --save-plan")
    if not isinstance(ranks, list) or not ranks or not all(_is_rank(rank) for rank in ranks):
        raise UsageError(f'{where} ({site}): "ranks" is a list of whole numbers, none below 0', "correct it")
    return Choice(site, str(entry.get("node", site)), scheme, tuple(ranks))


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _why(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "not UTF-8 text"
