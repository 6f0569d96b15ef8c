"""What the tests of methods that compare a student's and a teacher's arrays have in common."""

from collections.abc import Callable

import jax
import numpy as np
from golden import Golden

Loss = Callable[..., jax.Array]


def check_golden(shared, name: str, loss: Loss, rtol: float = 1e-4) -> None:
    """Value and gradient of loss(student, teacher) are the recorded ones."""
    gold = Golden(shared / "golden").under("losses.npz", name)
    value, gradient = jax.value_and_grad(loss)(gold["in/student"], gold["in/teacher"])
    np.testing.assert_allclose(value, gold["loss"].reshape(()), rtol=rtol)
    np.testing.assert_allclose(
        gradient, gold["grad/student"], rtol=10 * rtol, atol=rtol * np.abs(gradient).max()
    )


def check_golden_maps(gold: dict[str, np.ndarray], loss: Loss) -> None:
    """The same of a loss whose `student` and `teacher` are maps, or lists of them if they are numbered."""
    maps = [
        [gold[name] for name in sorted(gold) if name.startswith(f"in/{who}")]
        for who in ("student", "teacher")
    ]
    gradients = [gold[name] for name in sorted(gold) if name.startswith("grad/student")]
    if "in/student" in gold:
        maps = [one for (one,) in maps]
        (gradients,) = gradients
    value, found = jax.value_and_grad(loss)(*maps)
    np.testing.assert_allclose(value, gold["loss"].reshape(()), rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max()),
        found,
        gradients,
    )


def arrays(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check_blind(
    loss: Loss, student: np.ndarray, teacher: np.ndarray, *others: tuple[np.ndarray, np.ndarray]
) -> None:
    """The loss of each other pair is that of the first, which is not 0."""
    base = float(loss(student, teacher))
    assert abs(base) > 1e-8
    for pair in others:
        np.testing.assert_allclose(loss(*pair), base, rtol=2e-4)


def check_at_ties(loss: Loss, student: np.ndarray, teacher: np.ndarray) -> None:
    """Values and gradients are finite where rows are zeros or all alike, and where student and teacher agree."""
    same, zeros = student.copy(), np.zeros_like(student)
    same[1:] = same[:1]
    agreed = [(teacher, teacher)] if student.shape == teacher.shape else []
    for pair in [
        (zeros, teacher),
        (same, teacher),
        (student, np.zeros_like(teacher)),
        (zeros, zeros),
        *agreed,
    ]:
        value, gradient = jax.value_and_grad(loss)(*pair)
        assert np.isfinite(value) and np.isfinite(gradient).all() and np.abs(gradient).max() < 1e6
