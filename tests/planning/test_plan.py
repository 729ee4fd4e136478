"""A plan survives its file, and every mistake made in editing one gets a line that says what and where."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxlr.errors import UsageError
from onnxlr.planning.plan import Choice, Plan, parse_plan, read_plan

if TYPE_CHECKING:
    from pathlib import Path

names = st.text(min_size=1, max_size=12)
choices = st.lists(
    st.builds(
        Choice,
        names,
        names,
        st.sampled_from(["basis", "tucker2"]),
        st.lists(st.integers(0, 999), min_size=1).map(tuple),
    ),
    max_size=4,
    unique_by=lambda choice: choice.site,
)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(choices=choices, budget=st.text(max_size=10))
def test_round_trip(choices: list[Choice], budget: str) -> None:
    plan = Plan(tuple(choices), "0" * 64, budget)
    assert parse_plan(plan.to_json(), "plan.json") == plan
    assert plan.to_json() == parse_plan(plan.to_json(), "plan.json").to_json()


def test_one_layer_a_line() -> None:
    plan = Plan((Choice("a", "conv1", "basis", (8,)), Choice("b", "conv2", "tucker2", (4, 8))))
    lines = plan.to_json().splitlines()
    assert sum('"site"' in line for line in lines) == 2
    assert json.loads(lines[5].rstrip(",")) == {"site": "a", "node": "conv1", "scheme": "basis", "ranks": [8]}


def test_from_a_file(tmp_path: Path) -> None:
    plan = Plan((Choice("größe", "größe", "basis", (8,)),))
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json(), encoding="utf-8")
    assert read_plan(path) == plan


def layer(**changes: object) -> str:
    entry: dict[str, object] = {"site": "a", "node": "conv1", "scheme": "basis", "ranks": [8], **changes}
    return json.dumps({"onnxlr_plan": 1, "layers": [{k: v for k, v in entry.items() if v != "(gone)"}]})


MISTAKES = [
    ("", "p.json:1: not JSON"),
    ('{"onnxlr_plan": 1,\n "layers": [\n  {"site": "a",}]}', "p.json:3: not JSON"),
    ("[]", "not a plan of version 1"),
    ("{}", "not a plan of version 1"),
    ('{"onnxlr_plan": 2, "layers": []}', "not a plan of version 1"),
    ('{"onnxlr_plan": 1}', '"layers" is not a list'),
    ('{"onnxlr_plan": 1, "layers": {}}', '"layers" is not a list'),
    ('{"onnxlr_plan": 1, "layers": ["a"]}', "layer 1 is not an object"),
    (layer(site="(gone)"), 'layer 1: "site" and "scheme" are names'),
    (layer(scheme=None), 'layer 1: "site" and "scheme" are names'),
    (layer(ranks=8), 'layer 1 (a): "ranks" is a list of whole numbers'),
    (layer(ranks=[]), 'layer 1 (a): "ranks" is a list of whole numbers'),
    (layer(ranks=[8.5]), 'layer 1 (a): "ranks" is a list of whole numbers'),
    (layer(ranks=[-8]), 'layer 1 (a): "ranks" is a list of whole numbers'),
    (layer(ranks=[True]), 'layer 1 (a): "ranks" is a list of whole numbers'),
    (layer(ranks=["8"]), 'layer 1 (a): "ranks" is a list of whole numbers'),
    (
        json.dumps({"onnxlr_plan": 1, "layers": [{"site": "a", "scheme": "basis", "ranks": [r]} for r in (4, 8)]}),
        "'a' is planned twice",
    ),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=[m[1] for m in MISTAKES])
def test_mistakes_get_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_plan(text, "p.json")
    assert message in str(caught.value)
    assert str(caught.value).startswith("p.json")
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory"), (binary, "not UTF-8")):
        with pytest.raises(UsageError, match=why):
            read_plan(path)
