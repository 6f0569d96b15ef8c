"""Networks, methods and data of one's own: the docs' three examples, and mistakes in such names."""

import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import sskd_jax
from configs import cifar, cifar_fast, imagenet, named
from experiments import record, records
from sskd_jax import plan, settings, train
from sskd_jax.exchange.export import export_network
from sskd_jax.types import UserError, find

PAGE = Path(__file__).resolve().parents[1] / "docs" / "own_code.md"
ARGUMENTS = "method=kd,my_code:near,teacher=resnet8,student=my_code:Tiny"


@pytest.fixture
def my_code(tmp_path, monkeypatch):
    """The page's module, where Python finds it."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "my_code.py").write_text("\n\n".join(blocks[:3]))
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_code", None)


@pytest.mark.slow
def test_the_pages_examples_train_and_leave(my_code, tmp_path):
    config = cifar.get_config(ARGUMENTS)
    config.data.name = "my_code:stripes"
    config.teacher.epochs, config.student.epochs = 1, 2
    workdir = tmp_path / "run"
    rows = train.run(config, str(workdir))
    assert [row["stage"] for row in rows] == ["teacher", "kd/student", "near/student"]
    assert rows[2]["network"] == "my_code:Tiny" and rows[2]["parameters"] == 260
    for kind in ("pth", "stablehlo"):
        export_network(str(workdir), kind, "near/student")
    record.keep_runs([workdir], tmp_path / "results")
    assert "near" in (tmp_path / "results" / records.INDEX).read_text()
    beside = json.loads((workdir / "near-student.pth.json").read_text())
    assert beside["model"] == "my_code:Tiny" and beside["accuracy"]["top1"] is not None


def behind_pooling(folder: Path, layer: str) -> None:
    """Puts a layer before the classifier of the page's network."""
    file, pooled = folder / "my_code.py", "hidden.mean((1, 2))"
    text = file.read_text()
    assert pooled in text
    file.write_text(text.replace(pooled, f"{layer}({pooled})"))


def test_a_network_that_changed_meanwhile_is_told(my_code, tmp_path):
    config = cifar.get_config("method=scratch,student=my_code:Tiny")
    config.data.name, config.student.epochs = "my_code:stripes", 1
    train.run(config, str(tmp_path / "run"))
    file = tmp_path / "my_code.py"
    assert "nn.Conv(8" in file.read_text()
    file.write_text(file.read_text().replace("nn.Conv(8", "nn.Conv(16"))
    sys.modules.pop("my_code")
    message = r"Conv_0.bias is \[8\] in .*student, and \[16\] in this run: the code or"
    with pytest.raises(UserError, match=message):
        train.run(config, str(tmp_path / "run"))
    with pytest.raises(UserError, match="student in .*run has other arrays than my_code:Tiny"):
        sskd_jax.load(tmp_path / "run")
    file.write_text(file.read_text().replace("nn.Conv(16", "nn.Conv(8"))
    sys.modules.pop("my_code")
    assert sskd_jax.load(tmp_path / "run").variables["params"]["Conv_0"]["bias"].shape == (8,)


def test_dropout_drops_in_training_alone(my_code, tmp_path, capsys):
    behind_pooling(tmp_path, "nn.Dropout(1.0, deterministic=not train)")
    config = cifar.get_config("method=scratch,student=my_code:Tiny")
    config.data.name, config.student.epochs, config.student.weight_decay = "my_code:stripes", 1, 0.0
    students = []
    for config.student.learning_rate in (0.01, 0.1):
        workdir = tmp_path / f"run-{config.student.learning_rate}"
        train.run(config, str(workdir))
        students.append(sskd_jax.load(workdir))
    layers = [student.variables["params"]["Dense_0"] for student in students]
    # All features are dropped, so the bias alone learns.
    assert np.abs(layers[0]["bias"] - layers[1]["bias"]).max() > 1e-3
    np.testing.assert_array_equal(layers[0]["kernel"], layers[1]["kernel"])
    assert students[0].features(np.full((1, 8, 8, 3), 255, np.uint8)).any()
    assert "changed since" not in capsys.readouterr().err
    with (tmp_path / "my_code.py").open("a") as file:
        file.write("# another line")
    sskd_jax.load(workdir)
    assert "code  my_code changed since student was trained: it" in capsys.readouterr().err


def test_a_network_with_flax_batch_norm_may_be_the_teacher(my_code, tmp_path):
    """Its parameters look like those of our batch norm, but are not prepared in the same way."""
    behind_pooling(tmp_path, "nn.BatchNorm(not train, axis_name='batch')")
    config = cifar.get_config("method=kd,teacher=my_code:Tiny,student=my_code:Tiny")
    config.data.name = "my_code:stripes"
    config.teacher.epochs = config.student.epochs = 1
    rows = train.run(config, str(tmp_path / "run"), jax.devices()[:1])
    assert [row["stage"] for row in rows] == ["teacher", "student"]


def test_batch_norm_per_device_is_refused_on_several_devices(my_code, tmp_path):
    behind_pooling(tmp_path, "nn.BatchNorm(not train)")
    config = cifar.get_config("method=scratch,student=my_code:Tiny")
    config.data.name, config.student.epochs = "my_code:stripes", 1
    message = "student: devices hold different numbers in student.batch_stats, so results would"
    with pytest.raises(UserError, match=message):
        train.run(config, str(tmp_path / "run"))


ATTENTIVE = """
import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.types import Outputs


class Net(nn.Module):
    num_classes: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pixels, train: bool = False):
        x = nn.Conv(8, (2, 2), strides=2)(pixels)
        x = x.reshape(x.shape[0], -1, 8)
        x = x + self.param("pos", nn.initializers.normal(), (1, x.shape[1], 8))
        x = x * self.param("scale", nn.initializers.ones, ())
        x = nn.LayerNorm()(nn.MultiHeadDotProductAttention(2)(x))
        embed = x.mean(1)
        logits = nn.Dense(self.num_classes, name="a_classifier")(embed)
        return Outputs(logits + 0 * nn.Dense(7, name="z_last")(embed)[:, :1], embed)
"""


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_an_own_network_of_any_layers_leaves_and_comes_back(my_code, tmp_path, monkeypatch, kind):
    (tmp_path / "attentive.py").write_text(ATTENTIVE)
    monkeypatch.delitem(sys.modules, "attentive", raising=False)
    config = cifar.get_config("method=scratch,student=attentive:Net")
    config.data.name, config.student.epochs = "my_code:stripes", 1
    train.run(config, str(tmp_path / "run"))
    for name in (kind, "stablehlo"):
        export_network(str(tmp_path / "run"), name)
    images = np.arange(3 * 192).reshape(3, 8, 8, 3).astype(np.uint8)
    expected = sskd_jax.load(tmp_path / "run").logits(images)
    file = tmp_path / "run" / f"student.{kind}"
    with pytest.raises(UserError, match="give network='attentive:Net' .--network=attentive:Net"):
        sskd_jax.load(file)
    found = sskd_jax.load(file, network="attentive:Net")
    np.testing.assert_array_equal(found.logits(images), expected)
    again = cifar.get_config("method=kd,teacher=attentive:Net,student=resnet8")
    again.data.name, again.student.epochs = "my_code:stripes", 1
    again.teacher.checkpoint, again.until = str(file), "teacher"
    train.run(again, str(tmp_path / "again"))
    (tmp_path / "attentive.py").write_text(ATTENTIVE.replace("x.shape[0]", "len(x)"))
    del sys.modules["attentive"]
    message = "any number of images, with attentive:Net, .*attentive.py, line 15: .*Error"
    with pytest.raises(UserError, match=message):
        export_network(str(tmp_path / "run"), "stablehlo")


ASSISTED = """
from sskd_jax.losses import soft_divergence
from sskd_jax.methods.common import TEACHER, top
from sskd_jax.types import Losses, Stage, frozen, learns
from sskd_jax.views import once


def imitation(pupil, master):
    def loss(nets, batch):
        ours, theirs = (nets[name](batch.see(once)).logits for name in (pupil, master))
        return Losses({"kd": soft_divergence(ours, theirs, temperature=4.0)})

    return Stage(("kd",), {pupil: learns(pupil), master: frozen(master)}, loss, top(pupil))


def assisted():
    chain = {"assistant": "teacher", "student": "assistant"}
    return {"teacher": TEACHER} | {pupil: imitation(pupil, of) for pupil, of in chain.items()}
"""


def test_a_third_network_is_named_trained_and_taken_away(my_code, tmp_path, monkeypatch):
    """A teacher's assistant, as Mirzadeh et al. (AAAI 2020) put one between teacher and student."""
    (tmp_path / "chain.py").write_text(ASSISTED)
    monkeypatch.delitem(sys.modules, "chain", raising=False)
    config = cifar.get_config("method=chain:assisted,teacher=my_code:Tiny,student=my_code:Tiny")
    for source in (cifar, imagenet):
        assert source.get_config("method=chain:assisted,student=vgg8").assistant.model == "vgg8"
    config.assistant.model, config.data.name = "resnet8", "my_code:stripes"
    for stage in ("teacher", "assistant", "student"):
        config[stage].epochs = 1
    rows = train.run(config, str(tmp_path / "run"), jax.devices()[:1])
    networks = {row["stage"]: row["network"] for row in rows}
    assert networks["assistant"] == "resnet8" and networks["student"] == "my_code:Tiny"
    export_network(str(tmp_path / "run"), "pth", "assistant")
    assert sskd_jax.load(tmp_path / "run" / "assistant.pth").model == "resnet8"


def test_numbers_have_their_defaults_and_every_term_counts_one(my_code):
    config = cifar.get_config("method=my_code:near,student=my_code:Tiny")
    assert config.method.to_dict() == {
        "name": "my_code:near",
        "sharpness": 2.0,
        "kd_temperature": 4.0,
    }
    assert config.weights.to_dict() == {"ce": 1.0, "kd": 1.0, "near": 1.0}
    assert settings.check(config)[0].name == "my_code:near"


@pytest.mark.parametrize("number", ["width=8", "width: tuple = (1, 2)"])
def test_a_number_without_a_type_is_asked_for_it(my_code, number, tmp_path):
    text = (tmp_path / "my_code.py").read_text()
    (tmp_path / "my_code.py").write_text(text.replace("sharpness: Positive = 2.0", number))
    config = cifar.get_config("method=my_code:near,student=my_code:Tiny")
    with pytest.raises(UserError, match="the method near: annotate its number width with a type"):
        settings.check(config)


def test_a_mistake_in_a_methods_factory_is_told_with_its_line(my_code, tmp_path):
    text = (tmp_path / "my_code.py").read_text()
    config = cifar.get_config("method=my_code:near,student=my_code:Tiny")
    sys.modules.pop("my_code")
    (tmp_path / "my_code.py").write_text(text.replace("kd_temperature=kd", "temperature=kd"))
    with pytest.raises(UserError, match="the method my_code:near, .*my_code.py, line .*TypeError"):
        settings.check(config)


def test_only_numbers_count_epochs(my_code, tmp_path):
    text = (tmp_path / "my_code.py").read_text()
    (tmp_path / "my_code.py").write_text(
        text.replace("*, sharpness", "*, drop_epochs: str = '30,60', sharpness")
    )
    config = cifar_fast.get_config("method=my_code:near,student=my_code:Tiny")
    settings.check(config)
    assert config.method.drop_epochs == "30,60"


def test_a_number_without_a_default_is_asked_for(my_code, tmp_path):
    (tmp_path / "bare.py").write_text("def method(*, width: int): ...")
    with pytest.raises(UserError, match="give its number width a default"):
        named.own_entry("bare:method")


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("", "nowhere:Net", "there is no module 'nowhere' in this folder or on PYTHONPATH"),
        ("", "broken:Net", "AttributeError: module 'broken' has no attribute 'Net'"),
        ("import nothing_there", "broken:Net", "broken asks for nothing_there"),
        ("1 / 0", "broken:Net", "ZeroDivisionError: division by zero"),
        ("", "Net", "did you mean 'net'"),
    ],
)
def test_what_cannot_be_imported_is_told(code, name, message, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    with pytest.raises(UserError, match=message):
        find({"net": object}, name, "architecture")


BROKEN = """
import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.methods.common import with_kd
from sskd_jax.types import Losses, Outputs


class NoTrain(nn.Module):
    num_classes: int
    dtype: jnp.dtype = jnp.float32

    def __call__(self, pixels): ...


class NoType(nn.Module):
    num_classes: int

    def __call__(self, pixels, train: bool = False): ...


class Thousand(nn.Module):
    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels, train: bool = False):
        embed = pixels.mean((1, 2))
        return Outputs(nn.Dense(1000)(embed), embed)


class Bare(nn.Module):
    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels, train: bool = False):
        return nn.Dense(self.num_classes)(pixels.mean((1, 2)))


def vector():
    def own(nets, batch, student, teacher):
        return Losses({"near": (student.logits - teacher.logits) ** 2})

    return with_kd(("near",), own, kd_temperature=4.0)


def odd():
    def own(nets, batch, student, teacher):
        return Losses({"near": student.logits @ teacher.logits})

    return with_kd(("near",), own, kd_temperature=4.0)


def kept(shape, dtype):
    # A method with a memory of two numbers, whose loss returns another one.
    def make():
        taught = with_kd((), lambda *_: Losses({}), kd_temperature=4.0)
        stage = taught["student"]

        def loss(nets, batch):
            after = {"last": jnp.zeros(shape, dtype)} if shape else {}
            return stage.loss(nets, batch)._replace(memory=after)

        def start(key, facts):
            return {"last": jnp.zeros(2)}

        return {**taught, "student": stage._replace(loss=loss, memory=start)}

    return make


longer, whole, forgotten = kept((3,), float), kept((2,), int), kept((), float)


def changed(**changes):
    def make():
        taught = with_kd((), lambda *_: Losses({}), kd_temperature=4.0)
        return {**taught, "student": taught["student"]._replace(**changes)}

    return make


scored = changed(scores=lambda nets, batch: {"top1": batch.label @ None})
ordered = changed(order=lambda rng, images, epoch: images.order)


def nothing(): ...


def pair(data_dir):
    return 1, 2


def halves(data_dir):
    from sskd_jax.data.sources import Dataset

    return Dataset(pair(data_dir), pair(data_dir), 10)


def uncounted(data_dir):
    from sskd_jax.data.sources import Dataset, Split

    return Dataset(Split([], []), Split([], []), None)


def ragged(data_dir):
    from sskd_jax.data.sources import Split

    return uncounted(data_dir)._replace(train=Split([[1], [1, 2]], [0]), num_classes=9)


def fails(data_dir):
    return {}["images"]


class Flat(Thousand):
    def __call__(self, pixels, train: bool = False):
        return Outputs(pixels.mean((1, 2)), pixels)


class Mapless(Thousand):
    @nn.compact
    def __call__(self, pixels, train: bool = False):
        embed = pixels.mean((1, 2))
        return Outputs(nn.Dense(self.num_classes)(embed), embed)


def untyped():
    return with_kd(("near",), lambda *_: {"near": 0.0}, kd_temperature=4.0)


def unshared():
    # Its logits are of this device's share, and its labels of the whole batch.
    def own(nets, batch, student, teacher):
        return Losses({"near": jnp.square(student.logits[:, 0] - batch.label).mean()})

    return with_kd(("near",), own, kd_temperature=4.0)


def renamed():
    own = lambda *_: Losses({"near": 0.0}, {"loss": 0.0})
    return with_kd(("near",), own, kd_temperature=4.0)


class Training(Thousand):
    @nn.compact
    def __call__(self, pixels, train: bool = False):
        embed = pixels.mean((1, 2)) @ None if train else pixels.mean((1, 2))
        return Outputs(nn.Dense(self.num_classes)(embed), embed)


class Dropping(Thousand):
    @nn.compact
    def __call__(self, pixels, train: bool = False):
        embed = pixels.mean((1, 2)) * (self.make_rng("drop_path")[0] > 0 if train else 1)
        return Outputs(nn.Dense(self.num_classes)(embed), embed)


masked = changed(order=lambda rng, images, epoch: images.label > 3)
beyond = changed(order=lambda rng, images, epoch: rng.permutation(images.size) + 1)


def misnamed(data_dir):
    from sskd_jax.data import sources

    return sources.load("digits")._replace(classes=("zero", "one"))
"""


@pytest.mark.parametrize(
    "method", ["fitnet", "at", "sp", "vid", "ab", "ft", "nst", "fsp", "kdsvd", "reviewkd"]
)
def test_a_method_that_compares_maps_refuses_networks_without_any(method, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    nets = "teacher=broken:Mapless,student=broken:Mapless"
    config = cifar.get_config(f"method={method},{nets}")
    config.data.name = "digits"
    with pytest.raises(UserError, match="maps"):
        plan.plan(plan.load(config, jax.devices()[:1]), settings.check(config))


@pytest.mark.parametrize(
    ("arguments", "data", "message"),
    [
        ("student=broken:NoTrain", "", "'broken:NoTrain' is called without train=: a linen module"),
        ("student=broken:NoType", "", "'broken:NoType' is made without dtype=: a linen module"),
        ("student=broken:vector", "", "'broken:vector' is made without num_classes=: a linen"),
        ("student=broken:Bare", "", "the student returns a .*: return sskd_jax.types.Outputs"),
        ("student=broken:Flat", "", r"embed of the shape \[2, 8, 8, 3\]: let it be \[B, D\]"),
        ("method=broken:untyped", "", "own loss returns a dict: return sskd_jax.types.Losses"),
        ("method=broken:vector", "", r"'near' of the loss has the shape \[2, 10\], not that of a"),
        ("method=broken:odd", "", r"student with broken:odd, .*broken.py, line 50: TypeError: "),
        ("method=broken:scored", "", r"student with broken:scored, .*line \d+: TypeError: "),
        ("method=broken:ordered", "", r"student with broken:ordered, .*line \d+: AttributeError: "),
        ("student=broken:Thousand", "", r"gives logits of the shape \[2, 1000\] for 10 cl"),
        ("method=broken:longer", "", r"memory\['last'\] is float32\[2\], .* returns float32\[3\]"),
        ("method=broken:whole", "", r"is float32\[2\], and the loss returns int32\[2\]: return"),
        ("method=broken:forgotten", "", r"is float32\[2\], and the loss returns nothing: return"),
        ("method=broken:nothing", "", "the method 'broken:nothing' returns a NoneType, not a dict"),
        ("student=broken:Training", "", r"student with broken:Training, .*line \d+: TypeError: "),
        ("student=broken:Dropping", "", r"with broken:Dropping, .*line \d+: InvalidRngError: "),
        ("method=broken:unshared", "", r"student with broken:unshared, .*line \d+: TypeError: "),
        ("method=broken:renamed", "", "returns 'loss', which is logged of something else: give"),
        ("method=broken:masked", "", r"an epoch's order is bool\[\d+\]: let it be positions"),
        ("method=broken:beyond", "", r"order is int64\[\d+\]: .* from 0 to \d+ in one row"),
        ("", "broken:pair", "the dataset 'broken:pair' is a tuple, in place of a Dataset"),
        ("", "broken:misnamed", "'broken:misnamed' names 2 classes and has 10: give a name for"),
        ("", "broken:halves", "the dataset 'broken:halves' holds a tuple, in place of a Split"),
        ("", "broken:uncounted", "'broken:uncounted' has num_classes=None: give a whole number"),
        (
            "",
            "broken:ragged",
            "'broken:ragged' has images or labels that make no array: ",
        ),
        ("", "broken:fails", "the dataset broken:fails, .*broken.py, line 114: KeyError: 'images'"),
    ],
)
def test_mistakes_in_it_are_told_before_anything_is_trained(
    arguments, data, message, tmp_path, monkeypatch
):
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    with pytest.raises(UserError, match=message):
        config = cifar.get_config(f"method=kd,teacher=resnet8,student=resnet8,{arguments}")
        config.data.name = data or "digits"
        train.run(config, str(tmp_path / "run"))
    assert not list(tmp_path.glob("run/**/stage.json"))
