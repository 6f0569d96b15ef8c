import jax
import numpy as np
import pytest
from pairs import arrays, given_batch, given_nets, outputs

from configs.methods import METHODS as ENTRIES
from sskd_jax.methods.pretext import ARRANGEMENTS, arranged, jigsaw, pretext, rotation
from sskd_jax.types import UserError
from sskd_jax.views import repeated

LABEL = np.array([3, 1, 4], np.int32)


def stages(task: str, **numbers):
    return pretext(**ENTRIES["pretext"].numbers | {"task": task} | numbers)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def divergence(ours: np.ndarray, theirs: np.ndarray, temperature: float) -> float:
    p, q = (log_softmax(logits / temperature) for logits in (theirs, ours))
    return temperature**2 * (np.exp(p) * (p - q)).sum(-1).mean()


def test_terms_are_those_of_the_paper():
    student, teacher = outputs(arrays(12, 10)), outputs(arrays(12, 10, seed=1))
    ours, theirs = arrays(12, 4, seed=2), arrays(12, 4, seed=3)
    nets = given_nets(student=student, teacher=teacher, head=ours, teacher_head=theirs)
    batch = given_batch(LABEL)
    pixels = np.zeros((12, 1))
    terms = stages("rotation")["student"].loss(nets, batch._replace(see=lambda view: pixels)).terms
    normal, turned = (np.arange(12) % 4 == 0), (np.arange(12) % 4 > 0)
    expected = {
        "ce": -log_softmax(student.logits[normal])[np.arange(3), LABEL].mean(),
        "kd": divergence(student.logits[normal], teacher.logits[normal], 4.0),
        "tf": divergence(student.logits[turned], teacher.logits[turned], 4.0),
        "ss": divergence(ours, theirs, 0.5),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)


def test_quarters_are_arranged():
    image = np.zeros((1, 5, 4, 1), np.float32)
    for quarter, (row, column) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        image[0, row : row + 2, column : column + 2] = quarter + 1
    found = np.asarray(arranged(image, np.array([[2, 0, 3, 1]])))[0, :, :, 0]
    assert found[:4:2, ::2].tolist() == [[3, 1], [4, 2]] and not found[4].any()
    np.testing.assert_array_equal(arranged(image, ARRANGEMENTS[:1])[:, :4], image[:, :4])


@pytest.mark.parametrize("key", [None, jax.random.key(0)])
def test_the_first_row_of_an_image_is_in_order_and_the_others_are_not(key):
    pixels = arrays(4 * 64, 4, 4, 3)
    label = np.zeros(64, np.int32)
    batch = given_batch(label, key=key)._replace(see={repeated: pixels}.get)
    seen, target = jigsaw(batch)
    rows = np.asarray(target).reshape(64, 4)
    assert not rows[:, 0].any() and set(rows[:, 1:].ravel()) == set(range(24))
    np.testing.assert_array_equal(seen[::4], pixels[::4])


def test_an_exemplar_is_the_image_itself_and_needs_a_class():
    head = stages("exemplar", exemplars=8)["head"]
    batch = given_batch(LABEL, counts=lambda: np.array([3, 5]))
    guess = 20 * np.repeat(np.eye(8)[:3], 4, 0)
    nets = given_nets(teacher=outputs(arrays(12, 10)), head=guess)
    assert head.loss(nets, batch).terms["ss"] < 1e-6
    assert not head.scores(nets, batch)  # of images that it was not trained on, it knows nothing
    more = batch._replace(counts=lambda: np.array([3, 6]))
    with pytest.raises(UserError, match="9 training images: give as many as method.exemplars"):
        head.loss(nets, more)


def test_a_rotation_is_the_class_of_its_row():
    batch = given_batch(np.zeros(2, int))._replace(see=lambda view: np.zeros((8, 1)))
    assert rotation(batch)[1].tolist() == [0, 1, 2, 3] * 2


def test_every_step_arranges_anew():
    targets = [
        jigsaw(
            given_batch(np.zeros(8, int), key=jax.random.key(seed))._replace(
                see=lambda view: np.zeros((32, 4, 4, 3), np.float32)
            )
        )[1].tolist()
        for seed in (0, 1)
    ]
    assert targets[0] != targets[1]
