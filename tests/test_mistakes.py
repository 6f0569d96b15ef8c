"""The table of mistakes: what a user types or has on the disk, and the line they are told."""

import html
import json
import re
import shutil
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from official_files import cifar100
from pictures import dataset
from safetensors.numpy import save_file
from torch_files import Call, Global, checkpoint, pickled, weights

from sskd_jax import main
from sskd_jax.data import prepare, sources
from sskd_jax.workdir.stages import FORMAT

QUICK, CIFAR, IMAGENET = (
    f"--config=configs/{name}.py" for name in ("quickstart", "cifar", "imagenet")
)
FLOWERS = (IMAGENET + ":dataset=flowers,batch=8", "--config.data.data_dir={folder}/flowers/data")
SIZE = (
    "--config.student.batch_size=8",
    "--config.teacher.batch_size=8",
    "--config.head.batch_size=8",
)
GREY = {"image": np.zeros((9, 8, 8, 1), np.uint8), "label": np.zeros(9, np.int32)}
FINE = GREY | {"image": np.zeros((9, 8, 8, 3), np.uint8)}
DATASETS = {  # arrays that a loader might return, beside a test split that is fine
    "grey": GREY,
    "oblong": FINE | {"image": np.zeros((9, 8, 6, 3), np.uint8)},
    "floats": FINE | {"image": np.zeros((9, 8, 8, 3))},
    "eleventh": FINE | {"label": np.full(9, 10, np.int32)},
    "unlabelled": FINE | {"label": np.full(9, -1, np.int32)},
    "short": FINE | {"label": np.zeros(8, np.int32)},
    "empty": {name: array[:0] for name, array in FINE.items()},
}
CONFIGS = {  # files that take the quickstart and change it
    "wrong_type": "config.unlock(); config.student.epochs = 'ten'",
    "half_epoch": "config.student = dict(config.student, epochs=1.5)",
    "true_epochs": "config.student = dict(config.student, epochs=True)",
    "misspelt": "config.student.learningrate = 0.1",
    "stray": "config.sead = 1",
    "no_student": "del config.student",
    "no_rate": "del config.teacher.learning_rate",
    "no_model": "del config.teacher.model",
    "no_head": "del config.head",
    "no_seed_value": "config.seed = None",
    "text_milestones": "config.head = dict(config.head, milestones='35')",
    "no_temperature": "del config.settings.kd.method.temperature",
    "other_number": "config.settings.kd.method.alpha = 1.0",
    "no_weight": "del config.settings.sskd.weights.ss",
    "other_weight": "config.settings.kd.weights.crd = 1.0",
    "raises": "1 / 0",
}

# What is typed, where {folder} holds the files made below, and what the line must say.
MISTAKES = [
    # the command
    ((), "give --config=configs/quickstart.py"),
    (("--config={folder}/nowhere.py",), "nowhere.py"),
    (("--config={folder}/empty.py",), "the config file has no function get_config"),
    (("--config={folder}/no_python.py",), "(no_python.py, line 1)"),
    (("--config={folder}/raises.py",), "raises.py, line 5: ZeroDivisionError: division by zero"),
    ((QUICK, "--workdir="), "--workdir= is empty: give a folder, or leave the flag out"),
    ((QUICK, "--wrkdir=x"), "Unknown command line flag 'wrkdir'. Did you mean: workdir"),
    ((QUICK, "stray"), "'stray' is not a flag"),
    ((QUICK + ":metod=kd",), "unknown config argument 'metod': did you mean 'method'"),
    ((CIFAR + ":method=ssdk",), "unknown method 'ssdk': did you mean 'sskd'"),
    (
        (CIFAR + ":method=crt",),
        "'crt' is one of configs/long_tail.py: take --config=configs/long_tail.py:method=crt",
    ),
    (
        (QUICK + ":method=kd,derpp",),
        "'derpp' is one of configs/continual.py: take --config=configs/continual.py:method=derpp",
    ),
    ((CIFAR + ":method",), "config argument 'method' has no value: write method=sskd"),
    ((CIFAR + ":teacher=resnet57",), "unknown architecture 'resnet57': did you mean 'resnet56'"),
    ((CIFAR + ":weights=iccv",), "did you mean 'eccv'"),
    # keys and types
    (
        (QUICK, "--epochs=2"),
        "unknown flag 'epochs': type --config.student.epochs=2 (or of teacher, head, branches",
    ),
    ((QUICK, "--teacher=resnet20"), "unknown flag 'teacher': type --config.teacher.model=resnet20"),
    (
        (CIFAR + ":teacher=vgg13", "--student=vgg8"),
        "unknown flag 'student': type --config=configs/cifar.py:teacher=vgg13,student=vgg8",
    ),
    (
        ("--config", "configs/quickstart.py", "--config.student.epoch=3"),
        "unknown config key 'student.epoch': type --config.student.epochs=3",
    ),
    (
        (QUICK, "--config.student.lr=0.1"),
        "unknown config key 'student.lr': type --config.student.learning_rate=0.1",
    ),
    (
        (QUICK, "--config.student.images.shar=1"),
        "unknown config key 'student.images.shar': type --config.student.images.share=1",
    ),
    (
        (QUICK, "--config.student.epochs=many"),
        "--config.student.epochs=many: give a whole number, such as 40",
    ),
    ((QUICK, "--config.student.epochs=1.5"), "--config.student.epochs=1.5: give a whole number"),
    ((QUICK, "--config.data.flip=3"), "--config.data.flip=3: give True or False"),
    ((QUICK, "--config.teacher=resnet20"), "teacher is a section, write --config.teacher.KEY="),
    (
        ("--config={folder}/wrong_type.py",),
        "wrong_type.py, line 5: TypeError: Could not override field 'epochs'",
    ),
    (("--config={folder}/half_epoch.py",), "student.epochs is 1.5: give a whole number from 1 on"),
    (
        ("--config={folder}/true_epochs.py",),
        "student.epochs is True: give a whole number from 1 on",
    ),
    (
        ("--config={folder}/misspelt.py",),
        "'student.learningrate': did you mean 'student.learning_rate'",
    ),
    (("--config={folder}/stray.py",), "unknown config key 'sead': did you mean 'seed'"),
    (("--config={folder}/no_student.py",), "the config lacks the section student"),
    (
        ("--config={folder}/no_rate.py",),
        "the config lacks teacher.learning_rate: give a number above 0",
    ),
    (
        ("--config={folder}/no_model.py",),
        "the config lacks teacher.model: give the name of an architecture",
    ),
    (("--config={folder}/no_head.py",), "the config lacks the section head"),
    (("--config={folder}/no_seed_value.py",), "seed is None: give a whole number"),
    (("--config={folder}/text_milestones.py",), "head.milestones is '35'"),
    (
        (CIFAR + ":method=ldam", "--config.student.epochs=60"),
        "method.deferred_epochs is 160, and student.epochs only 60: give --config.method."
        "deferred_epochs=40, which is scaled from 240 epochs, or more epochs",
    ),
    # numbers
    ((QUICK, "--config.student.epochs=0"), "student.epochs is 0: give a whole number from 1 on"),
    (
        (QUICK, "--config.student.batch_size=0"),
        "student.batch_size is 0: give a whole number from 2 on",
    ),
    (
        (QUICK, "--config.student.batch_size=12"),
        "do not divide student.batch_size=12: use --config.student.batch_size",
    ),
    (
        (QUICK, "--config.student.batch_size=4096"),
        "student.batch_size=4096 is more than the 136 images of an epoch",
    ),
    (
        (QUICK, "--config.teacher.learning_rate=-0.1"),
        "teacher.learning_rate is -0.1: give a number above 0",
    ),
    (
        (QUICK, "--config.head.momentum=1.0"),
        "head.momentum is 1.0: give a number from 0, but below 1",
    ),
    ((QUICK, "--config.head.weight_decay=-1.0"), "head.weight_decay is -1.0"),
    ((QUICK, "--config.student.milestones=(3,2)"), "student.milestones is (3, 2)"),
    ((QUICK, "--config.student.milestones=(-1,2)"), "student.milestones is (-1, 2)"),
    (
        (QUICK, "--config.student.images.share=1.5"),
        "student.images.share is 1.5: give a number above 0, 1 at most",
    ),
    (
        (QUICK, "--config.student.images.noise=1.0"),
        "student.images.noise is 1.0: give a number from 0, but below 1",
    ),
    (
        (QUICK, "--config.student.images.imbalance=0.5"),
        "student.images.imbalance is 0.5: give a number, 1 or more",
    ),
    (
        (QUICK, "--config.until=haed"),
        "unknown stage to end with 'haed': did you mean 'head'? choose from teacher, student, head",
    ),
    (
        (QUICK, "--config.data.validation=1.0"),
        "data.validation is 1.0: give a number from 0, but below 1",
    ),
    ((QUICK, "--config.data.validation=0.999"), "leaves a class without any: hold out fewer"),
    ((QUICK, "--config.data.pad=-1"), "data.pad is -1"),
    ((QUICK, "--config.data.mean=(0.5,0.5)"), "data.mean is (0.5, 0.5): give three numbers"),
    (
        (QUICK, "--config.data.std=(0.5,0.5,0.0)"),
        "data.std is (0.5, 0.5, 0.0): give three numbers above 0",
    ),
    ((QUICK, "--config.seed=-1"), "seed is -1: give a whole number from 0 on"),
    ((QUICK, "--config.time_limit=-1"), "time_limit is -1.0"),
    ((QUICK, "--config.dtype=bf16"), "unknown dtype 'bf16': did you mean 'bfloat16'"),
    # methods
    ((QUICK, "--config.methods=('kd','crdd')"), "unknown method 'crdd'"),
    (
        (QUICK, "--config.methods=kd,sskd"),
        """is 'kd,sskd': type --config.methods="('kd','sskd')\"""",
    ),
    (
        (QUICK, "--config.methods=('kd','my_code:near')"),
        "name a method of your own after another one, as in --config=configs/cifar.py:method=kd,",
    ),
    ((QUICK, "--config.methods=('kd','kd')"), "methods is ('kd', 'kd'): give different names"),
    ((QUICK, "--config.methods=()"), "methods is (): give different names"),
    (
        (QUICK, "--config.settings.sskd.method.ss_ratio=1.5"),
        "sskd.method.ss_ratio is 1.5: give a number from 0 to 1",
    ),
    (
        (QUICK, "--config.settings.kd.method.temperature=0"),
        "kd.method.temperature is 0.0: give a number above 0",
    ),
    ((QUICK, "--config.settings.kd.weights.ce=-0.1"), "settings.kd.weights.ce is -0.1"),
    ((QUICK, "--config.settings.kd.weights.kd=nan"), "settings.kd.weights.kd is nan"),
    (("--config={folder}/no_temperature.py",), "the config lacks settings.kd.method.temperature"),
    (("--config={folder}/other_number.py",), "unknown config key 'settings.kd.method.alpha'"),
    (("--config={folder}/no_weight.py",), "the config lacks settings.sskd.weights.ss"),
    (("--config={folder}/other_weight.py",), "unknown config key 'settings.kd.weights.crd'"),
    (
        (QUICK, "--config.methods=('fitnet',)", "--config.settings.fitnet.method.layer=9"),
        "fitnet's layer is 9, but",
    ),
    (
        (QUICK, "--config.methods=('at',)", "--config.student.model=vgg8"),
        "the student has 5 and the teacher 4: choose",
    ),
    # networks and their files
    (
        (QUICK, "--config.student.model=resnet57"),
        "unknown student architecture 'resnet57': did you mean 'resnet56'",
    ),
    (
        (QUICK, "--config.teacher.checkpoint={folder}/nowhere.pth"),
        "nowhere.pth cannot be read: No such file",
    ),
    (
        (QUICK, "--config.teacher.checkpoint=https://example.org/resnet20.pth"),
        "https://example.org/resnet20.pth cannot be read from there: download it and give its path",
    ),
    ((QUICK, "--config.teacher.checkpoint={folder}/empty.pth"), "empty.pth: the file is empty"),
    (
        (QUICK, "--config.teacher.checkpoint={folder}/truncated.pth"),
        "truncated.pth is not a whole PyTorch checkpoint",
    ),
    ((QUICK, "--config.teacher.checkpoint={folder}/text.pth"), "text.pth"),
    (
        (QUICK, "--config.teacher.checkpoint={folder}/resnet8.pth"),
        "use --config.teacher.model=resnet8",
    ),
    (
        (QUICK, "--config.teacher.checkpoint={folder}/exported.pth"),
        "exported.pth is a resnet8, as the .json beside it says, and the teacher is a resnet20: "
        "use --config.teacher.model=resnet8",
    ),
    (
        (QUICK, "--config.teacher.checkpoint={folder}/seven.pth", "--config.teacher.model=resnet8"),
        "seven.pth tells 7 classes apart, and the dataset has 10: give a teacher of this dataset",
    ),
    (
        (QUICK, "--config.teacher.checkpoint={folder}/evil.pth"),
        "evil.pth: the file asks for 'posix.system'",
    ),
    (
        (QUICK, "--config.teacher.checkpoint={folder}"),
        "holds no teacher: give a workdir of a run that trained one",
    ),
    (
        (QUICK, "--config.teacher.checkpoint={folder}/begun"),
        "is at step 0 of 10: finish that run first",
    ),
    ((QUICK, "--config.teacher.checkpoint={folder}/cut"), "stage.json is damaged"),
    (
        (QUICK, "--config.teacher.checkpoint={folder}/other"),
        "other was trained with teacher_model resnet56, and this run has resnet20: give the config",
    ),
    (
        (QUICK, "--config.teacher.checkpoint={folder}/runs/earlier/teacher"),
        "earlier/teacher was trained by another version of sskd_jax, whose checkpoints this one "
        "does not read: train it again in another --workdir",
    ),
    (
        (QUICK, "--config.head.checkpoint={folder}/seven.pth"),
        "seven.pth is no workdir: the stage head comes from a run of ours",
    ),
    (
        (QUICK, "--config.methods=('hsakd',)", "--config.branches.checkpoint={folder}/seven.pth"),
        "seven.pth: no branches in it: no name begins with 'auxiliary_classifier.'",
    ),
    (
        (QUICK, "--config.methods=('hssakd',)", "--config.student.checkpoint={folder}/seven.pth"),
        "seven.pth is no workdir: the stage student comes from a run of ours",
    ),
    (
        (
            QUICK,
            "--config.teacher.model=MobileNetV2",
            "--config.teacher.checkpoint={folder}/mobile.pth",
        ),
        "mobile.pth: the auxiliary_classifier in it tells that its stem has another stride than "
        "that of MobileNetV2: use --config.teacher.model=MobileNetV2s1",
    ),
    (
        (QUICK, "--config.methods=('hsakd',)", "--config.student.model=vgg8"),
        "the student has 4 and the teacher 3: choose networks with as many stages",
    ),
    (
        (QUICK, "--config.student.checkpoint={folder}"),
        "holds no student: give a workdir of a run that trained one",
    ),
    # what a stage starts from
    (
        (QUICK, "--config.student.start_from={folder}/nowhere.pth"),
        "nowhere.pth cannot be read: No such file",
    ),
    (
        (QUICK, "--config.teacher.start_from={folder}/seven.pth"),
        "these are weights of a resnet8: use --config.teacher.model=resnet8",
    ),
    (
        (QUICK, "--config.student.start_from={folder}/wide.safetensors"),
        "'layer1.0.conv1.weight' has shape [32, 16, 3, 3], not [16, 16, 3, 3]",
    ),
    (
        (QUICK, "--config.student.start_from={folder}"),
        "holds no student: give a workdir of a run that trained one",
    ),
    (
        (QUICK, "--config.student.start_from={folder}/begun"),
        "begun is at step 0 of 10: finish that run first",
    ),
    (
        (QUICK, "--config.head.start_from={folder}/seven.pth"),
        "seven.pth is no workdir: the stage head starts from a run of ours",
    ),
    (
        (QUICK, "--config.teacher.start_from=a.pth", "--config.teacher.checkpoint=a.pth"),
        "so teacher.start_from would have no effect: give one of them",
    ),
    (
        (QUICK, "--config.methods=('ab',)", "--config.student.start_from=a.pth"),
        "the student goes on from the stage warmup, so student.start_from would leave that without "
        "effect: give warmup.start_from, or warmup.checkpoint, too",
    ),
    (("--config=configs/extend.py",), "say which run to extend: --config=configs/extend.py:run="),
    (("--config=configs/extend.py:run={folder}",), "is no workdir of a run: "),
    (
        (QUICK, "--config.teacher.size=7"),
        "teacher.size is 7: give a whole number from 8 on, or 0 for the data's",
    ),
    (
        (QUICK, "--config.teacher.std=(0.5,0.5,0.0)"),
        "(0.5, 0.5, 0.0): give three numbers above 0, 1 at most, or () for the data's",
    ),
    # data
    ((QUICK, "--config.data.name=cifar101"), "unknown dataset 'cifar101'"),
    *(
        ((QUICK, f"--config.data.name={name}"), text)
        for name, text in {
            "grey": "images are uint8[9, 8, 8, 1] in place of square uint8[N, H, H, 3]",
            "oblong": "images are uint8[9, 8, 6, 3] in place of square",
            "floats": "images are float64[9, 8, 8, 3]",
            "eleventh": "labels run from 10 to 10, outside 0..9",
            "unlabelled": "labels run from -1 to -1",
            "short": "labels are int32[8] in place of int32[9]",
            "empty": "empty, train: there are no images",
        }.items()
    ),
    ((CIFAR, "--config.data.data_dir={folder}/nowhere"), "is neither prepared in"),
    (
        (CIFAR, "--config.data.data_dir={folder}/part", *SIZE),
        "is not whole (it lacks cifar100-test",
    ),
    ((CIFAR, "--config.data.data_dir={folder}/shard", *SIZE), "is not whole ("),
    ((CIFAR, "--config.data.data_dir={folder}/info", *SIZE), "is damaged ("),
    # images that are streamed
    ((IMAGENET + ":batch=many",), "config argument batch=many: give a whole number above 0"),
    ((IMAGENET, "--config.data.data_dir={folder}/nowhere"), "imagenet2012 is not in"),
    (
        (IMAGENET + ":dataset=nosuch", "--config.data.data_dir={folder}/nowhere"),
        "there is no dataset nosuch in",
    ),
    (
        (IMAGENET + ":dataset=food-101", "--config.data.data_dir={folder}/nowhere"),
        "there is no dataset 'food-101' (Parsing builder name string food-101 failed.): give a "
        "name such as food101, of small letters, digits and _",
    ),
    (
        (IMAGENET + ":dataset=my_code:stripes",),
        "the dataset 'my_code:stripes' is loaded into memory, and this config streams prepared "
        "images: take configs/cifar.py, or prepare a folder of images",
    ),
    ((IMAGENET, "--config.data.size=4"), "data.size is 4: give a whole number from 8 on"),
    (
        (IMAGENET, "--config.data.resize=200"),
        "test images are only resized to data.resize=200 before their centre is cut out: "
        "give --config.data.resize=224 or more",
    ),
    (
        (IMAGENET, "--config.data.scale=(0.5,0.1)"),
        "data.scale is (0.5, 0.1): give two numbers above 0, 1 at most, not",
    ),
    (
        (IMAGENET, "--config.data.ratio=(0.0,1.0)"),
        "data.ratio is (0.0, 1.0): give two numbers above 0, not falling",
    ),
    (
        (CIFAR + ":dataset=flowers", "--config.data.data_dir={folder}/flowers/data"),
        "the images of flowers are streamed as they were prepared: take --config=configs/imagenet",
    ),
    (
        (*FLOWERS, "--config.data.test_split=test"),
        "unknown test_split of flowers 'test': choose from train, valid",
    ),
    (
        (*FLOWERS, "--config.student.batch_size=64"),
        "student.batch_size=64 is more than the 24 images of an epoch",
    ),
    (
        (IMAGENET + ":dataset=flowers", "--config.data.data_dir={folder}/shorn"),
        "is not whole (it lacks flowers-train",
    ),
    (
        (
            IMAGENET + ":dataset=cifar100",
            "--config.data.data_dir={folder}/cifar",
            "--config.data.test_split=test",
        ),
        "the images of cifar100 are no JPEGs, which alone are streamed: take --config=configs/"
        "cifar.py:dataset=cifar100",
    ),
    # the workdir
    (
        (QUICK, "--config.seeds=1", "--workdir={folder}/runs/earlier"),
        "earlier/teacher was trained by another version of sskd_jax, whose checkpoints this one "
        "does not read: train it again in another --workdir, or go on with the git_revision that "
        "environments.json names",
    ),
    (
        (QUICK, "--config.seeds=1", "--workdir={folder}/runs/damaged"),
        "damaged/teacher/stage.json is damaged",
    ),
    (
        (QUICK, "--config.seeds=1", "--workdir={folder}/runs/[1]"),
        "[1] has a [ in it, with which no checkpoint can be read: give a path without * ? [",
    ),
    ((QUICK, "--workdir={folder}/text.pth"), "cannot write to --workdir="),
    ((QUICK, "--workdir={folder}/text.pth/run"), "cannot write to --workdir="),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The files that the mistakes name."""
    folder = tmp_path_factory.mktemp("mistakes")
    for name, change in CONFIGS.items():
        (folder / f"{name}.py").write_text(
            textwrap.dedent(f"""
            from configs import quickstart
            def get_config():
                config = quickstart.get_config()
                {change}
                return config
            """)
        )
    (folder / "empty.py").touch()
    (folder / "no_python.py").write_text("def get_config(:")
    whole, seven = (checkpoint("zip", weights("resnet8", classes)) for classes in (10, 7))
    mobile = weights("MobileNetV2", 10)
    mobile = {f"backbone.{name}": array for name, array in mobile.items()}
    mobile["auxiliary_classifier.fc1.bias"] = np.zeros(40, np.float32)
    evil = pickled(Call(Global("posix", "system"), (f"touch {folder}/ran",)))
    for name, content in {
        "empty": b"",
        "truncated": whole[:9000],
        "text": b"no checkpoint",
        "resnet8": whole,
        "exported": whole,
        "seven": seven,
        "mobile": checkpoint("zip", mobile),
        "evil": evil,
    }.items():
        (folder / f"{name}.pth").write_bytes(content)
    record = {"model": "resnet8", "mean": [0.31] * 3, "std": [0.38] * 3, "image": [8, 8, 3]}
    record |= {"resize": 8, "classes": []}
    (folder / "exported.pth.json").write_text(json.dumps(record))
    wide = weights("resnet8", 10)
    wide["layer1.0.conv1.weight"] = np.zeros((32, 16, 3, 3), np.float32)
    save_file(wide, folder / "wide.safetensors")
    resnet20 = {"num_classes": 10, "steps": 10, "terms": ["ce"], "teacher_model": "resnet20"}
    for name, about in {
        "begun": json.dumps({"format": FORMAT} | resnet20),
        "other": json.dumps({"format": FORMAT} | resnet20 | {"teacher_model": "resnet56"}),
        "cut": '{"model"',
        "runs/damaged/teacher": '{"model"',
        "runs/earlier/teacher": '{"model": "resnet20", "num_classes": 10, "steps": 10}',
    }.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "stage.json").write_text(about)
    damaged_datasets(folder)
    return folder


def damaged_datasets(folder: Path) -> None:
    """A tiny CIFAR-100 as tfds keeps it, of which a file is missing, cut short or no JSON."""
    whole = str(folder / "part")
    prepare.prepare_cifar("cifar100", cifar100(folder), whole, prepare.FORMATS[0])
    shutil.copytree(dataset(folder / "flowers"), folder / "shorn")
    next(folder.glob("shorn/**/flowers-train*")).unlink()
    for name in ("shard", "info", "cifar"):
        shutil.copytree(folder / "part", folder / name)
    next(folder.glob("part/**/cifar100-test.array_record*")).unlink()
    for pattern in ("shard/**/cifar100-train.array_record*", "info/**/dataset_info.json"):
        path = next(folder.glob(pattern))
        path.write_bytes(path.read_bytes()[:100])


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Runs the command in this process, which has loaded its libraries.

    It returns (exit code, stdout, stderr).
    """
    for name, arrays in DATASETS.items():
        data = sources.Dataset(sources.Split(**arrays), sources.Split(**FINE), 10)
        monkeypatch.setitem(sources.LOADERS, name, lambda _, data=data: data)
    monkeypatch.setattr("sskd_jax.data.cifar._reachable", lambda: False)
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of config files, beside them

    def run(*typed: str) -> tuple[int, str, str]:
        for name in [name for name in flags.FLAGS if name.startswith("config.")]:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
        argv = ["main", f"--workdir={tmp_path / 'run'}", *typed]
        monkeypatch.setattr(
            sys, "argv", argv
        )  # where config_flags looks for what overrides the config
        with pytest.raises(SystemExit) as end:
            main.main(main.parse(argv))
        return end.value.code, *capsys.readouterr()

    yield run
    flags.FLAGS["config"].unparse()
    flags.FLAGS["workdir"].unparse()


@pytest.mark.parametrize(
    ("typed", "text"), MISTAKES, ids=[" ".join(typed) for typed, _ in MISTAKES]
)
def test_one_line_says_what_is_wrong(typed, text, folder, command, tmp_path):
    before = sorted(folder.rglob("*"))
    code, out, err = command(*(flag.format(folder=folder) for flag in typed))
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    assert text in err
    assert not list((tmp_path / "run").rglob("stage.json"))  # nothing was trained
    assert sorted(folder.rglob("*")) == before


def test_the_page_shows_these_lines():
    """docs/faults.md, whose table names the folder DIR and a few flags in short."""
    page = Path(__file__).resolve().parents[1] / "docs" / "faults.md"
    _, table = page.read_text().split("## Mistakes")
    shown = re.findall(r"^\| `(.*?)` \| (.*) \|$", table, re.MULTILINE)
    short = {"QUICK": QUICK, "CIFAR": CIFAR, "IMAGENET": IMAGENET, "FLOWERS": " ".join(FLOWERS)}
    told = {tuple(argv): text for argv, text in MISTAKES}
    assert len(shown) > 100
    for typed, line in shown:
        name = re.match("[A-Z]*", typed)[0]
        command = (short.get(name, "") + typed.removeprefix(name)).replace("DIR", "{folder}")
        argv = tuple(command.replace("\\|", "|").split()) if typed != "(nothing)" else ()
        text = told.get(argv) or told[(*argv, *SIZE)]
        assert text.replace("{folder}", "DIR") in html.unescape(line), typed
