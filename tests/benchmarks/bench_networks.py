"""What accuracy is left without training, for several networks, in one table.

    python -m tests.benchmarks.bench_networks NETWORKS.toml [--out build/bench/networks]

NETWORKS.toml has a table for each network, whose keys are options of ``bench_accuracy``, underscores for dashes; paths
are relative to the file::

    [charnet]
    model = "../../samples/charnet/charnet.onnx"
    data = "../../samples/charnet/calibration.npz"
    test = "../../samples/charnet/test.npz"
    keep = [0.5, 0.2]
    scheme = ["auto"]

Every network's figures go to a JSON file in the folder; those that are there already are not made again. The table has
a line for each share of the MACs: the baseline and ``onnxlr rewrite --data`` side by side.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path
from typing import TypeAlias

from tests.benchmarks import bench_accuracy
from tests.benchmarks.accuracy_table import BASELINE

PATHS = ("model", "data", "test", "rewritten")
Value: TypeAlias = "str | float | bool | list[str | float]"


def main() -> int:
    """Run what is missing, then print the table; return the first exit code that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", type=Path, help="TOML file")
    parser.add_argument("--out", type=Path, default=Path("build/bench/networks"), help="folder for the figures")
    options = parser.parse_args()
    networks = tomllib.loads(options.networks.read_text(encoding="utf-8"))
    for name, table in networks.items():
        record = options.out / f"{name}.json"
        if record.exists():
            continue
        part = record.with_suffix(".part")  # an interrupted run leaves no record
        code = bench_accuracy.main([*_arguments(options.networks.parent, name, table), "--json", str(part)])
        if code:
            return code
        part.replace(record)
    print()
    print(markdown({name: json.loads((options.out / f"{name}.json").read_text()) for name in networks}))
    return 0


def _arguments(folder: Path, name: str, table: dict[str, Value]) -> list[str]:
    """Return the command line of ``bench_accuracy`` for one network."""
    found = ["--name", name]
    for key, value in table.items():
        if value is False:
            continue
        found.append(f"--{key.replace('_', '-')}")
        values = [] if value is True else value if isinstance(value, list) else [value]
        found += [str(folder / str(one)) if key in PATHS else str(one) for one in values]
    return found


def markdown(records: dict[str, dict[str, object]]) -> str:
    """Return a line for each network and share of the MACs."""
    lines = [
        "| network | original | MACs kept | BALF's rule | onnxlr | lost | agreement | KL or rel. L2 | made in |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, record in records.items():
        rows = record["rows"]
        assert isinstance(rows, list)
        (original,) = [row for row in rows if row["way"] == "original"]
        scale, unit = (1.0, " dB") if original["agreement"] is None else (100.0, " %")
        for row in rows:
            if row["way"] != "allocation":
                continue
            rule = next((one for one in rows if one["way"] == BASELINE and one["keep"] == row["keep"]), None)
            cells = (
                f"{name}, `{row['scheme']}`",
                f"{scale * original['value']:.2f}{unit}",
                f"{row['kept']:.2f}",
                "-" if rule is None else f"{scale * rule['value']:.2f}{unit}",
                f"{scale * row['value']:.2f}{unit}",
                f"{scale * row['lost']:.2f} ± {scale * row['lost_error']:.2f}",
                "-" if row["agreement"] is None else f"{row['agreement']:.1%}",
                f"{row['l2'] if row['kl'] is None else row['kl']:.4f}",
                f"{row['seconds']:.0f} s",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
