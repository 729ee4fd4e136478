"""Through the non-linearity: targets for a layer that nothing but a ReLU reads (Zhang et al. 2015, section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]


def closest(wanted: Array, current: Array, weight: float) -> Array:
    """Return the z that minimises (relu(wanted) - relu(z))^2 + weight (z - current)^2, element by element.

    The two branches of the ReLU each have a closed form; the better one is taken. Where both are off, z is where the
    layer already is: nothing is spent on values that the ReLU cuts away.
    """
    level = np.maximum(wanted, 0.0)
    on = np.maximum((level + weight * current) / (1.0 + weight), 0.0)
    off = np.minimum(current, 0.0)
    loss_on = np.square(level - on) + weight * np.square(on - current)
    loss_off = np.square(level) + weight * np.square(off - current)
    z: Array = np.where(loss_on < loss_off, on, off)
    return z
