"""Element types of tensors: their names, and casts of stored tensors without torch.

A tensor is handled as its bit patterns, an array of unsigned integers, together with the name of its element type.
So bfloat16, which NumPy lacks, needs no special case, and copying keeps every bit of every NaN.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class DType(NamedTuple):
    """The names of an element type: safetensors' (a key of BIT_TYPES), and torch's."""

    stored: str
    torch: str


DTYPES = {"fp32": DType("F32", "float32"), "bf16": DType("BF16", "bfloat16")}  # by the value of --dtype
BIT_TYPES = {"F32": np.dtype("<u4"), "F16": np.dtype("<u2"), "BF16": np.dtype("<u2")}
_EXPONENTS = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}


class TensorSpec(NamedTuple):
    """An element type (a key of BIT_TYPES) and a shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The size of the data in bytes."""
        return math.prod(self.shape) * BIT_TYPES[self.dtype].itemsize


def to_float32(bits: np.ndarray, dtype: str) -> np.ndarray:
    """The exact values of bit patterns of a type in BIT_TYPES."""
    if dtype == "BF16":
        wide = bits.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return bits.view("<f2").astype(np.float32) if dtype == "F16" else bits.view("<f4")


def from_float32(values: np.ndarray, dtype: str) -> np.ndarray:
    """Bit patterns of the nearest representable values, ties to even, as torch rounds; overflow gives infinity."""
    if dtype == "F32":
        return values.view("<u4")
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype("<f2").view("<u2")
    wide = values.view(np.uint32)
    rounded = wide >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += wide
    rounded >>= 16
    bits = rounded.astype("<u2")
    bits[np.isnan(values)] = 0x7FC0
    return bits


def all_finite(bits: np.ndarray, dtype: str) -> bool:
    """Whether no element is infinite or NaN: then all bits of its exponent are one."""
    exponent = _EXPONENTS[dtype]
    return not ((bits & exponent) == exponent).any()
