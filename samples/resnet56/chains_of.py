"""A plan without its tiles.

`python samples/resnet56/chains_of.py plan.json chains.json` leaves the chains of a plan that `onnxlr rewrite` saved.
Tiles compute a layer as it is, with its filter transformed: chains are trained before, and tiles put in after.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from onnxlr.planning.plan import read_plan


def main() -> None:
    """Read, leave out, write, and say how many of each there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    plan = read_plan(given.plan)
    chains = tuple(choice for choice in plan.choices if choice.scheme != "winograd")
    given.out.write_text(replace(plan, choices=chains).to_json(), encoding="utf-8")
    print(f"{given.out}: {len(chains)} chains, without {len(plan.choices) - len(chains)} layers by tiles")


if __name__ == "__main__":
    main()
