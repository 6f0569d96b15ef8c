"""The dtype in which networks compute."""

from types import SimpleNamespace

import numpy as np
import pytest

from sskd_jax.system.precision import compute_dtype


@pytest.mark.parametrize(
    ("name", "platform", "capability", "expected"),
    [
        ("auto", "cpu", None, "float32"),
        ("auto", "gpu", "7.5", "float32"),  # a T4
        ("auto", "gpu", "8.0", "bfloat16"),
        ("auto", "gpu", "10.0", "bfloat16"),
        ("auto", "gpu", "gfx90a", "bfloat16"),
        ("auto", "tpu", None, "bfloat16"),
        ("float32", "gpu", "9.0", "float32"),
        ("bfloat16", "cpu", None, "bfloat16"),
    ],
)
def test_networks_compute_in_bfloat16_where_it_is_fast(name, platform, capability, expected):
    known = {"compute_capability": capability} if capability else {}
    device = SimpleNamespace(platform=platform, **known)
    assert np.dtype(compute_dtype(name, device)) == expected
