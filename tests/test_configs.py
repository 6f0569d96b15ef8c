"""The configs: every method's numbers, what is published, and schedules."""

import json

import pytest

from configs import (
    cifar,
    cifar_fast,
    common,
    continual,
    extend,
    imagenet,
    long_tail,
    methods,
    named,
    paper,
    quickstart,
)
from sskd_jax import settings
from sskd_jax.methods import METHODS
from sskd_jax.models import MODELS
from sskd_jax.types import UserError


def test_there_is_an_entry_for_every_method():
    assert list(methods.METHODS) == list(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_numbers_and_a_weight_for_every_term(name):
    for preset in methods.METHODS[name].weights:
        config = cifar.get_config(f"method={name},weights={preset}")
        (built,) = settings.check(config)
        *_, last = built.method.values()
        assert set(built.weights) == set(last.terms)
        assert all(kind in config for kind in built.method)


def test_a_preset_counts_for_the_methods_that_have_it():
    for module in (cifar, imagenet):
        found = module.get_config("method=scratch,kd,sskd,weights=eccv").settings
        alone = [module.get_config(f"method={name}").weights for name in ("scratch", "kd")]
        assert [found.scratch.weights, found.kd.weights] == alone
        assert found.sskd.weights == module.get_config("weights=eccv").weights
    with pytest.raises(UserError, match="unknown weights for scratch 'eccv'"):
        cifar.get_config("method=scratch,kd,weights=eccv")


@pytest.mark.parametrize("name", METHODS)
def test_imagenets_numbers_and_weights_are_those_of_the_method(name):
    """What differs there is said of numbers and terms that there are."""
    entry = methods.METHODS[name]
    assert entry.imagenet_numbers.keys() <= entry.numbers.keys()
    assert entry.imagenet_weights.keys() <= entry.weights["code"].keys()
    config = imagenet.get_config(f"method={name}")
    (built,) = settings.check(config)
    assert set(built.weights) == set(entry.weights["code"])
    assert all(kind in config for kind in built.method)


def test_own_stages_are_scheduled_and_no_others():
    """A method's entry schedules the stages that it has between teacher and student."""
    for name, entry in methods.METHODS.items():
        stages = METHODS[name](**entry.numbers).keys()
        assert entry.stages("resnet20").keys() == stages - {"teacher", "student"}, name
    assert set(named.own_stages("ft,sskd,ab", "vgg8")) == {"paraphraser", "head", "warmup"}


def test_stages_of_one_name_are_trained_alike(tmp_path, monkeypatch):
    (tmp_path / "ours.py").write_text(
        "from sskd_jax.methods.common import supervised\n"
        "def again():\n"
        "    return {'paraphraser': supervised('student'), 'student': supervised('student')}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="the stage paraphraser of ours:again is trained otherwise"):
        named.own_stages("ft,ours:again", "vgg8")
    assert named.own_stages("ft,sskd", "vgg8") and named.own_stages("ours:again", "vgg8")
    config = quickstart.get_config("method=kd,ours:again")  # which trains no other one's stages
    assert [recipe.prefix for recipe in settings.check(config)] == ["kd/", "again/"]


def test_test_images_are_resized_with_the_size():
    config = imagenet.get_config()
    assert config.data.resize == 256
    config.data.size = 128
    assert config.data.resize == 146
    config.data.resize = 160
    assert (config.data.size, config.data.resize) == (128, 160)


def test_the_paraphraser_learns_at_the_references_rate():
    """.01 after RepDistiller's resnets and WRNs, and the student's rate after all others."""
    students = {"resnet8x4": 0.01, "wrn_16_2": 0.01, "vgg8": 0.05, "ResNet50": 0.05}
    students |= {"ShuffleV1": 0.01, "MobileNetV2": 0.01}
    for student, rate in students.items():
        assert methods.paraphraser(student)["paraphraser"]["learning_rate"] == rate, student


def test_mlkd_weighs_labels_alike_with_and_without_standardized_logits_on_imagenet():
    found = [named.imagenet_method(name).weights.ce for name in ("mlkd", "mlkd+ls")]
    assert found == [0.5, 0.5]


def test_weights_of_a_pair():
    pairs = [
        (pair, name, own)
        for name, entry in methods.ENTRIES.items()
        for pair, own in entry.by_pair.items()
    ]
    assert {name for _, name, _ in pairs} >= {"dkd", "reviewkd", "reviewkd+kd", "kd+ls", "dkd+ls"}
    for pair, name, own in pairs:
        assert pair in paper.PAIRS
        config = cifar.get_config(f"method={name},teacher={pair[0]},student={pair[1]}")
        assert own.items() <= {**config.method, **config.weights}.items()
        entry = methods.ENTRIES[name]
        assert set(config.weights) == set(entry.weights["code"])
        assert set(config.method) == {"name", *entry.numbers}


@pytest.mark.parametrize(
    ("epochs", "milestones"),
    [(30, (10, 20)), (90, (30, 60)), (100, (30, 60, 90)), (120, (30, 60, 90))],
)
def test_imagenets_schedules(epochs, milestones):
    config = imagenet.get_config(f"method=kd,epochs={epochs}")
    assert config.student.epochs == epochs and config.teacher.epochs == 90
    assert [epochs * share for share in config.student.milestones] == pytest.approx(milestones)
    assert [90 * share for share in config.teacher.milestones] == pytest.approx((30, 60))


def test_presets_differ_as_the_sources_do():
    found = [cifar.get_config(f"weights={name}").weights for name in ("code", "eccv", "arxiv")]
    assert [(weights.tf, weights.ss) for weights in found] == [(2.7, 10.0), (5.0, 3.0), (10.0, 2.7)]


@pytest.mark.parametrize("teacher,student", paper.TABLES)
def test_the_papers_pairs(teacher, student):
    config = cifar.get_config(f"teacher={teacher},student={student}")
    assert config.paper.student == paper.PAIRS[teacher, student]["sskd"]
    assert teacher in MODELS and student in MODELS
    assert config.student.learning_rate == (0.01 if student in common.LIGHT else 0.05)
    scratch = cifar.get_config(f"method=scratch,student={student}")
    assert scratch.paper.student == paper.BASELINES[student] < config.paper.student


def test_imagenets_pair_is_published_too():
    config = imagenet.get_config()
    assert (config.teacher.model, config.student.model) == ("resnet34", "resnet18")
    assert published(config) == {"teacher": 73.31, "student": 71.62}
    of = {"data": "imagenet2012", "teacher": "resnet34", "student": "resnet18"}
    assert config.paper.of.to_dict() == of


@pytest.mark.parametrize(
    ("configs", "typed"),
    [
        (cifar, "method=kd,teacher=resnet34,student=resnet18"),
        (cifar, "method=hssakd,teacher=resnet18,student=resnet18"),
        (imagenet, "method=scratch,kd,sskd,teacher=resnet56,student=resnet20"),
        (cifar, "method=kd,dataset=cifar10"),
    ],
)
def test_what_is_published_for_other_data_is_not_shown(configs, typed):
    assert not published(configs.get_config(typed))


@pytest.mark.parametrize(
    ("configs", "typed", "teacher"),
    [
        (cifar, "method=kd,sskd", 76.46),
        (cifar, "method=scratch,dkd,mlkd", 75.61),
        (cifar, "method=scratch,sskd,dkd", None),
        (cifar, "method=hsakd,teacher=vgg13,student=MobileNetV2s1", 74.64),
        (cifar, "method=scratch", 76.46),
        (imagenet, "method=kd", 73.31),
        (imagenet, "method=ctkd", 73.96),
    ],
)
def test_a_published_teacher_is_that_of_the_methods_authors(configs, typed, teacher):
    assert configs.get_config(typed).paper.get("teacher") == teacher


def published(config) -> dict[str, float]:
    return {name: score for name, score in config.paper.to_dict().items() if name != "of"}


@pytest.mark.parametrize("configs", [cifar, imagenet])
def test_several_methods_have_the_settings_of_each(configs):
    config = configs.get_config("method=scratch,at+kd,dist,weights=code")
    recipes = settings.check(config)
    assert [recipe.prefix for recipe in recipes] == ["scratch/", "at+kd/", "dist/"]
    for recipe in recipes:
        alone = configs.get_config(f"method={recipe.prefix[:-1]}")
        assert config.settings[recipe.prefix[:-1]].to_dict() == {
            "method": alone.method.to_dict(),
            "weights": alone.weights.to_dict(),
        }


def test_several_methods_have_the_papers_numbers_of_each():
    assert published(cifar.get_config("method=scratch,kd,at+kd,sskd")) == {
        "teacher": 76.46,
        "scratch": 73.64,
        "kd": 74.92,
        "at+kd": 75.28,
        "sskd": 76.04,
    }


def test_a_joint_teacher_and_equal_peers_have_published_numbers_of_their_own():
    pair = "teacher=resnet56,student=resnet20"
    alone = published(cifar.get_config(f"method=hsakd_joint,{pair}"))
    assert alone == {"teacher": 77.20, "student": 73.73}
    beside = published(cifar.get_config(f"method=kd,hsakd,hsakd_joint,{pair}"))
    assert beside == {
        "teacher": 73.44,
        "hsakd_joint/teacher": 77.20,
        "kd": 70.66,
        "hsakd": 72.58,
        "hsakd_joint": 73.73,
    }
    peers = cifar.get_config("method=hssakd,teacher=wrn_40_1,student=wrn_40_1").paper
    assert peers.student == 76.67


def test_stages_have_nesterovs_momentum_where_all_methods_want_it():
    found = {
        names: [
            cifar.get_config(f"method={names}")[stage].nesterov for stage in ("teacher", "student")
        ]
        for names in (
            "sskd",
            "hsakd",
            "hsakd_joint",
            "hsakd,hsakd_joint",
            "kd,hsakd",
            "hssakd",
            "hssakd,hsakd_joint",
            "scratch,hsakd_joint",
            "crd+kd,hsakd_joint",
        )
    }
    assert found == {
        "sskd": [False, False],
        "hsakd": [False, True],
        "hsakd_joint": [True, True],
        "hsakd,hsakd_joint": [False, True],
        "kd,hsakd": [False, False],
        "hssakd": [False, True],
        "hssakd,hsakd_joint": [True, True],  # its peer is no teacher
        "scratch,hsakd_joint": [True, False],  # nor has it one
        "crd+kd,hsakd_joint": [False, False],
    }
    branches = cifar.get_config("method=kd,hsakd").branches
    assert branches.nesterov and branches.milestones == (0.3, 0.6, 0.9) and branches.epochs == 100
    assert not imagenet.get_config("method=hsakd").branches.nesterov


def test_the_reference_schedule():
    config = cifar.get_config()
    assert (config.teacher.epochs, config.head.epochs, config.student.epochs) == (240, 60, 240)
    assert config.student.milestones == (0.625, 0.75, 0.875) and config.head.milestones == (
        0.5,
        0.75,
    )
    assert {config[name].batch_size for name in ("teacher", "head", "student")} == {64}


def test_the_fast_schedule_is_one_cycle_of_larger_batches():
    config = cifar_fast.get_config("epochs=20,batch=512,student=ShuffleV1")
    student = config.student
    assert (student.epochs, student.warmup_epochs, student.cooldown_epochs, student.milestones) == (
        20,
        4.0,
        16.0,
        (),
    )
    assert (student.batch_size, student.learning_rate) == (512, 0.01 * 8)
    assert (config.teacher, config.head) == (cifar.get_config().teacher, cifar.get_config().head)
    settings.check(config)


@pytest.mark.parametrize("epochs", [15, 60])
def test_short_schedules_scale_what_methods_count_in_epochs(epochs):
    """DKD's warm-up is a twelfth of the epochs, and CTKD's ramp half of that, rounded up."""
    fast = cifar_fast.get_config("epochs=90,method=dkd,ctkd,kd")
    quick = quickstart.get_config()
    for config in (fast, quick):
        config.student.epochs = epochs
        found = config.settings
        warmup, ramp = found.dkd.method.warmup_epochs, found.ctkd.method.ramp_epochs
        assert (warmup, ramp) == {15: (2, 1), 60: (5, 3)}[epochs]
    assert quick.settings.coca.method.task_epochs == 50
    assert cifar_fast.get_config("epochs=120,method=reviewkd").method.warmup_epochs == 10


def test_the_long_tail_compares_methods_under_one_augmentation():
    config = long_tail.get_config("epochs=20,imbalance=10")
    recipes = {recipe.prefix[:-1]: recipe for recipe in settings.check(config)}
    assert list(recipes) == list(long_tail.COMPARED)
    stages = {kind for recipe in recipes.values() for kind in recipe.method}
    assert stages == {"student", "features", "scales", "classifier"}
    assert all(config[kind].images.imbalance == 10 for kind in stages)
    assert config.settings.ldam.method.deferred_epochs == 16
    assert config.settings.ssd_lt.method.jitter == 0  # the others have no such view
    own = {"model": "resnet32", **common.OWN_PIXELS}
    assert config.features.to_dict() | own == config.student.to_dict()
    config.student.epochs = 60
    assert config.settings.ldam.method.deferred_epochs == 48


def test_imagenet_lt_has_the_released_schedule():
    """That of SSD-LT, and for the new classifier that of cRT."""
    config = long_tail.get_config("dataset=imagenet_lt")
    settings.check(config)
    for name, epochs, batch, rate in (
        ("features", 135, 256, 0.1),
        ("scales", 5, 512, 0.2),
        ("classifier", 10, 512, 0.2),
        ("student", 135, 256, 0.1),
    ):
        stage = config[name]
        assert (stage.epochs, stage.batch_size, stage.learning_rate) == (epochs, batch, rate)
        assert (stage.weight_decay, stage.cosine, stage.warmup_epochs) == (5e-4, True, 0.0)
        assert stage.images.imbalance == 1 and not stage.milestones
    assert config.data.size == 224


def test_every_dataset_has_its_colours():
    found = [cifar.get_config(f"dataset={name}").data.mean for name in ("cifar10", "cifar100")]
    assert found == [(0.4914, 0.4822, 0.4465), (0.5071, 0.4866, 0.4409)]
    assert long_tail.get_config("dataset=cifar10").data.mean == found[0]


def test_streams_of_tasks():
    names = ",".join(continual.COMPARED)
    config = continual.get_config(f"dataset=cifar100,buffer=500,epochs=3,method={names}")
    recipes = {recipe.prefix[:-1]: recipe for recipe in settings.check(config)}
    assert config.student.epochs == 10 * 3 and config.student.momentum == 0
    weights = {name: dict(recipe.weights) for name, recipe in recipes.items()}
    assert weights["finetune"] == {"ce": 1.0} and weights["er"] == {"ce": 1.0, "replay": 0.5}
    assert weights["der"] == {"ce": 1.0, "distil": 0.2}
    assert weights["derpp"] == {"ce": 1.0, "distil": 0.2, "replay": 0.5}
    assert weights["coca"] == weights["coca_free"] == weights["derpp"] | {"supcon": 0.3, "rot": 0.3}
    assert continual.get_config("dataset=cifar100,task_classes=5").student.epochs == 20 * 50
    assert continual.get_config().student.epochs == 5 * 50


@pytest.mark.parametrize(
    ("dataset", "released"),
    [  # per buffer: alpha and beta of DER++ and CoCa, and alpha of DER
        ("cifar10", {200: (0.1, 0.5, 0.3), 500: (0.2, 0.5, 0.3), 5120: (0.1, 1.0, 0.3)}),
        ("cifar100", {200: (0.1, 0.5, 0.1), 500: (0.2, 0.5, 0.2), 5120: (0.1, 1.0, 0.1)}),
        ("tiny_imagenet", {200: (0.1, 1.0, 0.1), 500: (0.1, 0.5, 0.1), 5120: (0.1, 0.5, 0.1)}),
    ],
)
def test_streams_have_the_released_weights(dataset, released):
    near = {2700: 5120, 1000: 500, 100: 200}  # a size without numbers of its own: the nearest
    for buffer in (*released, *near):
        weights = released[near.get(buffer, buffer)]
        config = continual.get_config(f"dataset={dataset},buffer={buffer},method=derpp,coca,der")
        derpp, coca, der = (config.settings[name].weights for name in config.methods)
        assert (derpp.distil, derpp.replay, der.distil) == weights
        assert (coca.distil, coca.replay) == weights[:2]


def test_extending_a_run_takes_all_but_the_students_from_it(tmp_path):
    config = quickstart.get_config()
    config.head.checkpoint, config.teacher.start_from = "runs/other", "resnet20.pth"
    config.until, config.time_limit = "head", 60.0
    config.student.update(epochs=40, warmup_epochs=8.0, cooldown_epochs=32.0)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    run = str(tmp_path)
    found = extend.get_config(f"run={run},epochs=5")
    settings.check(found)
    assert (found.teacher.checkpoint, found.head.checkpoint) == (run, "runs/other")
    assert (found.student.checkpoint, found.student.start_from) == ("", run)
    assert (found.student.epochs, found.until, found.time_limit) == (5, "", 0.0)
    assert (found.student.warmup_epochs, found.student.cooldown_epochs) == (1.0, 4.0)
    (tmp_path / "tail").mkdir()
    ldam = long_tail.get_config("method=ldam").to_dict()
    (tmp_path / "tail" / "config.json").write_text(json.dumps(ldam))
    tail = extend.get_config(f"run={tmp_path / 'tail'},epochs=60")
    assert tail.settings.ldam.method.deferred_epochs == 48
    (tmp_path / "cut").mkdir()
    cut = long_tail.get_config("method=crt,ssd_lt")
    cut.classifier.checkpoint = "runs/other"
    (tmp_path / "cut" / "config.json").write_text(json.dumps(cut.to_dict()))
    cut = extend.get_config(f"run={tmp_path / 'cut'}")  # cRT's classifier is after its student
    assert (cut.classifier.checkpoint, cut.features.checkpoint) == ("", str(tmp_path / "cut"))
    assert found.teacher.start_from == "" and found.methods == ("scratch", "kd", "sskd")
    teacher = extend.get_config(f"run={run},stage=teacher")
    assert (teacher.teacher.start_from, teacher.until) == (run, "teacher")
    assert teacher.teacher.epochs == 12 and teacher.student == config.student


def test_what_cannot_be_extended_is_one_line(tmp_path):
    scratch = long_tail.get_config()
    (tmp_path / "several/seed-0").mkdir(parents=True)
    for place in (tmp_path, tmp_path / "several/seed-0"):
        (place / "config.json").write_text(json.dumps(scratch.to_dict()))
    (tmp_path / "stream").mkdir()
    (tmp_path / "stream/config.json").write_text(json.dumps(continual.get_config().to_dict()))
    for argument, message in [
        (None, "say which run to extend: --config=configs/extend.py:run=WORKDIR"),
        ("run=/nowhere", "/nowhere is no workdir of a run: it has no config.json"),
        (f"run={tmp_path}/several", f"it holds some, such as run={tmp_path}/several/seed-0"),
        (f"run={tmp_path},stage=head", "unknown stage to extend 'head': choose from student"),
        (f"run={tmp_path}/stream", "stream is a stream of tasks, which can't be extended"),
        (f"run={tmp_path},stage=teacher", "has no teacher: it has "),
        (f"run={tmp_path},epochs=many", "config argument epochs=many: give a whole number"),
    ]:
        with pytest.raises(UserError, match=message):
            extend.get_config(argument)


def test_a_stream_of_tiny_imagenet():
    config = continual.get_config("dataset=tiny_imagenet,method=coca,derpp")
    _, recipe = settings.check(config)
    assert recipe.weights == {"ce": 1.0, "distil": 0.1, "replay": 1.0}
    assert config.student.learning_rate == 0.1 and config.settings.coca.method.stretched
    assert not continual.get_config("method=coca").settings.coca.method.stretched
    assert config.student.epochs == 10 * 50 and config.settings.derpp.method.task_classes == 20
    assert config.data.size == 64 and config.data.pad == 4 and config.data.name == "tiny_imagenet"


def test_the_quickstart_takes_any_method():
    config = quickstart.get_config()
    config.methods = methods.NAMES
    recipes = settings.check(config)
    assert [recipe.prefix[:-1] for recipe in recipes] == list(methods.NAMES)


@pytest.mark.parametrize(
    "argument,message",
    [
        ("metod=kd", "did you mean 'method'"),
        ("method", "write method=sskd"),
        ("method=kd,teacher", "write teacher=wrn_40_2"),
        ("method=kd,sskt", "did you mean 'sskd'"),
        ("weights=iccv", "did you mean 'eccv'"),
        ("teacher=resnet57", "did you mean 'resnet56'"),
    ],
)
def test_misspelt_arguments(argument, message):
    with pytest.raises(UserError, match=message):
        cifar.get_config(argument)
