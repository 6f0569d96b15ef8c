"""Preparing Lessons: Improve Knowledge Distillation with Better Supervision (Wen, Lai, Qian 2019).

Knowledge adjustment (KA) corrects the teacher's prediction where it is wrong. Dynamic temperature
distillation (DTD) has a temperature for every image, whose mean over the batch is T:

    T_i = T + beta (mean_j w_j - w_i)
    kd  = mean_i T_i^2 KL(softmax(t_i / T_i) || softmax(s_i / T_i))

The larger the weight w_i of an image, which says how hard it is for the student, the sharper its
target. The authors released no code; the equations are taken from figures of the paper and from
reimplementations by others, which agree.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
from jax import lax

from sskd_jax.axis import everywhere, share
from sskd_jax.losses import normalized, row_divergence, shifted
from sskd_jax.methods.common import taught
from sskd_jax.rules import NotNegative, Positive, Share, one_of
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs, choose

Adjust = Callable[[Array, Array], Array]  # (logits [N, K], label [N]) -> logits [N, K]
Weigh = Callable[[Array, Array], Array]  # (student, teacher [N, K]) -> weights [N]

Adjustment = Annotated[str, one_of("shift", "smooth")]
Weighting = Annotated[str, one_of("flsw", "cwsm")]

LEAST = 1.0  # the lowest temperature; without it, an unsure student would bring some below 0


def smoothed(logits: Array, label: Array, smoothing: float) -> Array:
    """Logits [N, K], replaced where they err by ones whose softmax is the smoothed label.

    That is (1 - e) onehot + e / K. A row whose largest logit is the label's stays as it is.
    """
    classes = logits.shape[1]
    target = (1 - smoothing) * jax.nn.one_hot(label, classes) + smoothing / classes
    errs = logits.argmax(1) != label
    return jnp.where(errs[:, None], jnp.log(jnp.maximum(target, 1e-30)), logits)


def adjustment_of(name: str, smoothing: float) -> Adjust:
    """KA by its name: "shift" (PS) swaps two logits, "smooth" (LS) takes the smoothed label."""
    adjustments = {"shift": shifted, "smooth": partial(smoothed, smoothing=smoothing)}
    return choose(adjustments, name, "adjustment")


def unadjusted(logits: Array, label: Array) -> Array:
    """The teacher's logits as they are."""
    return logits


def focal_weights(student: Array, teacher: Array, gamma: float) -> Array:
    """FLSW: (1 - the cosine of both networks' logits)^gamma of every row [N, K]: [N]."""
    cosine = jnp.sum(normalized(student) * normalized(teacher), 1)
    return jnp.maximum(1 - cosine, 0) ** gamma


def confidence_weights(student: Array, teacher: Array) -> Array:
    """CWSM: 1 / the student's largest probability of every row [N, K], at temperature 1: [N]."""
    return 1 / jax.nn.softmax(student).max(1)


def weighting_of(name: str, gamma: float) -> Weigh:
    """DTD's weights by their name: "flsw" or "cwsm", of which only the first has a gamma."""
    weightings = {"flsw": partial(focal_weights, gamma=gamma), "cwsm": confidence_weights}
    return choose(weightings, name, "weighting")


def temperatures(weights: Array, temperature: float, beta: float) -> Array:
    """The temperatures [N] of a whole batch from its weights [N], before the limit at `LEAST`."""
    return temperature + beta * (weights.mean() - weights)


def tempered_divergence(
    student: Array, teacher: Array, label: Array, adjust: Adjust, temperature: Array
) -> Array:
    """Hinton's KD of logits [N, K] at temperatures [N], with an adjusted target."""
    ours, theirs = (logits / temperature[:, None] for logits in (student, teacher))
    rows = row_divergence(ours, adjust(theirs, label))
    return jnp.mean(jnp.square(temperature) * rows)


def ka(*, temperature: Positive, adjustment: Adjustment, smoothing: Share) -> Method:
    """KD with the adjustment "shift" or "smooth", of which only the second has a `smoothing`."""
    adjust = adjustment_of(adjustment, smoothing)

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        pair, label = (student.logits, teacher.logits), share(batch.label)
        constant = jnp.full(label.size, temperature)
        return Losses({"kd": tempered_divergence(*pair, label, adjust, constant)})

    return taught(("kd",), own)


def dynamic(adjust: Adjust, weigh: Weigh, temperature: float, beta: float) -> Method:
    """KD with a temperature for every image; the weights are those of the adjusted logits."""

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        (ours, theirs), label = everywhere((student.logits, teacher.logits)), batch.label
        weights = lax.stop_gradient(weigh(ours, adjust(theirs, label)))
        wanted = temperatures(weights, temperature, beta)
        kd = tempered_divergence(ours, theirs, label, adjust, jnp.maximum(wanted, LEAST))
        return Losses({"kd": kd}, {"cut_off": jnp.mean(wanted < LEAST)})

    return taught(("kd",), own)


def dtd(
    *, temperature: Positive, weighting: Weighting, beta: NotNegative, gamma: Positive
) -> Method:
    """KD with a temperature >= 1 for every image; `cut_off` is the share that would be below."""
    return dynamic(unadjusted, weighting_of(weighting, gamma), temperature, beta)


def ka_dtd(
    *,
    temperature: Positive,
    adjustment: Adjustment,
    smoothing: Share,
    weighting: Weighting,
    beta: NotNegative,
    gamma: Positive,
) -> Method:
    """KA and DTD: FLSW compares the student's logits with the teacher's adjusted ones."""
    adjust = adjustment_of(adjustment, smoothing)
    return dynamic(adjust, weighting_of(weighting, gamma), temperature, beta)
