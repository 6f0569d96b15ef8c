"""Paraphrasing Complex Network: Network Compression via Factor Transfer (Kim, Park, Kwak, NeurIPS 2018).

As RepDistiller has it, on the last map in front of the pooling.
"""

import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.layers.convolution import Conv
from sskd_jax.layers.heads import BatchNorm, Convolution, init_all
from sskd_jax.layers.initializers import bias_uniform
from sskd_jax.losses import attention, same_size
from sskd_jax.methods.common import beside
from sskd_jax.types import Array, Batch, Method, Outputs, Params, Terms


class Encoder(nn.Module):
    """Three 3x3 convolutions [N, H, W, C] -> factors [N, H, W, width], with batch norm for the student's translator."""

    width: int
    norm: bool

    @nn.compact
    def __call__(self, features: Array) -> Array:
        features = features.astype(jnp.float32)
        for width in (features.shape[-1], self.width, self.width):
            features = Convolution(width)(features)
            features = nn.leaky_relu(BatchNorm()(features) if self.norm else features, 0.1)
        return features


class Decoder(nn.Module):
    """Three 3x3 convolutions from factors [N, H, W, C] to maps [N, H, W, width]."""

    width: int

    @nn.compact
    def __call__(self, factors: Array) -> Array:
        for width in (factors.shape[-1], self.width, self.width):
            init = bias_uniform(
                9 * width
            )  # by the outputs, as PyTorch does for the reference's transposed ones
            factors = nn.leaky_relu(Conv(width, kernel_init=init, bias_init=init)(factors), 0.1)
        return factors


def factor_loss(student: Array, teacher: Array) -> Array:
    """Mean absolute difference of two maps' factors [N, H, W, C], each averaged over its channels as attention is."""
    student, teacher = same_size(student, teacher)
    return jnp.mean(jnp.abs(attention(student) - attention(teacher)))


def factor_width(teacher: Outputs, ratio: float) -> int:
    return max(1, int(ratio * teacher.maps[-1].shape[-1]))


def paraphraser(ratio: float) -> Method:
    """An autoencoder of the teacher's map, whose factors are `ratio` times as wide."""

    def modules(teacher: Outputs) -> tuple[Encoder, Decoder]:
        return Encoder(factor_width(teacher, ratio), norm=False), Decoder(
            teacher.maps[-1].shape[-1]
        )

    def init(key: Array, student: None, teacher: Outputs) -> Params:
        encoder, decoder = modules(teacher)
        factors = jnp.zeros((*teacher.maps[-1].shape[:-1], encoder.width))
        return init_all(
            key, {"encoder": (encoder, teacher.maps[-1]), "decoder": (decoder, factors)}
        )

    def loss(
        params: Params, pretrained: Params, student: None, teacher: Outputs, batch: Batch
    ) -> tuple[Terms, Terms]:
        encoder, decoder = modules(teacher)
        factors = encoder.apply({"params": params["encoder"]}, teacher.maps[-1])
        reconstructed = decoder.apply({"params": params["decoder"]}, factors)
        return {
            "reconstruction": jnp.mean(
                jnp.square(reconstructed - teacher.maps[-1].astype(jnp.float32))
            )
        }, {}

    return Method(terms=("reconstruction",), init=init, loss=loss, student=False)


def ft(*, factor_ratio: float, kd_temperature: float) -> Method:
    """The student's translator imitates the factors of the teacher's paraphraser, on maps of the global batch."""

    def translator(teacher: Outputs) -> Encoder:
        return Encoder(factor_width(teacher, factor_ratio), norm=True)

    def transfer(params: Params, student: Outputs, teacher: Outputs, batch: Batch) -> Array:
        paraphrase = Encoder(factor_width(teacher, factor_ratio), norm=False)
        return factor_loss(
            translator(teacher).apply({"params": params["translator"]}, student.maps[-1]),
            paraphrase.apply({"params": params["paraphraser"]["encoder"]}, teacher.maps[-1]),
        )

    return beside(
        {"ft": transfer},
        kd_temperature=kd_temperature,
        gathered=slice(-1, None),
        init=lambda key, student, teacher: init_all(
            key, {"translator": (translator(teacher), student.maps[-1])}
        ),
        pretrain={"paraphraser": paraphraser(factor_ratio)},
    )
