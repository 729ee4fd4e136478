"""What a layer's fit goes by: the inputs it sees, and how its errors count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxlr.schemes.observed import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxlr.calibration.observe import Seen
    from onnxlr.calibration.outlook import Outlook


@dataclass(frozen=True, slots=True, eq=False)
class Views(Mapping[str, View]):
    """The view of every layer, by site key, made when it is asked for: not all are in memory at the same time."""

    seen: Mapping[str, Seen]
    outlooks: Mapping[str, Outlook]

    def __getitem__(self, key: str) -> View:
        seen, outlook = self.seen[key], self.outlooks.get(key)
        return View(seen.metric(), None if outlook is None or seen.wide else outlook.turn)

    def __contains__(self, key: object) -> bool:
        return key in self.seen

    def __iter__(self) -> Iterator[str]:
        return iter(self.seen)

    def __len__(self) -> int:
        return len(self.seen)
