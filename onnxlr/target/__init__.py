"""Where a model runs: the provider with pinned options, the threads, the shapes. The only place sessions are made."""

from __future__ import annotations

from onnxlr.target.feeds import seeded_feeds
from onnxlr.target.inputs import Feeds, Input, graph_inputs, resolve_shapes
from onnxlr.target.machine import channel_block, usable_cores
from onnxlr.target.session import Description, Target, bind, run

__all__ = [
    "Description",
    "Feeds",
    "Input",
    "Target",
    "bind",
    "channel_block",
    "graph_inputs",
    "resolve_shapes",
    "run",
    "seeded_feeds",
    "usable_cores",
]
