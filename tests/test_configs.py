import pytest

from configs import cifar, cifar_fast, common, imagenet, quickstart
from sskd_jax import settings
from sskd_jax.methods import METHODS
from sskd_jax.models import MODELS
from sskd_jax.types import UserError


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_numbers_and_a_weight_for_every_term(method):
    for preset in common.WEIGHTS[method]:
        config = cifar.get_config(f"method={method},weights={preset}")
        (built,) = settings.check(config)
        assert set(built.weights) == set(built.method.terms)
        assert all(name in config for name in built.method.pretrain)


def test_weights_of_a_pair():
    for pair, method in (
        (pair, method) for method, pairs in common.PAIR_WEIGHTS.items() for pair in pairs
    ):
        assert pair in common.PAIRS
        (own,) = common.PAIR_WEIGHTS[method][pair].items()
        weights = cifar.get_config(f"method={method},teacher={pair[0]},student={pair[1]}").weights
        assert own in weights.items() and set(weights) == set(common.WEIGHTS[method]["code"])


def test_presets_differ_as_the_sources_do():
    code, eccv, arxiv = (
        cifar.get_config(f"weights={name}").weights for name in ("code", "eccv", "arxiv")
    )
    assert (code.tf, code.ss, eccv.tf, eccv.ss, arxiv.tf, arxiv.ss) == (
        2.7,
        10.0,
        5.0,
        3.0,
        10.0,
        2.7,
    )


@pytest.mark.parametrize("teacher,student", common.PAIRS)
def test_the_papers_pairs(teacher, student):
    config = cifar.get_config(f"teacher={teacher},student={student}")
    assert config.paper.student == common.PAIRS[teacher, student]["sskd"]
    assert teacher in MODELS and student in MODELS
    assert config.student.learning_rate == (0.01 if student in common.LIGHT else 0.05)
    scratch = cifar.get_config(f"method=scratch,student={student}")
    assert scratch.paper.student == common.BASELINES[student] < config.paper.student


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
    assert cifar.get_config("method=scratch,kd,at+kd,sskd").paper.to_dict() == {
        "teacher": 76.46,
        "scratch": 73.64,
        "kd": 74.92,
        "at+kd": 75.28,
        "sskd": 76.04,
    }


def test_the_reference_schedule():
    config = cifar.get_config()
    assert (config.teacher.epochs, config.head.epochs, config.student.epochs) == (240, 60, 240)
    assert config.student.milestones == (150, 180, 210) and config.head.milestones == (30, 45)
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


def test_the_quickstart_takes_any_method():
    config = quickstart.get_config()
    config.methods = tuple(METHODS)
    assert len(settings.settings(config)) == len(METHODS)


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
