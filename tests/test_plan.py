"""What a run will do: its jobs, and every mistake in a method, told before anything is trained."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict
from tiny import small_config, tiny_network

from configs import cifar
from sskd_jax import plan, sections, settings
from sskd_jax.axis import everywhere, share
from sskd_jax.data import sources
from sskd_jax.engine import optim
from sskd_jax.engine.devices import Mapped
from sskd_jax.engine.loop import epoch_order
from sskd_jax.losses import cross_entropy
from sskd_jax.methods.common import TEACHER, supervised, taught, top, unscored
from sskd_jax.models.build import Adapted
from sskd_jax.settings import Recipe
from sskd_jax.types import (
    Array,
    Batch,
    Facts,
    Losses,
    Method,
    Net,
    Nets,
    Outputs,
    Stage,
    UserError,
    follows,
    frozen,
    learns,
)
from sskd_jax.views import once
from sskd_jax.workdir.checkpoint import checksum


@pytest.fixture(scope="module", autouse=True)
def nothing_is_compiled() -> Iterator[None]:
    """A plan traces a stage's programs; here it may not compile one."""

    def refuse(*args):
        raise AssertionError("a plan compiled a program")

    with tiny_network() as patch:
        patch.setattr(Mapped, "compile", refuse)
        yield


class Point(nn.Module):
    """Logits of an image's mean colour, the network that is traced the quickest."""

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> Outputs:
        embed = image.mean((1, 2))
        return Outputs(nn.Dense(10, name="fc")(embed), embed)


def planned(*methods: Method, **changes) -> list:
    """The jobs of these methods, called a, b, ...; all their stages have the student's section."""
    config = small_config(**{"student.epochs": 3} | changes)
    for kind in {kind: None for method in methods for kind in method}:
        if kind not in config:
            config[kind] = ConfigDict(config.student.to_dict() | {"checkpoint": ""})
    recipes = []
    for name, method in zip("abcd"[: len(methods)], methods, strict=True):
        *_, last = method.values()
        prefix = f"{name}/" if len(methods) > 1 else ""
        recipes.append(Recipe(prefix, name, method, dict.fromkeys(last.terms, 1.0)))
    return plan.plan(plan.load(config, jax.devices()[:1]), recipes)


def classifies(*called: str, **nets: Net) -> Stage:
    """Cross-entropy of the sum of the logits of the nets that are `called`."""

    def loss(nets: Nets, batch: Batch) -> Losses:
        pixels = batch.see(once)
        logits = sum(nets[name](pixels).logits for name in called)
        return Losses({"ce": cross_entropy(logits, share(batch.label))})

    return Stage(("ce",), nets, loss, top(called[0]))


PAPER = ConfigDict({"teacher": 76.46})
POINT = classifies("student", student=learns(Point()))


# What is planned.


def run_of(**changes) -> tuple[plan.Run, list]:
    """The run and the jobs of a config of ours."""
    config = small_config(**changes)
    loaded = plan.load(config, jax.devices()[:1])
    return loaded, plan.plan(loaded, settings.check(config))


@pytest.fixture(scope="module")
def quickstart(nothing_is_compiled) -> tuple[plan.Run, list]:
    return run_of()


def test_a_shared_stage_stands_once_and_first(quickstart):
    _, jobs = quickstart
    names = ["teacher", "scratch/student", "kd/student", "sskd/head", "sskd/student"]
    assert [job.name for job in jobs] == names
    assert [job.kind for job in jobs] == [name.rpartition("/")[2] for name in names]


def test_nets_come_from_where_their_method_left_them(quickstart):
    origins = {job.name: dict(job.origins) for job in quickstart[1]}
    assert origins == {
        "teacher": {},
        "scratch/student": {},
        "kd/student": {"teacher": ("teacher", "teacher")},
        "sskd/head": {"teacher": ("teacher", "teacher")},
        "sskd/student": {
            "teacher": ("teacher", "teacher"),
            "teacher_head": ("sskd/head", "head"),
        },
    }


def test_frozen_nets_are_in_no_state_and_learned_ones_in_no_other_place(quickstart):
    student = quickstart[1][-1]
    assert set(student.sketch.state.params) == {"student", "head"}
    assert set(student.frozen.nets) == {"teacher", "teacher_head"}
    assert student.start == {}


def test_a_warmed_up_net_goes_on_and_is_in_the_state():
    warm = classifies("student", student=learns(Point()))
    student = classifies("student", student=learns(Point(), "warmup/student"))
    job = planned({"warmup": warm, "student": student})[-1]
    assert job.origins == {"student": ("warmup", "student")}
    assert set(job.start) == set(job.sketch.state.params) == {"student"}
    assert job.frozen.nets == {}


def test_a_follower_may_go_on_from_an_earlier_stage_as_its_leader_does():
    before = {"warmup": classifies("student", student=learns(Point()))}
    nets = {
        "student": learns(Point(), "warmup/student"),
        "key": follows("student", Point(), 0.9),
    }
    job = planned({**before, "student": classifies("student", "key", **nets)})[-1]
    shapes = job.sketch.state.params
    assert jax.tree.structure(shapes["key"]) == jax.tree.structure(shapes["student"])


def test_methods_with_other_stages_of_the_same_shared_name_get_their_own():
    other = supervised("teacher")._replace(shared=True)

    def student(teacher: Stage) -> Method:
        nets = {"student": learns(Point()), "teacher": frozen("teacher")}
        return {"teacher": teacher, "student": classifies("student", "teacher", **nets)}

    jobs = planned(student(TEACHER), student(other), student(TEACHER))
    names = ["teacher", "b/teacher", "a/student", "b/student", "c/student"]
    assert [job.name for job in jobs] == names
    origins = [job.origins["teacher"][0] for job in jobs[2:]]
    assert origins == ["teacher", "b/teacher", "teacher"]
    assert jobs[0].task.stage is TEACHER and jobs[1].task.stage is other


def test_the_papers_numbers_belong_to_what_a_method_ends_with():
    papers = {"teacher": 76.46, "a": 74.92, "b": 76.04}
    other = supervised("teacher")._replace(shared=True)
    methods = ({"teacher": teacher, "student": POINT} for teacher in (TEACHER, other))
    jobs = planned(*methods, paper=ConfigDict(papers))
    assert {job.name: job.remarks for job in jobs} == {
        "teacher": {"paper": 76.46},
        "b/teacher": {},
        "a/student": {"method": "a", "paper": 74.92},
        "b/student": {"method": "b", "paper": 76.04},
    }


@pytest.mark.parametrize(
    "change", [{}, {"data.name": "cifar10"}, {"teacher.model": "vgg13"}, {"student.model": "vgg8"}]
)
def test_the_papers_numbers_are_of_its_data_and_networks(change):
    config = cifar.get_config("method=kd")
    config.update_from_flattened_dict(change)
    assert plan.published_for(config) == ({} if change else config.paper)
    alone = cifar.get_config("method=scratch")  # has no teacher
    assert plan.published_for(alone) == alone.paper


def test_the_last_stage_has_the_weights_and_the_others_count_one(quickstart):
    weights = {job.name: dict(job.task.weights) for job in quickstart[1]}
    assert weights["sskd/student"] == {"ce": 0.1, "kd": 0.9, "tf": 2.7, "ss": 10.0}
    assert weights["sskd/head"] == {"ss": 1.0} and weights["teacher"] == {"ce": 1.0}


def test_what_a_job_belongs_to_is_written_beside_its_checkpoints(quickstart):
    run, jobs = quickstart
    about, label = jobs[-1].about, jobs[-1].images.label
    assert about == {
        "num_classes": 10,
        "image": [8, 8, 3],
        "steps": 6,
        "terms": ["ce", "kd", "tf", "ss"],
        "dataset": f"{checksum([run.data.train, run.data.test]):08x}",
        "images": f"{len(label)} with labels {checksum(label):08x}",
        "classes": list("0123456789"),
        "student_model": "tiny",
        "teacher_model": "tiny",
    }


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_dataset_with_one_other_pixel_is_another_one(split, quickstart, monkeypatch):
    data = sources.load("digits")
    getattr(data, split).image[7, 0, 0, 0] += 1
    monkeypatch.setattr(sources, "load", lambda *_, **__: data)
    other = plan.load(small_config(), jax.devices()[:1])
    assert other.data.fingerprint != quickstart[0].data.fingerprint


@pytest.mark.parametrize("kind", ["teacher", "head", "student"])
def test_any_stage_may_come_from_elsewhere(kind):
    _, jobs = run_of(methods=("sskd",), **{f"{kind}.checkpoint": "runs/other"})
    assert {job.kind: job.checkpoint for job in jobs if job.checkpoint} == {kind: "runs/other"}
    work = {job.kind: plan.described(job)["work"] for job in jobs}
    assert work.pop(kind) == "from runs/other"
    assert set(work.values()) == {"2 epochs, 6 steps of 32"}


def test_what_is_told_of_a_job_before_it_starts(quickstart):
    teacher, *_, student = map(plan.described, quickstart[1])
    assert teacher == {
        "stage": "teacher",
        "network": "tiny",
        "parameters": 2178,
        "images": 109,
        "work": "2 epochs, 6 steps of 32",
    }
    assert student["network"] == "tiny, head" and student["parameters"] == 2178 + 2 * 17 * 16
    assert plan.parameters(quickstart[1][-1], "student") == 2178


def test_a_teacher_with_pixels_of_its_own_has_them_wherever_it_is_called(quickstart):
    modules = [module for job in quickstart[1] for module in job.task.modules.values()]
    assert all(isinstance(module, nn.Module) for module in modules)  # by default nothing is there
    mean = (0.1, 0.2, 0.3)
    own = {"teacher.mean": mean, "teacher.size": 16}
    for job in run_of(methods=("sskd", "hsakd"), **own)[1]:
        for name, module in job.task.modules.items():
            assert isinstance(module, Adapted) == (name == "teacher"), (job.name, name)
        learned = job.beside["normalisation"]
        assert learned.get("teacher", {"mean": list(mean)})["mean"] == list(mean)
        assert learned.get("teacher", {"image": [16, 16, 3]})["image"] == [16, 16, 3]
        assert learned.get("student", {"mean": [0.31] * 3})["mean"] == [0.31] * 3
        assert "image" not in learned.get("student", {})


def test_what_a_stage_starts_from_is_told_and_belongs_to_it():
    _, (teacher, *_) = run_of(methods=("kd",), **{"teacher.start_from": "a.pth"}, paper=PAPER)
    assert teacher.about["start_from"] == teacher.start_from == "a.pth"
    assert plan.described(teacher)["work"] == "2 epochs, 6 steps of 32, from a.pth"
    assert teacher.remarks == {"start_from": "a.pth"}  # the published number is not of such a run


def test_scores_are_named_in_their_order(quickstart):
    scores = {job.name: job.task.scores for job in quickstart[1]}
    assert scores["sskd/student"] == ("top1", "top5", "loss", "contrastive")
    assert scores["sskd/head"] == ("contrastive",)


def test_labels_lie_on_the_device_for_a_memory():
    def memory(key: Array, facts: Facts) -> dict[str, Array]:
        assert facts.num_classes == 10 and facts.shape == (8, 8, 3)
        return {"label": facts.label}

    def loss(nets: Nets, batch: Batch) -> Losses:
        return POINT.loss(nets, batch)._replace(memory=batch.memory)

    job = planned({"student": POINT._replace(loss=loss, memory=memory)})[0]
    np.testing.assert_array_equal(job.frozen.label, job.images.label)
    assert job.sketch.state.memory["label"].shape == (109,)


def test_only_what_the_loss_depends_on_is_reached():
    """Of the teacher's stage all is; of a student that only matches maps, not the classifier."""

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        return Losses({"size": jnp.mean(jnp.square(student.embed))})

    labelled = taught(("size",), own)["student"]

    def without_labels(nets: Nets, batch: Batch) -> Losses:
        return Losses({"size": labelled.loss(nets, batch).terms["size"]})

    stage = labelled._replace(terms=("size",), loss=without_labels)
    teacher, student = planned({"teacher": TEACHER, "student": stage})
    assert all(jax.tree.leaves(teacher.task.reached))
    reached = student.task.reached["student"]
    assert not any(jax.tree.leaves(reached["fc"])) and all(jax.tree.leaves(reached["conv1"]))


# Mistakes of a method.


def assert_told(message: str, *methods: Method, **changes) -> None:
    with pytest.raises(UserError, match=message) as error:
        planned(*methods, **changes)
    assert "\n" not in str(error.value)


def behind_a_teacher(student: Stage) -> Method:
    """So that the mistake is in the last stage, for which others would be trained first."""
    return {"teacher": TEACHER, "student": student}


def test_a_net_that_is_declared_and_never_called():
    nets = {"student": learns(Point()), "teacher": frozen("teacher")}
    assert_told(
        "declares the net 'teacher', but its loss never calls it: call it, or leave it out",
        behind_a_teacher(classifies("student", **nets)),
    )


def test_a_net_that_is_called_and_not_declared():
    assert_told(
        "the net 'teacher' is called, but its stage does not declare it: it has student",
        behind_a_teacher(classifies("student", "teacher", student=learns(Point()))),
    )


def test_a_loss_that_returns_other_terms_than_its_stage_names():
    assert_told(
        "names the terms ce, kd, but its loss returns ce: name just those",
        behind_a_teacher(POINT._replace(terms=("ce", "kd"))),
    )
    assert_told(
        "names the terms kd, but its loss returns ce: name just those",
        behind_a_teacher(POINT._replace(terms=("kd",))),
    )


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (
            "teachr/teacher",
            "unknown stage to start the net student from 'teachr': did you mean 'teacher'",
        ),
        (
            "student/student",
            "unknown stage to start the net student from 'student': choose from teacher",
        ),
        (
            "teacher/teachr",
            "unknown net of the stage teacher 'teachr': did you mean 'teacher'",
        ),
        ("teacher", "unknown net of the stage teacher '': choose from teacher"),
    ],
)
def test_a_start_that_is_not_there(start, message):
    student = classifies("student", student=learns("student", start))
    assert_told(message, behind_a_teacher(student))


def test_a_net_does_not_start_from_one_that_an_earlier_stage_did_not_train():
    """It was frozen there, so no checkpoint of that stage has it."""
    both = {"student": learns(Point()), "teacher": frozen("teacher")}
    warmup = classifies("student", "teacher", **both)
    late = classifies("student", student=learns("teacher", "warmup/teacher"))
    method = {"teacher": TEACHER, "warmup": warmup, "student": late}
    assert_told("unknown net of the stage warmup 'teacher': choose from student", method)


def test_a_section_or_part_that_no_network_has():
    for module, message in {
        "other": "the config lacks the section other",
        "student.branch": "unknown part of the student architecture 'branch': did you mean",
    }.items():
        student = classifies("student", student=learns(module))
        assert_told(message, behind_a_teacher(student))


def test_a_follower_of_nobody():
    nets = {"student": learns(Point()), "key": follows("studnt", Point(), 0.9)}
    assert_told(
        "unknown net for 'key' to follow 'studnt': did you mean 'student'",
        behind_a_teacher(classifies("student", "key", **nets)),
    )


def test_a_shared_stage_that_starts_from_one_that_is_not():
    shared = classifies("student", student=learns(Point(), "warmup/student"))
    method = {"warmup": POINT, "student": shared._replace(shared=True)}
    assert_told("the stage student is shared, but starts from the stage warmup, which", method)


def rows(nets: Nets, batch: Batch) -> Array:
    return everywhere(nets["student"](batch.see(once)).logits).argmax(-1) == batch.label


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (
            lambda nets, batch: {"top1": rows(nets, batch).mean()},
            r"the score 'top1' of 2 images is \[\]: give as many numbers for each image",
        ),
        (
            lambda nets, batch: {"top1": rows(nets, batch)[:1]},
            r"the score 'top1' of 2 images is \[1\]: give as many numbers for each image",
        ),
        (
            lambda nets, batch: {"top1": nets["teacher"](batch.see(once)).logits[:, 0]},
            "the net 'teacher' is called, but its stage does not declare it: it has student",
        ),
    ],
    ids=["a mean", "too few rows", "another net"],
)
def test_a_score_that_fails_is_found_before_training(scores, message):
    assert_told(message, behind_a_teacher(POINT._replace(scores=scores)))


def test_any_error_in_a_score_comes_before_training():
    with pytest.raises(ZeroDivisionError):
        planned(behind_a_teacher(POINT._replace(scores=lambda nets, batch: {"x": 1 / 0})))


def test_an_order_that_gives_too_few_images_in_a_later_epoch():
    def order(rng: np.random.Generator, images: object, epoch: int) -> np.ndarray:
        return rng.permutation(images.size)[: 96 if epoch < 2 else 95]

    assert_told(
        "an epoch's order has 95 images, too few for 3 steps of 32: all epochs must have as many",
        behind_a_teacher(POINT._replace(order=order)),
    )
    jobs = planned({"student": POINT._replace(order=order)}, **{"student.epochs": 2})
    assert jobs[0].task.steps_per_epoch == 3


@pytest.mark.parametrize(
    ("method", "number", "message"),
    [
        ("ssd_lt", "queue_length", "holds 20 keys, fewer than the 32 images of a batch"),
        ("der", "replay_size", "the devices do not divide replay_size=20: use a multiple"),
    ],
)
def test_a_memory_fits_the_whole_batch_on_all_devices(method, number, message):
    numbers = {f"settings.{method}.method.{number}": 20, "settings.der.method.task_epochs": 1}
    config = small_config(methods=(method,), **numbers, **{"student.epochs": 5})
    for stage in ("features", "scales", "student"):
        config[stage].images.share = 1.0
    with pytest.raises(UserError, match=message):
        plan.plan(plan.load(config, jax.devices()[:8]), settings.check(config))


def test_an_order_decides_how_many_steps_an_epoch_has():
    def twice(rng: np.random.Generator, images: object, epoch: int) -> np.ndarray:
        return np.tile(np.arange(images.size), 2)

    (job,) = planned({"student": POINT._replace(order=twice)})
    assert job.task.steps_per_epoch == 2 * 109 // 32 and job.total_steps == 3 * 6


def test_a_stage_that_has_no_scores_is_fine():
    (job,) = planned({"student": POINT._replace(scores=unscored)})
    assert job.task.scores == ()


def test_the_seed_decides_what_is_drawn_and_nothing_else_does():
    """Which images are held out, which labels are wrong, the keys of the stages, the order."""
    found = []
    for seed in (0, 0, 1):
        changes = {"data.validation": 0.1, "student.images.noise": 0.5, "seed": seed}
        loaded, jobs = run_of(methods=("kd",), **changes)
        keys = [np.asarray(jax.random.key_data(job.frozen.key)) for job in jobs]
        teacher, student = jobs
        held_out = loaded.held_out.image.sum((1, 2, 3))
        orders = [epoch_order(job, 0, 1) for job in jobs]
        found.append([held_out, student.images.label, *keys, *orders, np.array(student.seed)])
        assert (keys[0] != keys[1]).any()
    for one, again, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, again)
        assert (one != other).any()


def test_what_the_config_says_reaches_the_step():
    changes = {"data.flip": True, "data.pad": 3, "dtype": "bfloat16", "student.epochs": 4}
    student = {"momentum": 0.7, "nesterov": True, "warmup_epochs": 1.0, "cooldown_epochs": 0.5}
    changes |= {f"student.{key}": value for key, value in student.items()}
    config, (*_, job) = small_config(**changes), run_of(**changes)[1]
    assert (job.task.optics.flip, job.task.optics.pad) == (True, 3)
    assert {module.dtype for module in job.task.modules.values() if hasattr(module, "dtype")} == {
        jnp.bfloat16
    }
    numbers = {"epochs": 4, "warmup_epochs": 1.0, "cooldown_epochs": 0.5}
    section = config.student
    rate, steps = section.learning_rate, job.task.steps_per_epoch
    for cosine in (False, True):
        section.cosine = cosine
        expected = optim.milestone_schedule(rate, [2.0], 0.1, steps, cosine=cosine, **numbers)
        found = sections.schedule_of(section, steps)
        np.testing.assert_allclose(*([f(step) for step in range(12)] for f in (found, expected)))
    params, gradient = (
        {"student": {"kernel": jnp.ones(3)}},
        {"student": {"kernel": jnp.arange(3.0)}},
    )
    schedule = optim.milestone_schedule(rate, [2.0], 0.1, steps, **numbers)
    decay = section.weight_decay
    expected = optim.sgd(schedule, momentum=0.7, weight_decay=decay, nesterov=True)
    optimizers = job.task.optimizer, expected
    states = [one.init(params) for one in optimizers]
    for _ in range(4 * steps):
        updates = []
        for place, one in enumerate(optimizers):
            update, states[place] = one.update(gradient, states[place], params)
            updates.append(update["student"]["kernel"])
        np.testing.assert_allclose(*updates, rtol=1e-6)


def test_classes_are_counted_among_the_images_of_the_stage():
    _, (*_, job) = run_of(**{"student.images.imbalance": 10.0})
    counts = job.task.counts()
    np.testing.assert_array_equal(counts, np.bincount(job.images.label, minlength=10))
    assert counts.max() > 2 * counts.min()


@pytest.mark.parametrize("epochs", [240, 24])
def test_milestones_hold_for_any_number_of_epochs(epochs):
    section = cifar.get_config().student
    section.epochs = epochs
    rate = sections.schedule_of(section, steps_per_epoch=10)
    shares = (0, 0.62, 0.63, 0.74, 0.76, 0.87, 0.88, 0.99)
    found = [rate(round(share * epochs * 10)) for share in shares]
    np.testing.assert_allclose(found, [0.05] * 2 + [5e-3] * 2 + [5e-4] * 2 + [5e-5] * 2, rtol=1e-5)


def test_more_steps_than_can_be_counted_are_told():
    epochs = 2**31 // 3 + 1
    with pytest.raises(UserError, match=f"student.epochs={epochs} of 3 steps are more than can be"):
        planned({"student": POINT}, **{"student.epochs": epochs})
    (job,) = planned({"student": POINT}, **{"student.epochs": epochs - 1})
    assert job.total_steps == 2**31 - 2


def test_a_run_may_end_before_its_last_stage(quickstart):
    _, jobs = quickstart
    assert plan.up_to("", jobs) == jobs
    assert [job.name for job in plan.up_to("teacher", jobs)] == ["teacher"]
    assert plan.up_to("head", jobs)[-1].name == "sskd/head"
    with pytest.raises(UserError, match="unknown stage to end with 'heads': did you mean 'head'"):
        plan.up_to("heads", jobs)
