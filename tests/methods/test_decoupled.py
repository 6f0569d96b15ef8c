"""cRT and LWS: what learns in the second stage, and by which images."""

import numpy as np
import pytest
from pairs import arrays, given_batch, given_nets, outputs

from sskd_jax.methods import METHODS
from sskd_jax.methods.long_tail import Scales, balanced

LABEL = np.array([0, 1, 2, 3, 0, 3], np.int32)


@pytest.mark.parametrize("rescale", [False, True])
def test_the_classifier_alone_learns_by_balanced_images(rescale):
    method = METHODS["decoupled"](rescale=rescale)
    assert list(method) == ["student", "classifier"]
    stage = method["classifier"]
    assert [name for name, net in stage.nets.items() if net.learns] == ["classifier"]
    assert stage.order is balanced and stage.nets["student"].start == "student/student"
    assert isinstance(stage.nets["classifier"].module, Scales) == rescale


@pytest.mark.parametrize("rescale", [False, True])
def test_it_sees_logits_or_embeddings(rescale):
    stage = METHODS["decoupled"](rescale=rescale)["classifier"]
    student, given = outputs(arrays(6, 4)), []

    def classifier(*inputs):
        given.extend(inputs)
        return student.logits

    nets = given_nets(student=student, classifier=classifier)
    stage.loss(nets, given_batch(LABEL))
    assert [x is student.embed for x in given] == ([False] if rescale else [True, False])
    assert given[-1] is student.logits


def test_scores_are_those_of_the_new_classifier():
    right = np.eye(4, dtype=np.float32)
    nets = given_nets(student=outputs(np.roll(right, 1, 1)), classifier=right)
    batch = given_batch(np.arange(4), counts=lambda: np.array([500, 100, 20, 5]))
    stage = METHODS["decoupled"](rescale=True)["classifier"]
    assert stage.scores(nets, batch)["top1"].all()
