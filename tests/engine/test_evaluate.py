"""Scores over a whole split against a plain loop, however it is batched, padded and shared."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import make_frozen, make_task, sketched, sskd_task, start_state

from sskd_jax.data.sources import Split
from sskd_jax.engine.devices import replicated
from sskd_jax.engine.evaluate import evaluation, padded_batches
from sskd_jax.methods.common import classification_scores, supervised, unscored
from sskd_jax.methods.long_tail import calibration_error
from sskd_jax.methods.sskd import contrastive_scores
from sskd_jax.types import Streamed, UserError
from sskd_jax.views import rotated

SIZE, BATCH = 43, 16


@functools.cache
def beginning():
    """(task, variables, frozen, split) of SSKD's student."""
    task = sskd_task()
    frozen = make_frozen(task, SIZE)
    task, _ = sketched(task, frozen)
    variables = start_state(task, frozen).variables
    return task, variables, frozen, Split(frozen.image, frozen.label)


@functools.cache
def program(devices: int):
    return evaluation(beginning()[0], jax.devices()[:devices], BATCH)


def evaluate(devices: int, split=None) -> dict[str, float]:
    """The scores over a split, or over all images."""
    _, variables, frozen, everything = beginning()
    split = split or everything
    frozen = frozen._replace(**split.resident())
    return program(devices)(*replicated((variables, frozen), jax.devices()[:devices]), split)


@functools.cache
def scores_by_a_plain_loop() -> dict[str, list]:
    """Every score of every row, by the networks alone, batch after batch without padding."""
    task, variables, frozen, _ = beginning()
    student, head = (
        functools.partial(task.modules[name].apply, variables[name]) for name in ("student", "head")
    )
    view = jax.vmap(functools.partial(rotated, task.optics.plain(), frozen.key))
    found = {"top1": [], "top5": [], "loss": [], "contrastive": []}
    for start in range(0, SIZE, BATCH):
        part = slice(start, min(start + BATCH, SIZE))
        pixels = view(frozen.image[part])
        out = student(pixels.reshape(-1, *pixels.shape[2:]))
        logits, label = np.asarray(out.logits)[::4], frozen.label[part]
        rank = np.argsort(-logits, 1, kind="stable")
        found["top1"] += list(rank[:, 0] == label)
        found["top5"] += list((rank[:, :5] == label[:, None]).any(1))
        found["loss"] += list(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(label)), label])
        everyone = jnp.ones(len(label), bool)
        found["contrastive"] += list(contrastive_scores(head(out.embed), everyone)["contrastive"])
    return found


def assert_means(ours: dict[str, float], scores: dict[str, list]) -> None:
    assert list(ours) == list(scores)
    for name, values in scores.items():
        mean = np.mean(np.asarray(values, float))
        np.testing.assert_allclose(ours[name], mean, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("devices", [1, 8])
def test_equals_a_plain_loop_that_counts_every_image(devices):
    scores = scores_by_a_plain_loop()
    assert len(scores["contrastive"]) == 3 * SIZE
    assert_means(evaluate(devices), scores)


class Streaming:
    """The images of a split as a stream gives them: batch by batch, none of them resident."""

    def __init__(self, split: Split):
        self.split, self.size = split, split.size

    def resident(self):
        nothing = self.split.image[:0], self.split.label[:0]
        return dict(zip(("image", "label"), nothing, strict=True))

    def in_order(self, index, mask):
        for i in range(index.shape[1]):
            place = index[:, i : i + 1]
            yield (
                Streamed(self.split.image[place], self.split.label[place], place),
                mask[:, i : i + 1],
            )


def test_streamed_images_have_the_scores_of_resident_ones():
    task, variables, frozen, split = beginning()
    stream, devices = Streaming(split), jax.devices()[:2]
    frozen = frozen._replace(**stream.resident())
    streamed = evaluation(task, devices, BATCH)(*replicated((variables, frozen), devices), stream)
    assert_means(streamed, scores_by_a_plain_loop())


def test_one_evaluation_takes_splits_of_several_sizes():
    """Epochs are compared on held-out images, and the table is measured on all test images."""
    _, _, frozen, _ = beginning()
    evaluate(1)
    some = Split(frozen.image[:BATCH], frozen.label[:BATCH])
    firsts = {name: values[:BATCH] for name, values in scores_by_a_plain_loop().items()}
    firsts["contrastive"] = scores_by_a_plain_loop()["contrastive"][: 3 * BATCH]
    assert_means(evaluate(1, some), firsts)
    assert_means(evaluate(1), scores_by_a_plain_loop())


def scored(scores) -> tuple:
    """(task, variables, frozen) of a stage whose loss matters not, with these scores."""
    task = make_task(supervised("student")._replace(scores=scores))
    frozen = make_frozen(task, SIZE)
    task, found = sketched(task, frozen)
    blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), found.state)
    return task, blank.variables, frozen


def over_all(scores) -> dict[str, float]:
    task, variables, frozen = scored(scores)
    devices = jax.devices()[:2]
    split = Split(frozen.image, frozen.label)
    arguments = replicated((variables, frozen), devices)
    return evaluation(task, devices, BATCH)(*arguments, split)


def test_a_score_counts_in_the_rows_that_it_marks():
    def scores(nets, batch):
        twice = jnp.repeat(batch.index, 2).astype(jnp.float32)
        odd = jnp.arange(twice.size) % 2 == 1
        late = jnp.repeat(batch.index >= 40, 2)
        return {"odd": (twice, odd), "late": (twice, late & odd), "all": twice}

    found = over_all(scores)
    assert list(found) == ["odd", "late", "all"]
    np.testing.assert_allclose(list(found.values()), [21, 41, 21], rtol=1e-6)


def test_the_calibration_error_is_that_of_all_images_at_once():
    def scores(nets, batch):
        confidence, hit = (batch.index * 37 % 101 + 0.5) / 101, batch.index % 3 == 0
        return {"ece": calibration_error(confidence, hit)}

    index = np.arange(SIZE)
    confidence, hit = (index * 37 % 101 + 0.5) / 101, index % 3 == 0  # on no edge of a bin
    edges, expected = np.linspace(0, 1, 16), 0.0
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        members = (low < confidence) & (confidence <= high)
        if members.any():
            gap = abs(confidence[members].mean() - hit[members].mean())
            expected += members.mean() * gap
    np.testing.assert_allclose(over_all(scores)["ece"], expected, rtol=1e-5)


def test_a_score_that_counts_nowhere_is_left_out_unless_epochs_are_compared_by_it():
    def scores(nets, batch, first="all"):
        ones = jnp.ones(batch.label.size)
        found = {"all": ones, "never": (ones, ones < 0)}
        return {first: found[first]} | found

    assert over_all(scores) == {"all": 1.0}
    with pytest.raises(UserError, match="no image of the split has the score 'never', by which"):
        over_all(functools.partial(scores, first="never"))


def test_a_stage_without_scores_is_not_evaluated():
    task, variables, frozen = scored(unscored)
    assert evaluation(task, jax.devices(), BATCH)(variables, frozen, None) == {}


def test_a_score_that_is_no_row_of_numbers_is_found_by_tracing_it():
    with pytest.raises(UserError, match=r"the score 'odd' of 2 images is \[2, 2\]: give as many"):
        scored(lambda nets, batch: {"odd": jnp.ones((2, 2))})


def test_a_network_that_says_nothing_is_right_by_chance_only():
    label = jnp.arange(10)
    for logits in (jnp.zeros((10, 10)), jnp.full((10, 10), jnp.nan)):
        scores = classification_scores(logits, label)
        assert scores["top1"].sum() == 1 and scores["top5"].sum() == 5


def test_fewer_than_five_classes():
    scores = classification_scores(jnp.zeros((3, 2)), jnp.array([0, 1, 1]))
    assert scores["top5"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("size,batch,devices", [(10, 4, 2), (8, 8, 8), (1, 8, 4), (33, 16, 1)])
def test_padded_batches_hold_every_image_once(size, batch, devices):
    index, mask = padded_batches(size, batch, devices)
    assert index.shape == mask.shape == (devices, -(-size // batch), batch // devices)
    assert sorted(index[mask]) == list(range(size))
    assert index.max() < size
