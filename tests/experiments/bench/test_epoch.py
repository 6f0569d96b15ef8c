"""Whole epochs in turn with a program in PyTorch."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from configs import cifar, continual
from experiments.bench import epoch
from experiments.bench.workload import make_jobs, synthetic_run
from sskd_jax.models import MODELS
from sskd_jax.types import UserError

torch = pytest.importorskip("torch")
from experiments.bench import peer_torch  # noqa: E402

STREAM = "method={},dataset=cifar100,student=resnet8,buffer=40"


@pytest.fixture(autouse=True)
def few():
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(steps=2, rounds=1, images=64, size=8):
        yield


def job_of(method: str):
    config = continual.get_config(STREAM.format(method))
    *_, job = make_jobs(synthetic_run(config, jax.devices()[:1], epoch.enough_images(config)))
    return config, job


def test_the_peer_meets_stored_images_again():
    given = {"student": "resnet8", "steps": 2, "batch_size": 32, "images": 32, "buffer_size": 40}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    peer = peer_torch.DER(SimpleNamespace(**given, channels_last=False))
    calls = []
    peer.student.register_forward_hook(lambda net, args, out: calls.append(len(args[0])))
    peer.epoch()
    assert calls == [32, 32, 32, 32, 32]  # a step, one with two draws, the test images
    assert peer.seen == 64 and peer.stored_logits.abs().sum(1).min() > 0
    stored = peer.stored_image.flatten(1)
    distance = (stored[:, None].int() - peer.image.flatten(1)[None].int()).abs().sum(2)
    place = distance.argmin(1)
    assert not distance.min(1).values.any()  # raw images, and their own labels
    np.testing.assert_array_equal(peer.stored_label, peer.label[place])


def test_mistakes_are_told():
    with pytest.raises(UserError, match="knows sskd, kd and derpp, not der with the terms ce, rep"):
        epoch.start_peer(*job_of("er"))

    config = cifar.get_config("method=kd,teacher=vgg13,student=resnet8")
    job = SimpleNamespace(task=SimpleNamespace(stage=SimpleNamespace(terms=("ce", "kd"))))
    with pytest.raises(UserError, match="knows resnetD, resnetDx4, wrn_D_W and ShuffleV1, not vgg"):
        epoch.start_peer(config, job)


@pytest.mark.parametrize("name", ["resnet20", "resnet8x4", "wrn_16_2", "ShuffleV1"])
def test_the_peers_networks_are_as_large_as_ours(name):
    theirs = sum(parameter.numel() for parameter in peer_torch.network(name).parameters())
    module = MODELS[name](num_classes=100)
    ours = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    assert theirs == sum(leaf.size for leaf in jax.tree.leaves(ours["params"]))


def test_images_per_second_and_how_many_times_as_fast():
    book = SimpleNamespace(
        ours=[{"processor": second} for second in (9, 2, 4)],
        theirs=[{"processor": second} for second in (9, 4, 12)],
    )
    row = epoch.compare("processor", book, images=60)
    assert (row["ours"], row["peer's"]) == (20, 7.5)
    assert (row["ratio"], row["least"], row["most"]) == (2.5, 2, 3)
