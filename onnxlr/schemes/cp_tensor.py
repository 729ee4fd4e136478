"""The values of CP fitting: one kernel as slices, its factors, and the contractions every solver is made of.

A kernel (T, S, k_1, ..., k_n) is held as K = k_1 ... k_n slices of T x S, so that what costs is two matrix products:
``slices B`` serves the output channels and all taps, ``slices^T A`` the input channels. No Khatri-Rao product of the
channel modes is ever formed. Factors are a tuple (A (T, R), B (S, R), C_1 (k_1, R), ..., C_n (k_n, R)).

Several fits of one kernel are worked on at once: their terms stand side by side, factors (n, fits R), where columns do
not meet, and apart, (fits, n, R), where they do. What is said of (n, R) here holds for the former.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import prod, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxlr.schemes.base import Array

    Real = np.ndarray[tuple[int, ...], np.dtype[Any]]  # float32 while fitting, float64 before and after
    Factors = tuple[Real, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Slices:
    """One kernel: ``data`` (K, T, S), float32 or float64, the tap modes ``dims`` with product K, and its energy."""

    data: Real
    dims: tuple[int, ...]
    energy: float

    @classmethod
    def of(cls, weight: Array) -> Slices:
        """Take a kernel (T, S, k_1, ..., k_n)."""
        t, s, *dims = weight.shape
        data = np.ascontiguousarray(weight.reshape(t, s, prod(dims)).transpose(2, 0, 1))
        return cls(data, tuple(dims), float(np.square(data).sum()))

    @property
    def shape(self) -> tuple[int, ...]:
        """Mode sizes (T, S, k_1, ..., k_n)."""
        return (*self.data.shape[1:], *self.dims)

    def astype(self, dtype: type[np.floating[Any]]) -> Slices:
        """Return the kernel in another precision; the energy stays the one measured."""
        return Slices(self.data.astype(dtype, copy=False), self.dims, self.energy)


def times_into(tensor: Slices, into: Real) -> Real:
    """Return slices @ B, shape (K, T, R)."""
    k, t, s = tensor.data.shape
    product: Real = tensor.data.reshape(k * t, s) @ into
    return product.reshape(k, t, -1)


def times_out(tensor: Slices, out: Real) -> Real:
    """Return slices^T @ A, shape (K, S, R)."""
    product: Real = np.matmul(tensor.data.transpose(0, 2, 1), out)
    return product


def sum_taps(product: Real, taps: Real) -> Real:
    """Sum (K, n, R) over the taps, weighted by ``taps`` (K, R): (n, R)."""
    summed: Real = np.einsum("knr,kr->nr", product, taps)
    return summed


def sum_channels(product: Real, factor: Real, dims: tuple[int, ...]) -> Real:
    """Sum (K, n, R) against ``factor`` (n, R): what is left per tap, (k_1, ..., k_n, R)."""
    summed: Real = np.einsum("knr,nr->kr", product, factor)
    return summed.reshape(*dims, -1)


def tap_product(taps: Factors) -> Real:
    """Return the K x R Khatri-Rao product of the tap factors, in the order of the slices."""
    return reduce(lambda left, right: (left[:, None] * right).reshape(-1, right.shape[1]), taps)


def along_tap(field: Real, taps: Factors, axis: int) -> Real:
    """Contract (k_1, ..., k_n, R) with every tap factor but that of ``axis``: (k_axis, R)."""
    for other in reversed(range(len(taps))):
        if other != axis:
            field = np.einsum("i...r,ir->...r", np.moveaxis(field, other, 0), taps[other])
    return field


def mttkrp(tensor: Slices, factors: Factors) -> Factors:
    """Return, mode by mode, the matricized tensor times the Khatri-Rao product of the other factors: (I_n, R) each."""
    out, into, *taps = factors
    weights = tap_product(tuple(taps))
    right = times_into(tensor, into)
    field = sum_channels(right, out, tensor.dims)
    return (
        sum_taps(right, weights),
        sum_taps(times_out(tensor, out), weights),
        *(along_tap(field, tuple(taps), axis) for axis in range(len(taps))),
    )


def stack(fits: Sequence[Factors]) -> Factors:
    """Return several fits as one, (fits, n, R) for every mode."""
    return tuple(np.stack(parts) for parts in zip(*fits, strict=True))


def pick(fits: Factors, index: int) -> Factors:
    """Return one of several fits."""
    return tuple(factor[index] for factor in fits)


def beside(fits: Real) -> Real:
    """Return factors (fits, n, R) side by side, (n, fits R); of one fit without a copy."""
    return fits.transpose(1, 0, 2).reshape(fits.shape[1], -1)


def apart(wide: Real, fits: int) -> Real:
    """Return a view of factors side by side, (n, fits R), as (fits, n, R)."""
    return wide.reshape(len(wide), fits, -1).transpose(1, 0, 2)


def gram(factor: Real) -> Real:
    """Return U^T U, (..., R, R) of (..., n, R)."""
    product: Real = factor.swapaxes(-1, -2) @ factor
    return product


def mttkrp_of(tensor: Slices, factors: Factors, mode: int) -> Real:
    """Return what :func:`mttkrp` does for one mode."""
    out, into, *taps = factors
    if mode == 1:
        return sum_taps(times_out(tensor, out), tap_product(tuple(taps)))
    right = times_into(tensor, into)
    if mode == 0:
        return sum_taps(right, tap_product(tuple(taps)))
    return along_tap(sum_channels(right, out, tensor.dims), tuple(taps), mode - 2)


def others(parts: list[Real], *skip: int) -> Real:
    """Return the elementwise product of the Gram matrices of all modes but ``skip``."""
    kept = [part for mode, part in enumerate(parts) if mode not in skip]
    return reduce(np.multiply, kept) if kept else np.ones_like(parts[0])


def unit(factor: Real) -> tuple[Real, Real]:
    """Return the columns of (..., n, R) at unit norm, and their norms (..., R); a zero column stays zero."""
    norms = np.sqrt(np.einsum("...ir,...ir->...r", factor, factor))
    return factor / np.where(norms > 0.0, norms, 1.0).astype(factor.dtype)[..., None, :], norms


def term_norms(factors: Factors) -> Array:
    """Return the norm of every rank-1 term, (..., R)."""
    return reduce(np.multiply, [unit(factor)[1].astype(np.float64) for factor in factors])


def balance(factors: Factors) -> Factors:
    """Share the norm of every rank-1 term equally by its factors; a term with a zero factor becomes all zero."""
    units = [unit(factor)[0] for factor in factors]
    norms = term_norms(factors)[..., None, :] ** (1.0 / len(factors))
    return tuple(part * norms.astype(part.dtype) for part in units)


def residual(tensor: Slices, factors: Factors) -> float:
    """Return ||X - CP||_F^2, slice by slice: exact where the difference of large terms is not."""
    out, into, *taps = factors
    weights = tap_product(tuple(taps))
    total = 0.0
    for slice_, weight in zip(tensor.data, weights, strict=True):
        total += float(np.square(slice_ - (out * weight) @ into.T, dtype=np.float64).sum())
    return total


def relative(residual_energy: float, energy: float) -> float:
    """Return sqrt(residual / energy), 0 when there is no energy."""
    return sqrt(max(residual_energy, 0.0) / energy) if energy > 0.0 else 0.0


def relatives(residual_energies: Array, energy: float) -> Array:
    """Return sqrt(residual / energy) of every fit, 0 when there is no energy."""
    found: Array = np.sqrt(np.maximum(residual_energies, 0.0) / energy) if energy > 0.0 else 0.0 * residual_energies
    return found
