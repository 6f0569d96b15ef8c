"""The values recorded from the reference code in ../shared/golden, and its weights and images."""

import importlib.util
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


class Golden:
    """The files of a golden folder; `fill` and `images` are those of its reference_weights.py."""

    def __init__(self, folder: Path):
        self.folder = folder
        spec = importlib.util.spec_from_file_location(
            "reference_weights", folder / "reference_weights.py"
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.fill, self.images = module.fill, module.images

    @cached_property
    def models(self) -> dict[str, dict[str, Any]]:
        return json.loads((self.folder / "models.json").read_text())

    def arrays(self, file: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / file) as arrays:
            return dict(arrays)

    def under(self, file: str, prefix: str) -> dict[str, np.ndarray]:
        """The arrays whose names begin with "prefix/", by the rest of their names."""
        arrays = self.arrays(file)
        return {
            name.removeprefix(f"{prefix}/"): x
            for name, x in arrays.items()
            if name.startswith(f"{prefix}/")
        }

    def state_dict(self, model: str, seed: int, prefix: str = "") -> dict[str, np.ndarray]:
        """The state_dict of a recorded network.

        `fill` draws each weight by `prefix` and its name; the keys are the names alone.
        """
        return {
            name: self.fill(prefix + name, shape, seed)
            for name, shape in self.models[model]["state_dict"]
        }


def assert_near(actual: ArrayLike, expected: ArrayLike, tolerance: float) -> None:
    """Asserts that no entry differs by more than `tolerance` times the largest expected one."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())
