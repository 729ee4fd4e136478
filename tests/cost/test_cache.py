"""The file of measured latencies: what it keeps, and what it survives."""

from __future__ import annotations

import json
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from onnxlr.cost.cache import CACHE_DIR, Entry, LatencyCache, default_cache, entry_key, target_digest
from onnxlr.errors import ModelError
from onnxlr.target import Target

TARGET = Target(threads=1).describe()
ENTRY = Entry(2e-3, 0.1, 0.5, 0.01)


def many(job: tuple[str, int]) -> None:
    """One of several writers: fifty appends of one entry each."""
    path, writer = job
    for number in range(50):
        assert LatencyCache(Path(path)).add(TARGET, {f"{writer}-{number}": ENTRY}) == ()


def test_what_is_added_is_read_back_for_that_target_only(tmp_path):
    cache = LatencyCache(tmp_path / "deep" / "latencies.jsonl")
    assert cache.read(TARGET) == ({}, ())
    assert cache.add(TARGET, {"a": ENTRY}) == ()
    other = replace(TARGET, onnxruntime="0.0")
    assert cache.add(other, {"a": replace(ENTRY, ratio=0.7)}) == ()
    assert cache.read(TARGET) == ({"a": ENTRY}, ())
    assert cache.read(other)[0]["a"].ratio == 0.7
    found = cache.contents()
    assert (found.entries, found.size, found.notes) == (2, cache.path.stat().st_size, ())
    assert [count for _, count in found.targets] == [1, 1]
    assert any("ONNX Runtime 0.0" in target for target, _ in found.targets)


def test_what_was_measured_in_another_way_is_not_read(tmp_path, monkeypatch):
    cache = LatencyCache(tmp_path / "l.jsonl")
    cache.add(TARGET, {"a": ENTRY})
    monkeypatch.setattr("onnxlr.cost.cache._METHOD", 0)
    assert cache.read(TARGET) == ({}, ())
    monkeypatch.undo()
    assert cache.read(TARGET) == ({"a": ENTRY}, ())


def test_the_later_of_two_measurements_counts(tmp_path):
    cache = LatencyCache(tmp_path / "l.jsonl")
    cache.add(TARGET, {"a": ENTRY})
    cache.add(TARGET, {"a": replace(ENTRY, ratio=0.6)})
    assert cache.read(TARGET)[0]["a"].ratio == 0.6
    assert cache.contents().entries == 1


@pytest.mark.parametrize(
    "change",
    [
        {"provider": "cuda"},
        {"threads": 7},
        {"onnxruntime": "9"},
        {"cpu": "other"},
        {"gpu": "x"},
        {"options": {"a": "b"}},
    ],
)
def test_whatever_changes_a_latency_changes_the_digest(change):
    assert target_digest(replace(TARGET, **change)) != target_digest(TARGET)


def test_what_does_not_change_a_latency_does_not_change_the_digest():
    assert target_digest(replace(TARGET, versions={"numpy": "0"})) == target_digest(TARGET)


def test_keys_tell_placement_and_chain_apart():
    assert len({entry_key("a", "b"), entry_key("b", "a"), entry_key("a", "c"), entry_key("ab", "")}) == 4


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe not text",
        b'{"target": ',
        b"[]",
        b"null",
        b'{"target": 1, "key": "a", "entry": [1, 1, 1, 1]}',
        b'{"target": "t", "key": "a", "entry": [1, 1, 1]}',
        b'{"target": "t", "key": "a", "entry": [1, 1, "x", 1]}',
        b'{"target": "t", "key": "a", "entry": [1, 1, NaN, 1]}',
        b'{"target": "t", "key": "a", "entry": [0, 0, 1, 0]}',
        b'{"target": "t", "key": "a", "entry": [1, -1, 1, 0]}',
        b'{"target": "t", "key": null, "entry": [1, 0, 1, 0]}',
    ],
)
def test_a_broken_line_is_passed_over_and_said(tmp_path, line):
    cache = LatencyCache(tmp_path / "l.jsonl")
    cache.add(TARGET, {"a": ENTRY})
    digest = target_digest(TARGET).encode()
    with cache.path.open("ab") as file:
        file.write(line.replace(b'"t"', b'"' + digest + b'"') + b"\n")
    cache.add(TARGET, {"b": ENTRY})
    entries, notes = cache.read(TARGET)
    assert entries == {"a": ENTRY, "b": ENTRY}
    assert len(notes) == 1
    assert "1 unreadable line" in notes[0]


@pytest.mark.parametrize("content", [b"something else\n", b"\x00\x01", b'{"onnxlr_latencies": 99}\n', b"[]\n"])
def test_a_foreign_file_is_neither_used_nor_changed(tmp_path, content):
    path = tmp_path / "l.jsonl"
    path.write_bytes(content)
    cache = LatencyCache(path)
    for notes in (cache.read(TARGET)[1], cache.add(TARGET, {"a": ENTRY}), cache.contents().notes):
        assert "not a latency cache of this version" in notes[0]
    with pytest.raises(ModelError, match="it stays"):
        cache.clear()
    assert path.read_bytes() == content


def test_a_folder_in_the_way_is_a_note(tmp_path):
    (tmp_path / "l.jsonl").mkdir()
    cache = LatencyCache(tmp_path / "l.jsonl")
    assert cache.read(TARGET)[1]
    assert cache.add(TARGET, {"a": ENTRY})
    (tmp_path / "file").write_text("")
    assert "cannot be written" in LatencyCache(tmp_path / "file" / "l.jsonl").add(TARGET, {"a": ENTRY})[0]


def test_a_folder_that_cannot_be_reached_is_a_note(unreachable):
    cache = LatencyCache(unreachable / "l.jsonl")
    for notes in (cache.read(TARGET)[1], cache.add(TARGET, {"a": ENTRY}), cache.contents().notes):
        assert len(notes) == 1
        assert re.search(r"the latency cache .* cannot be (read|written) \(", notes[0])
    assert (cache.contents().entries, cache.contents().size) == (0, 0)
    with pytest.raises(ModelError, match=r"cannot be removed \("):
        cache.clear()


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    path = tmp_path / "l.jsonl"
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(many, [(str(path), writer) for writer in range(2)]))
    entries, notes = LatencyCache(path).read(TARGET)
    assert (len(entries), notes) == (100, ())
    headers = [line for line in path.read_text().splitlines() if "onnxlr_latencies" in json.loads(line)]
    assert 1 <= len(headers) <= 2  # both may find the file empty; either way it is one


def test_clear_removes_the_file(tmp_path):
    cache = LatencyCache(tmp_path / "l.jsonl")
    assert not cache.clear()
    cache.add(TARGET, {"a": ENTRY})
    assert cache.clear()
    assert not cache.path.exists()


def test_no_cache_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_DIR, str(tmp_path))
    assert default_cache().path == tmp_path / "latencies.jsonl"
    unused = default_cache(use=False)
    assert unused.add(TARGET, {"a": ENTRY}) == ()
    assert unused.read(TARGET) == ({}, ())
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv(CACHE_DIR)
    assert "onnxlr" in str(default_cache().path)
