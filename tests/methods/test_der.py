"""DER++ against values recorded from its released code."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden, assert_near
from pairs import arrays, configured, given_batch, outputs

from sskd_jax.losses import cross_entropy
from sskd_jax.methods import METHODS, coca, der, stream
from sskd_jax.methods.stream import cross_entropy_over, logit_distance
from sskd_jax.types import Array, Facts

NUMBERS = {"task_classes": 2, "task_epochs": 1, "buffer_size": 16, "replay_size": 8}
ALL = np.ones(16, bool)


def test_the_terms(shared):
    golden = Golden(shared / "golden")
    given, gold = golden.under("coca.npz", "terms"), golden.under("coca.npz", "derpp")
    label, label2 = (given[f"in/{name}"].astype(np.int32) for name in ("label", "label2"))

    def loss(z: Array, z1: Array, z2: Array) -> tuple[Array, list[Array]]:
        terms = [
            cross_entropy(z, label),
            logit_distance(z1, given["in/h"], ALL),
            cross_entropy_over(z2, label2, ALL),
        ]
        return terms[0] + 0.2 * terms[1] + 0.5 * terms[2], terms

    inputs = [given[f"in/{name}"] for name in ("z", "z1", "z2")]
    (value, terms), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*inputs)
    assert_near(value, gold["total"], 1e-4)
    for name, term in zip(("ce", "mse", "replay"), terms, strict=True):
        assert_near(term, gold[name], 1e-4)
    expected = [gold[f"grad/{name}"] for name in ("z", "z1", "z2")]
    # Recorded are the gradients of the whole, whose terms are weighted.
    for gradient, one in zip(gradients, expected, strict=True):
        assert_near(gradient, one, 1e-4)


def test_rows_that_do_not_count():
    logits, counts = jnp.arange(8.0).reshape(4, 2), jnp.array([True, False, True, False])
    target = jnp.zeros((4, 2))
    expected = np.mean([(0 + 1) / 2, (16 + 25) / 2])
    np.testing.assert_allclose(logit_distance(logits, target, counts), expected)
    assert logit_distance(logits, target, jnp.zeros(4, bool)) == 0


@pytest.mark.parametrize(
    ("keep_logits", "replay_labels", "terms"),
    [
        (True, True, ("ce", "distil", "replay")),
        (True, False, ("ce", "distil")),
        (False, True, ("ce", "replay")),
        (False, False, ("ce",)),
    ],
    ids=["DER++", "DER", "replay", "fine-tuning"],
)
def test_which_terms_there_are(keep_logits, replay_labels, terms):
    flags = {"keep_logits": keep_logits, "replay_labels": replay_labels}
    stage = METHODS["der"](**NUMBERS, **flags)["student"]
    assert stage.terms == terms
    assert (stage.memory is not None) == (len(terms) > 1)


@pytest.mark.parametrize(("module", "count"), [(der, 3), (coca, 4)], ids=["der", "coca"])
def test_all_that_is_random_has_a_key_of_its_own(monkeypatch, module, count):
    """Two draws from the buffer, what the buffer keeps, and CoCa's turns."""
    keys = []

    def noted(random, key, *more):
        keys.append(tuple(np.asarray(jax.random.key_data(key))))
        return random(key, *more)

    drawing = (stream, "random_slots"), (module, "reservoir"), (coca, "random_turns")
    for place, name in drawing:
        monkeypatch.setattr(place, name, partial(noted, getattr(place, name)))
    stage = configured(module.__name__.rpartition(".")[2])["student"]
    facts = Facts(np.zeros(4, np.int32), (2, 2, 3), 10)
    batch = given_batch(np.zeros(4, np.int32), key=jax.random.key(0))
    batch = batch._replace(
        memory=stage.memory(jax.random.key(1), facts),
        see=lambda view, image=batch.image: image,
    )
    nets = {
        "student": lambda pixels: outputs(arrays(len(pixels), 10)),
        "invariant": lambda embed: embed,
        "rotation": lambda embed: arrays(len(embed), 4),
    }
    stage.loss(nets, batch)
    assert len(keys) == len(set(keys)) == count
