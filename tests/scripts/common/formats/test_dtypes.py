from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.formats.dtypes import from_float32, to_float32

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


@pytest.mark.parametrize("dtype", DTYPES)
@given(patterns=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=200))
def test_rounding_is_torch_s(dtype: str, patterns: list[int]) -> None:
    values = np.array(patterns, "<u4").view("<f4")
    expected = torch.from_numpy(values.copy()).to(DTYPES[dtype]).float().numpy()
    np.testing.assert_array_equal(to_float32(from_float32(values, dtype), dtype), expected)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_pattern_is_read_as_torch_reads_it(dtype: str) -> None:
    bits = np.arange(1 << 16, dtype="<u2")
    expected = torch.from_numpy(bits.view("<i2").copy()).view(DTYPES[dtype]).float().numpy()
    np.testing.assert_array_equal(to_float32(bits, dtype), expected)


def test_ties_go_to_even() -> None:
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8], "<f4")  # halfway between neighbouring bfloat16 numbers
    assert to_float32(from_float32(ties, "BF16"), "BF16").tolist() == [1.0, 1 + 2**-6]
