"""Knowledge Distillation Using Hierarchical Self-Supervision Augmented Distribution, online.

Yang, An, Cai, Xu (TNNLS 2022): two networks learn together, and each is the other's teacher. The
terms are those of HSAKD, which is the paper's offline method.
"""

import jax
import jax.numpy as jnp
from jax import lax

from sskd_jax.axis import share
from sskd_jax.losses import accuracy
from sskd_jax.methods.common import top
from sskd_jax.methods.hsakd import (
    ROTATIONS,
    imitation_terms,
    labelled_terms,
    predict,
    scores_of,
)
from sskd_jax.rules import Positive
from sskd_jax.types import Batch, Losses, Method, Nets, Stage, Terms, learns
from sskd_jax.views import turned


def hssakd(*, temperature: Positive) -> Method:
    """The student and its peer, the network that the config's section `teacher` names.

    Every term is summed over both networks.
    """

    def loss(nets: Nets, batch: Batch) -> Losses:
        pixels, label = batch.see(turned), share(batch.label)
        student, peer = (predict(nets, net, pixels) for net in ("student", "peer"))
        terms = [
            labelled_terms(learner, label)
            | imitation_terms(learner, lax.stop_gradient(other), temperature)
            for learner, other in ((student, peer), (peer, student))
        ]
        figures = {
            "accuracy": accuracy(student.logits[::ROTATIONS], label),
            "peer_accuracy": accuracy(peer.logits[::ROTATIONS], label),
        }
        return Losses(jax.tree.map(jnp.add, *terms), figures)

    def scores(nets: Nets, batch: Batch) -> Terms:
        peers = {f"peer_{name}": score for name, score in top("peer")(nets, batch).items()}
        return scores_of("student")(nets, batch) | peers

    nets = {
        "student": learns("student"),
        "student_branches": learns("student.branches"),
        "peer": learns("teacher"),
        "peer_branches": learns("teacher.branches"),
    }
    return {"student": Stage(("ce", "joint_ce", "kd", "joint_kd"), nets, loss, scores)}
