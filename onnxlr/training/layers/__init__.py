"""Low-rank layers for who trains in torch: drop-in for ``torch.nn.Conv1d``, ``Conv2d`` and ``Conv3d``.

Each is the chain that the graph pass of the same name writes, as a module: made from scratch with the initialisation of
its paper, from a trained layer (``from_conv``), and back (``to_conv``).
"""

from __future__ import annotations

from onnxlr.training.layers.basis import BasisConv1d, BasisConv2d, BasisConv3d
from onnxlr.training.layers.chain import LowRankConv
from onnxlr.training.layers.composite import CompositeConv2d, ioannou
from onnxlr.training.layers.convert import apply_plan, convert
from onnxlr.training.layers.cp import CPConv1d, CPConv2d, CPConv3d
from onnxlr.training.layers.separable import SeparableConv2d, SeparableConv3d
from onnxlr.training.layers.tucker import TuckerConv1d, TuckerConv2d, TuckerConv3d
from onnxlr.training.losses import overlap

__all__ = [
    "BasisConv1d",
    "BasisConv2d",
    "BasisConv3d",
    "CPConv1d",
    "CPConv2d",
    "CPConv3d",
    "CompositeConv2d",
    "LowRankConv",
    "SeparableConv2d",
    "SeparableConv3d",
    "TuckerConv1d",
    "TuckerConv2d",
    "TuckerConv3d",
    "apply_plan",
    "convert",
    "ioannou",
    "overlap",
]
