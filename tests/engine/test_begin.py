"""What a trace of a loss shows."""

import jax
import jax.numpy as jnp

from sskd_jax.engine.begin import depends_on


def test_what_a_result_is_computed_from():
    def function(used, returned, unused, scalar):
        elsewhere = jnp.sin(unused) + scalar
        return jax.jit(jnp.cos)(used), returned, elsewhere.shape[0]

    vector = jax.ShapeDtypeStruct((2,), jnp.float32)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    program = jax.make_jaxpr(function)(vector, vector, vector, number).jaxpr
    used, returned, unused, scalar = program.invars
    cosine, same, _ = program.outvars
    assert used in depends_on(program, [cosine])
    assert not {returned, unused, scalar} & depends_on(program, [cosine])
    assert depends_on(program, [same]) == {returned}


def test_a_jitted_function_is_looked_into():
    inner = jax.jit(lambda used, unused: (jnp.sin(used), unused + 1))

    def function(used, unused):
        return inner(used, unused)[0]

    program = jax.make_jaxpr(function)(1.0, 2.0).jaxpr
    used, unused = program.invars
    needed = depends_on(program, program.outvars)
    assert used in needed and unused not in needed


def test_what_stands_in_front_of_a_stopped_gradient_is_not_reached():
    def function(stopped, used):
        return jax.lax.stop_gradient(jnp.sin(stopped)) * used

    program = jax.make_jaxpr(function)(1.0, 2.0).jaxpr
    stopped, used = program.invars
    needed = depends_on(program, program.outvars)
    assert used in needed and stopped not in needed
