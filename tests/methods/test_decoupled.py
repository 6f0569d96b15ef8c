"""cRT and LWS: what learns in the second stage, by which images, and the network that it makes."""

import jax
import numpy as np
import pytest
from pairs import arrays, begin, given_batch, given_nets, outputs
from tiny import CLASSES, TinyNet

from sskd_jax.engine.devices import replicated, unreplicate
from sskd_jax.engine.step import train_program
from sskd_jax.methods import METHODS
from sskd_jax.methods.long_tail import Classifier, Scales, balanced, classifier_of, with_classifier
from sskd_jax.types import UserError

LABEL = np.array([0, 1, 2, 3, 0, 3], np.int32)


@pytest.mark.parametrize("rescale", [False, True])
def test_the_head_alone_learns_by_balanced_images(rescale):
    method = METHODS["decoupled"](rescale=rescale)
    assert list(method) == ["student", "classifier"]
    stage = method["classifier"]
    assert [name for name, net in stage.nets.items() if net.learns] == ["head"]
    assert stage.order is balanced and stage.nets["student"].start == "student/student"
    assert isinstance(stage.nets["head"].module, Scales) == rescale


@pytest.mark.parametrize("rescale", [False, True])
def test_it_sees_logits_or_embeddings(rescale):
    stage = METHODS["decoupled"](rescale=rescale)["classifier"]
    student, given = outputs(arrays(6, 4)), []

    def head(*inputs):
        given.extend(inputs)
        return student.logits

    nets = given_nets(student=student, head=head)
    stage.loss(nets, given_batch(LABEL))
    assert [x is student.embed for x in given] == ([False] if rescale else [True, False])
    assert given[-1] is student.logits


def test_scores_are_those_of_the_network_that_is_made():
    right = np.eye(4, dtype=np.float32)
    nets = given_nets(student=outputs(np.roll(right, 1, 1)), classifier=outputs(right))
    batch = given_batch(np.arange(4), counts=lambda: np.array([500, 100, 20, 5]))
    stage = METHODS["decoupled"](rescale=True)["classifier"]
    assert stage.scores(nets, batch)["top1"].all()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rescale", [False, True])
def test_the_network_that_is_made_gives_the_heads_logits(rescale, bias):
    """After training steps, too; its other weights and its statistics stay."""
    stage = METHODS["decoupled"](rescale=rescale)["classifier"]
    own = TinyNet(num_classes=CLASSES, classifier_bias=bias)
    task, frozen, before = begin(stage, lambda _: own)
    student = frozen.nets["student"]
    before = before._replace(
        params=before.params | {"classifier": student["params"]},
        batch_stats=before.batch_stats | {"classifier": student["batch_stats"]},
    )
    device = jax.devices()[:1]
    order = np.random.default_rng(0).integers(0, 48, (1, 2, 16)).astype(np.int32)
    state, _ = train_program(task, device)(*replicated((before, frozen), device), order, 0, 2)
    after = unreplicate(state)
    assert (after.step, before.step) == (2, 0)

    pixels = arrays(5, 8, 8, 3)
    seen = task.modules["student"].apply(student, pixels)
    inputs = (seen.logits,) if rescale else (seen.embed, seen.logits)
    head = {"params": after.params["head"]}
    expected = task.modules["head"].apply(head, *inputs)
    found = task.modules["classifier"].apply(after.variables["classifier"], pixels)
    np.testing.assert_allclose(found.logits, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(found.logits - seen.logits).max() > 1e-4
    np.testing.assert_array_equal(found.embed, seen.embed)


def test_a_classifier_without_a_bias():
    network = {"conv": {"kernel": arrays(3, 3, 3, 4)}, "fc": {"kernel": arrays(3, 4)}}
    kernel, bias = classifier_of(network, 4)
    assert kernel is network["fc"]["kernel"] and bias is None
    for bias in (None, arrays(4)):
        assert with_classifier(network, Classifier(kernel + 1, bias))["fc"].keys() == {"kernel"}


@pytest.mark.parametrize("layers", [(), ("fc", "bottleneck")])
def test_which_layer_is_the_classifier_is_not_guessed(layers):
    network = {name: {"kernel": arrays(3 + i, 4)} for i, name in enumerate(layers)}
    with pytest.raises(UserError, match=rf"a kernel \[E, 4\], .* has {len(layers)} of them"):
        classifier_of(network, 4)
