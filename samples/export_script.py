"""Export a PyTorch network with both exporters, rewrite it in the same script, and print before and after.

Needs torch and onnxscript (the extra ``train``). Run: ``python samples/export_script.py [FOLDER]``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import onnxlr


def network(seed: int = 0) -> nn.Module:
    """Four convolutions and a classifier, with weights of falling singular values as training leaves them."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            left, values, right = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)
            falling = values[0] * 0.9 ** torch.arange(len(values))
            layer.weight.data = ((left * falling) @ right).reshape(layer.weight.shape)
    return model.eval()


def export(model: nn.Module, path: Path, *, dynamo: bool) -> Path:
    """Write ``model`` as ONNX for 32x32 images."""
    images = torch.zeros(1, 3, 32, 32)
    torch.onnx.export(model, (images,), str(path), dynamo=dynamo, input_names=["images"], output_names=["scores"])
    return path


def main(folder: Path) -> None:
    """Export, rewrite, save, and report."""
    model = network()
    for exporter, dynamo in (("dynamo", True), ("TorchScript", False)):
        path = export(model, folder / f"{exporter}.onnx", dynamo=dynamo)
        result = onnxlr.rewrite(path, scheme=("basis", "separable", "tucker2"), keep_macs=0.5)
        new = result.save(path.with_suffix(".lr.onnx"), force=True)
        before, after, measured = result.summary.before, result.summary.after, result.summary.measured
        print(f"{exporter}: {before.macs / 1e6:.1f} M MACs before, {after.macs / 1e6:.1f} M after")
        print(f"  {before.size / 1e3:.0f} kB before, {after.size / 1e3:.0f} kB after, in {new}")
        if measured is not None:
            gain = measured.speedup
            print(f"  {gain.ratio:.2f}x faster (95 % interval {gain.low:.2f} to {gain.high:.2f})")
            print(f"  relative error of the scores on random input: {measured.outputs[0].relative_l2:.3f}")
        for warning in result.summary.warnings:
            print(f"  warning: {warning}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
