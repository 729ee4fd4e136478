"""The published networks that ship inside the onnx package, with generated weights, go all the way through."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

import onnxlr

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

# Layers that can be rewritten, as published: convolutions (without depthwise ones) and fully connected layers.
NETWORKS = {
    "light_bvlc_alexnet": 8,
    "light_densenet121": 121,
    "light_inception_v1": 58,
    "light_inception_v2": 70,
    "light_resnet50": 54,
    "light_shufflenet": 34,
    "light_squeezenet": 26,
    "light_vgg19": 19,
    "light_zfnet512": 8,
}


# Enough to choose from; fitting CP to every layer of nine networks is for a machine with more than two cores.
SCHEMES = ("basis", "projection", "separable", "tucker2")


def test_every_network_is_listed() -> None:
    assert {path.stem for path in LIGHT.glob("*.onnx")} == set(NETWORKS)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NETWORKS)
def test_inspect_and_rewrite(name: str, tmp_path: Path) -> None:
    path = LIGHT / f"{name}.onnx"
    inspection = onnxlr.inspect(path)
    able = [finding for finding in inspection.findings if finding.rank95 is not None]
    assert len(able) == NETWORKS[name]
    assert all(finding.rank95 is not None and finding.rank95 <= 3 for finding in able), "constant weights"
    result = onnxlr.rewrite(path, scheme=SCHEMES, keep_macs=0.6, validate=False)
    assert result.plan.choices
    assert result.summary.after.macs <= 0.6 * result.summary.before.macs
    out = result.save(tmp_path / "out.onnx")
    assert out.stat().st_size < 1 << 30
    ort.InferenceSession(out, providers=["CPUExecutionProvider"])
