"""What methods for streams of tasks share: the order, the buffer, scores by task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from pairs import given_batch, given_nets, outputs

from sskd_jax.methods import stream
from sskd_jax.types import Batch, Facts, UserError


class Labelled:
    """Images as an order sees them."""

    def __init__(self, label: np.ndarray):
        self.label, self.size = label, len(label)


def test_one_task_after_the_other():
    images = Labelled(np.repeat(np.arange(6), (5, 4, 7, 3, 6, 6)))
    order = stream.TaskByTask(task_classes=2, task_epochs=3)
    seen = []
    for epoch in range(9):
        chosen = order(np.random.default_rng(epoch), images, epoch)
        assert len(chosen) == len(set(chosen)) == 9  # as many as the first task has
        assert set(images.label[chosen] // 2) == {epoch // 3}
        seen.append(tuple(chosen))
    assert len(set(seen)) == 9
    order.check(images, 9)
    for epochs in (8, 10):
        with pytest.raises(UserError, match=f"is {epochs}, and 3 tasks of 3 epochs .*epochs=9, or"):
            order.check(images, epochs)


@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_the_reservoir_is_the_recorded_one(shared, at_once):
    """However many items come at once."""
    gold = Golden(shared / "golden").under("coca.npz", "reservoir")
    size, held, label = int(gold["size"]), np.full(6, -1), np.full(6, -1)
    drawn = np.concatenate([np.arange(size), gold["draws"]])
    for start in range(0, 40, at_once):
        number = np.arange(start, start + at_once)
        slot = np.asarray(stream.reservoir_slots(number, drawn[number], size))
        kept = slot < size
        assert len(set(slot[kept])) == kept.sum()
        held[slot[kept]] = number[kept]
        label[slot[kept]] = number[kept] % 10
        if (start + at_once) % 8 == 0:
            np.testing.assert_array_equal(held, gold["after_every_8"][start // 8])
    np.testing.assert_array_equal(label, gold["labels"])


def buffer_of(count: int, size: int) -> stream.Memory:
    """A buffer that `count` images came by, each of which has its number everywhere."""
    buffer = stream.empty_buffer(Facts(None, (2, 2, 3), 4), size)
    number = jnp.arange(count)
    batch = given_batch(number.astype(jnp.int32))
    batch = batch._replace(
        image=jnp.broadcast_to(number[:, None, None, None], (count, 2, 2, 3)).astype(jnp.uint8)
    )
    logits = jnp.broadcast_to(number[:, None].astype(jnp.float32), (count, 4))
    return stream.reservoir(jax.random.key(1), buffer, logits, batch)


def test_an_image_is_stored_with_its_label_and_logits():
    buffer = buffer_of(50, 8)
    assert buffer["seen"] == 50 and buffer["image"].dtype == jnp.uint8
    label = np.asarray(buffer["label"])
    assert len(set(label)) == 8 and label.max() > 7
    np.testing.assert_array_equal(
        buffer["image"], np.tile(label[:, None, None, None], (1, 2, 2, 3))
    )
    np.testing.assert_array_equal(buffer["logits"], np.tile(label[:, None], (1, 4)))


def with_buffer(filled: int, size: int = 16) -> Batch:
    """Four images with the label 99, beside a buffer."""
    batch = given_batch(np.full(4, 99, np.int32), memory=buffer_of(filled, size))
    return batch._replace(key=jax.random.key(0), see=lambda view, image: image)


def drawn(count: int, filled: int, size: int = 16) -> stream.Drawn:
    return stream.draw(jax.random.key(0), with_buffer(filled, size), count)


def test_images_are_drawn_without_replacement():
    found = drawn(8, 16)
    label = np.asarray(found.label)
    assert found.counts.all() and len(set(label)) == 8 and set(label) <= set(range(16))
    np.testing.assert_array_equal(found.pixels[:, 0, 0, 0], label)
    np.testing.assert_array_equal(found.logits[:, 0], label)


def test_a_buffer_that_holds_too_few_is_filled_up_by_the_batch():
    found = drawn(8, 3)
    assert found.counts.sum() == 3 and set(np.asarray(found.label[:3])) == {0, 1, 2}
    assert (found.label[3:] == 99).all() and (found.pixels[3:] == 0).all()
    assert stream.mean_of(jnp.arange(8.0), found.counts) == 1
    assert not drawn(8, 0).counts.any()


def test_more_than_the_buffer_holds_is_a_mistake():
    with pytest.raises(UserError, match="replay_size=9 is more than the buffer holds"):
        drawn(9, 4, size=8)


def test_the_devices_must_divide_what_is_drawn():
    with pytest.raises(UserError, match="the devices do not divide replay_size=8"):
        stream.recall(with_buffer(3), 1, 8, lambda pixels: pixels[:6])


def test_scores_by_task(shared):
    """The recorded logits are masked: only those of two classes are there."""
    gold = Golden(shared / "golden").under("coca.npz", "metrics/mask")
    label = gold["label"].astype(np.int32)
    logits = np.where(np.isfinite(gold["logits"]), gold["logits"], 100)
    scores = stream.by_task(task_classes=2)
    found = scores(given_nets(student=outputs(logits)), given_batch(label))
    assert not found["top1"].any()
    np.testing.assert_array_equal(found["task_il"], gold["task_il_pred"] == label)
    for task in range(5):
        for name, whole in (("class_il", "top1"), ("task_il", "task_il")):
            score, rows = found[f"{name}_{task}"]
            np.testing.assert_array_equal(rows, label // 2 == task)
            np.testing.assert_array_equal(score, found[whole])


def test_every_image_is_stored_with_the_same_probability():
    """Of two images that come by, a buffer of one holds the first in half of all cases."""

    def stored(key: jax.Array) -> jax.Array:
        buffer = stream.empty_buffer(Facts(None, (1, 1, 3), 2), 1)
        batch = given_batch(jnp.arange(2, dtype=jnp.int32))
        batch = batch._replace(image=jnp.zeros((2, 1, 1, 3), jnp.uint8))
        return stream.reservoir(key, buffer, jnp.zeros((2, 2)), batch)["label"][0]

    second = jax.vmap(stored)(jax.random.split(jax.random.key(0), 2000)).mean()
    assert 0.45 < second < 0.55
