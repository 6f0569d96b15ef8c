"""The content of the README's picture: perceptrons that learn the digits by SSKD's losses."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

from configs import quickstart
from sskd_jax.losses import cross_entropy
from sskd_jax.methods.sskd import (
    ProjectionHead,
    distillation_terms,
    error_level,
    positives,
    similarity_matrix,
    transferred,
)
from sskd_jax.types import Array, Params

# The images that the picture shows: upside down, the teacher takes the first one for a 9, and it
# finds three rotations of the others more similar to a wrong image, one of which is left out.
CHOSEN = 1183, 69, 370, 1113
TURNS = 4
CLASSES = 10


class Perceptron(nn.Module):
    """A network with one hidden layer; returns its logits, and the features of that layer."""

    width: int

    @nn.compact
    def __call__(self, pixels: Array) -> tuple[Array, Array]:
        embed = nn.relu(nn.Dense(self.width)(pixels))
        return nn.Dense(CLASSES)(embed), embed


# Pixels [4N, 64] -> logits [4N, K], and the head's output for the features, [4N, D].
Answers = Callable[[Array], tuple[Array, Array]]


class Scene(NamedTuple):
    """The networks' outputs for M images in four rotations, image-major; K classes.

    Attributes:
      image: [M, 4, 8, 8], the images; view 0 is not rotated.
      label: [M].
      certain: the teacher's prediction for the first image, not softened, [K].
      teacher: the teacher's softened predictions, [M, 4, K].
      student: the student's softened predictions, [M, 4, K].
      teacher_similarity: the teacher's similarities of every rotated image with every normal one,
        [3 * M, M].
      student_similarity: the student's similarities, of the same shape.
      kept: bool[3 * M], the rows of the similarities that the student imitates.
      weights: of the four terms.
      ratio: of the rows in which the teacher is wrong, the share that is kept.
    """

    image: np.ndarray
    label: np.ndarray
    certain: np.ndarray
    teacher: np.ndarray
    student: np.ndarray
    teacher_similarity: np.ndarray
    student_similarity: np.ndarray
    kept: np.ndarray
    weights: dict[str, float]
    ratio: float


def turned_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits in four rotations, f32[N, 4, 8, 8] from 0 to 1, and their classes."""
    digits = load_digits()
    views = [np.rot90(digits.images, k, axes=(1, 2)) for k in range(TURNS)]
    return np.stack(views, 1).astype(np.float32) / 16, digits.target


def descend(
    loss: Callable[[Params, Array, Array], Array],
    params: Params,
    images: np.ndarray,
    labels: np.ndarray,
    steps: int,
) -> Params:
    """Parameters after `steps` steps of Adam on loss(params, pixels [4 * 64, 64], label [64])."""
    optimizer = optax.adam(2e-3)

    @jax.jit
    def step(params, state, pixels, label):
        gradient = jax.grad(loss)(params, pixels, label)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    random, state = np.random.default_rng(0), optimizer.init(params)
    for _ in range(steps):
        index = random.choice(len(labels), 64, replace=False)
        params, state = step(params, state, flat(images[index]), labels[index])
    return params


def flat(images: np.ndarray) -> np.ndarray:
    """Images [N, 4, 8, 8] as rows of pixels [4N, 64], image-major."""
    return images.reshape(-1, images.shape[-1] ** 2)


def train(
    steps: int, numbers: dict[str, float], weights: dict[str, float], head_temperature: float
) -> tuple[Answers, Answers]:
    """Trains the teacher, its head and the student with a head; returns teacher and student.

    Args:
      steps: of the teacher; its head takes a quarter of them, and the student half of them.
      numbers: the temperatures and ratios of SSKD's four terms.
      weights: of the terms.
      head_temperature: of the contrastive task.

    Returns:
      The teacher and the student, each with its head, as functions of pixels.
    """
    images, labels = turned_digits()
    teacher, student, head = Perceptron(96), Perceptron(24), ProjectionHead()
    keys = jax.random.split(jax.random.key(0), 4)
    pixels = flat(images[:1])

    def answers(net: nn.Module, params: Params, pixels: Array) -> tuple[Array, Array]:
        logits, embed = net.apply(params["net"], pixels)
        return logits, head.apply(params["head"], embed)

    def classify(params: Params, pixels: Array, label: Array) -> Array:
        return cross_entropy(teacher.apply(params, pixels[::TURNS])[0], label)

    taught = descend(classify, teacher.init(keys[0], pixels), images, labels, steps)

    def tell_apart(params: Params, pixels: Array, label: Array) -> Array:
        similarity = similarity_matrix(answers(teacher, {"net": taught, "head": params}, pixels)[1])
        return cross_entropy(similarity / head_temperature, positives(similarity))

    random_head = head.init(keys[1], jnp.zeros((1, teacher.width)))
    taught_head = descend(tell_apart, random_head, images, labels, steps // 4)
    theirs = partial(answers, teacher, {"net": taught, "head": taught_head})

    def imitate(params: Params, pixels: Array, label: Array) -> Array:
        ours = answers(student, params, pixels)
        terms = distillation_terms(ours, theirs(pixels), label, **numbers)
        return sum(weights[name] * term for name, term in terms.items())

    random_student = {
        "net": student.init(keys[2], pixels),
        "head": head.init(keys[3], jnp.zeros((1, student.width))),
    }
    imitated = descend(imitate, random_student, images, labels, steps // 2)
    return theirs, partial(answers, student, imitated)


def perform(steps: int = 400) -> Scene:
    """Trains the networks with the quickstart's numbers; returns their outputs for `CHOSEN`."""
    setting = quickstart.get_config().settings.sskd
    numbers, weights = setting.method.to_dict(), setting.weights.to_dict()
    del numbers["name"], numbers["transformation"]
    teacher, student = train(
        steps, weights=weights, head_temperature=numbers.pop("head_temperature"), numbers=numbers
    )
    images, labels = turned_digits()
    image, label = images[list(CHOSEN)], labels[list(CHOSEN)]
    (logits, projected), (own_logits, own_projected) = teacher(flat(image)), student(flat(image))
    similarity = similarity_matrix(projected)
    ratio = numbers["ss_ratio"]
    kept = transferred(error_level(similarity, positives(similarity)), ratio)
    soft, own_soft = (
        jax.nn.softmax(found / numbers["kd_temperature"]) for found in (logits, own_logits)
    )
    shape = len(CHOSEN), TURNS, CLASSES
    return Scene(
        image,
        label,
        jax.nn.softmax(logits[0]),
        soft.reshape(shape),
        own_soft.reshape(shape),
        similarity,
        similarity_matrix(own_projected),
        kept,
        weights,
        ratio,
    )
