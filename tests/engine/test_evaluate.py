import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import sskd_frozen, sskd_start, sskd_task

from sskd_jax.data.sources import Split
from sskd_jax.engine.devices import replicated
from sskd_jax.engine.evaluate import classification_scores, evaluation, padded_batches
from sskd_jax.engine.step import forward
from sskd_jax.methods.sskd import contrastive_scores, project


def evaluate(devices: int, count: int, batch: int) -> dict[str, float]:
    chosen = jax.devices()[:devices]
    task = sskd_task()
    frozen = sskd_frozen(task, count)
    state = sskd_start(task, frozen)
    variables = (state.params, state.batch_stats)
    split = Split(frozen.image, frozen.label)
    return evaluation(task, chosen, batch)(
        *(replicated(tree, chosen) for tree in (variables, frozen)), split
    )


@pytest.mark.parametrize("devices", [1, 8])
def test_equals_a_plain_loop_that_counts_every_image(devices):
    task = sskd_task()
    frozen = sskd_frozen(task, 43)
    state = sskd_start(task, frozen)
    scores = {"top1": [], "top5": [], "loss": [], "contrastive": []}
    for start in range(0, 43, 16):
        part = slice(start, min(start + 16, 43))
        view = jax.vmap(task.plain)(frozen.image[part])
        out = forward(
            task.student,
            {"params": state.params["student"], "batch_stats": state.batch_stats},
            view,
        )
        logits, label = np.asarray(out.logits)[::4], frozen.label[part]
        rank = np.argsort(-logits, 1, kind="stable")
        scores["top1"] += list(rank[:, 0] == label)
        scores["top5"] += list((rank[:, :5] == label[:, None]).any(1))
        scores["loss"] += list(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(label)), label])
        ones = jnp.ones(len(label), bool)
        scores["contrastive"] += list(
            contrastive_scores(project(state.params["method"], out), ones)["contrastive"]
        )
    ours = evaluate(devices, 43, 16)
    assert len(scores["contrastive"]) == 3 * 43
    for name, values in scores.items():
        np.testing.assert_allclose(
            ours[name], np.mean(np.asarray(values, float)), rtol=1e-5, err_msg=name
        )


def test_a_network_that_says_nothing_is_right_by_chance_only():
    label = jnp.arange(10)
    for logits in (jnp.zeros((10, 10)), jnp.full((10, 10), jnp.nan)):
        scores = classification_scores(logits, label)
        assert scores["top1"].sum() == 1 and scores["top5"].sum() == 5


def test_fewer_than_five_classes():
    assert classification_scores(jnp.zeros((3, 2)), jnp.array([0, 1, 1]))["top5"].tolist() == [
        1,
        1,
        1,
    ]


@pytest.mark.parametrize("size,batch,devices", [(10, 4, 2), (8, 8, 8), (1, 8, 4), (33, 16, 1)])
def test_padded_batches_hold_every_image_once(size, batch, devices):
    index, mask = padded_batches(size, batch, devices)
    assert index.shape == mask.shape == (devices, -(-size // batch), batch // devices)
    assert sorted(index[mask]) == list(range(size))
    assert index.max() < size
