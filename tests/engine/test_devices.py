from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sskd_jax.engine.devices import (
    RUN_OFTEN,
    RUN_ONCE,
    Mapped,
    all_devices,
    compiler_options,
    enough_memory,
    forget_programs,
    keep_programs,
    replicated,
)
from sskd_jax.layers.convolution import correlate
from sskd_jax.system.paths import CACHE
from sskd_jax.types import UserError

DEVICES = jax.devices()[:2]
TREE = {"weight": np.arange(3.0, dtype=np.float32), "count": jnp.int32(7)}


def test_a_program_is_not_compiled_again_for_what_it_returned():
    program = Mapped(
        lambda state, a, b: jax.tree.map(lambda leaf: leaf + 1, state), DEVICES, donate=True
    )
    state, other = replicated(TREE, DEVICES), np.zeros(2)
    executables = set()
    for _ in range(3):
        state = program(state, other, other)
        executables.add(program.executable)
    assert len(executables) == 1
    np.testing.assert_array_equal(state["weight"], np.tile(TREE["weight"] + 3, (2, 1)))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError("Unable to initialize backend 'tpu'\nmore"), r"\(Unable to .* 'tpu'\): free"),
        (AssertionError(), r"\(JAX_PLATFORMS=cpu\): free them"),
    ],
)
def test_devices_that_cannot_be_had_are_told(error, text, monkeypatch):
    def refused():
        raise error

    monkeypatch.setattr(jax, "devices", refused)
    with pytest.raises(UserError, match=text):
        all_devices()


def test_compiled_programs_are_kept_for_later_runs():
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        keep_programs()
        assert (jax.config.jax_compilation_cache_dir, jax.config.jax_enable_compilation_cache) == (
            str(CACHE),
            True,
        )
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_several_processes_on_gpus_keep_no_programs(monkeypatch):
    """They would wait for each other where one has a program that another has not."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(platform="gpu")])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        keep_programs()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_the_programs_of_a_finished_stage_are_let_go():
    """Else every stage of a comparison would hold its own to the end."""
    live = DEVICES[0].client.live_executables
    forget_programs()
    before = len(live())
    often, once = Mapped(lambda a, b, c: a * 2, DEVICES), jax.jit(lambda x: x * 3)
    often(np.ones(2), np.ones(2), np.ones(2))
    once(1.0)
    assert len(live()) > before
    del often  # `once` is still named, as what a library keeps is
    forget_programs()
    assert len(live()) == before


def test_replicated_keys_draw_the_same_numbers():
    key = jax.random.PRNGKey(3)
    draws = Mapped(lambda key, a, b: jax.random.uniform(key, 2), DEVICES)(
        replicated(key, DEVICES), *np.zeros((2, 2))
    )
    np.testing.assert_array_equal(draws, np.tile(jax.random.uniform(key, 2), (2, 1)))


def test_options_that_xla_does_not_know_are_left_out():
    known = compiler_options(RUN_ONCE, "cpu")
    assert known["xla_backend_optimization_level"] == 0
    assert compiler_options({"cpu": {"xla_of_tomorrow": True, **RUN_ONCE["cpu"]}}, "cpu") == known


@pytest.mark.parametrize("wanted", [RUN_OFTEN, RUN_ONCE])
def test_options_are_the_cpus_alone(wanted):
    assert not compiler_options(wanted, "gpu") and not compiler_options(wanted, "tpu")


@pytest.mark.skipif(
    not compiler_options(RUN_OFTEN, "cpu"), reason="this XLA does not know the option"
)
def test_wide_convolutions_are_left_to_xla_on_the_cpu(optimised):
    def program(x, kernel, _):
        return correlate(x, kernel, 1, 1)

    arguments = jnp.ones((2, 4, 8, 8, 32)), jnp.ones((2, 3, 3, 32, 32)), jnp.zeros(2)
    assert "ynn" in jax.pmap(program, devices=DEVICES).lower(*arguments).compile().as_text()
    assert "ynn" not in Mapped(program, DEVICES).compile(*arguments).as_text()


def test_few_optimisations_where_jax_is_asked_for_few():
    assert Mapped(lambda *_: None, DEVICES).options == {}


def test_else_those_of_what_runs_often(optimised):
    assert Mapped(lambda *_: None, DEVICES).options == compiler_options(RUN_OFTEN, "cpu")


def test_devices_that_are_full_are_the_users_to_help():
    with pytest.raises(
        UserError, match=r"out of memory \(RESOURCE_EXHAUSTED: 9 GB.\): use smaller batch_sizes"
    ):
        with enough_memory():
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GB.\nand a table")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), enough_memory():
        raise jax.errors.JaxRuntimeError("INTERNAL: other")
