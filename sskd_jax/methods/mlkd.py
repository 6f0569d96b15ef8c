"""Multi-level Logit Distillation (Jin, Wang, Lin, CVPR 2023), as it was released.

Both networks see a weak and a strong view of every image, and their predictions are compared at
five temperatures T: of every image (kd), between classes over the batch (class), and between
images (batch). With P [N, K] the predictions softmax(logits / T) of student and teacher:

    kd(T)    = T^2 KL(P_t || P_s), the mean over the images
    class(T) = sum |P_t^T P_t - P_s^T P_s|^2 / K
    batch(T) = sum |P_t P_t^T - P_s P_s^T|^2 / N

The paper masks images and classes for which the teacher's confidence is above the median. The
released code, which produced the published numbers, differs, and it is followed here: the means
are multiplied by the share that is not masked; for the strong view there is kd alone; and at the
last two temperatures that kd takes the weak view's logits.
"""

import jax
import jax.numpy as jnp

from sskd_jax.axis import everywhere, share
from sskd_jax.losses import accuracy, compared_logits, cross_entropy, product, soft_divergence
from sskd_jax.methods.common import TEACHER, top
from sskd_jax.rules import Flag, Positive
from sskd_jax.types import (
    Array,
    Batch,
    Losses,
    Method,
    Nets,
    Outputs,
    Stage,
    Terms,
    frozen,
    learns,
)
from sskd_jax.views import once, strong

# The temperatures besides the one that is a number of the method.
BOTH_VIEWS, WEAK_TWICE = (3.0, 5.0), (2.0, 6.0)


def class_distance(student: Array, teacher: Array) -> Array:
    """The term class(T) of the predictions [N, K] of a batch."""
    difference = product(teacher.T, teacher) - product(student.T, student)
    return jnp.sum(jnp.square(difference)) / student.shape[1]


def batch_distance(student: Array, teacher: Array) -> Array:
    """The term batch(T) of the predictions [N, K] of a batch."""
    difference = product(teacher, teacher.T) - product(student, student.T)
    return jnp.sum(jnp.square(difference)) / student.shape[0]


def kept_share(sureness: Array) -> Array:
    """The share of entries [M] that are not above the median: about 1/2 if none are equal."""
    return jnp.mean(sureness <= jnp.median(sureness))


def distillation_terms(
    on_weak: tuple[Outputs, Outputs],
    on_strong: tuple[Outputs, Outputs],
    temperature: float,
    standardize: bool,
) -> Terms:
    """The terms kd, class and batch, from this device's share of (student, teacher) by view."""
    aligned = (temperature, *BOTH_VIEWS)
    pairs = [compared_logits(*view, standardize) for view in (on_weak, on_strong)]

    def kd(pair: tuple[Array, Array], temperatures: tuple[float, ...]) -> Array:
        return sum(soft_divergence(*pair, temperature=one) for one in temperatures)

    student, teacher = everywhere([outputs.logits for outputs in on_weak])
    prediction = jax.nn.softmax(teacher)
    images, classes = kept_share(prediction.max(1)), kept_share(prediction.sum(0))
    predictions = [
        [jax.nn.softmax(logits / one) for logits in (student, teacher)]
        for one in aligned + WEAK_TWICE
    ]
    weak_kd = kd(pairs[0], aligned + WEAK_TWICE)
    strong_kd = kd(pairs[1], aligned) + kd(pairs[0], WEAK_TWICE)
    return {
        "kd": images * weak_kd + strong_kd,
        "class": classes * sum(class_distance(*pair) for pair in predictions),
        "batch": images * sum(batch_distance(*pair) for pair in predictions),
    }


def mlkd(*, temperature: Positive, standardize: Flag) -> Method:
    """Cross-entropy on both views and the three levels of distillation.

    `standardize` makes kd compare standardized logits instead of the logits themselves.
    """

    def loss(nets: Nets, batch: Batch) -> Losses:
        label, views = share(batch.label), [batch.see(once), batch.see(strong)]
        students, teachers = ([nets[net](seen) for seen in views] for net in ("student", "teacher"))
        ce = sum(cross_entropy(student.logits, label) for student in students)
        on_weak, on_strong = zip(students, teachers, strict=True)
        terms = distillation_terms(on_weak, on_strong, temperature, standardize)
        return Losses({"ce": ce} | terms, {"accuracy": accuracy(students[0].logits, label)})

    nets = {"student": learns("student"), "teacher": frozen("teacher")}
    student = Stage(("ce", "kd", "class", "batch"), nets, loss, top("student"))
    return {"teacher": TEACHER, "student": student}
