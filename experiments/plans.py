"""The tables to fill, as data: what is trained for every cell, and which claims they test.

Tables 1 to 5 are those of Xu et al., ECCV 2020. Where the paper does not say how its networks were
trained, a table's `protocol` says how they are trained here. The small tables test the paper's
claims in hours of a CPU: a quarter of CIFAR-100's training images, 15 epochs in one cycle,
resnet20 -> resnet8.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from configs import named
from configs.paper import CIFAR100, IMAGENET, OTHERS
from configs.paper import TABLES as CIFAR_PAIRS
from sskd_jax.types import choose

Changes = Mapping[str, Any]


class Cell(NamedTuple):
    """What is trained for one cell of a table, once per seed.

    Attributes:
      row, column: of the cell in its table.
      config: the value of --config=.
      changes: the changed values, by config key, such as {"student.images.share": 0.5}.
      paper: the published accuracy in per cent, of the best epoch.
    """

    row: str
    column: str
    config: str
    changes: Changes = {}
    paper: float | None = None


class Claim(NamedTuple):
    """The claim that the column `better` is above the column `worse`, in a row or in all rows.

    If `than` is given, the claim is that the lead in `row` is larger than the lead in row `than`.
    """

    text: str
    better: str
    worse: str
    row: str = ""
    than: str = ""


class Table(NamedTuple):
    """A table.

    Attributes:
      title: with its number in the paper, if it has one.
      protocol: how its networks are trained, beyond what every row of the results says.
      cells: row by row.
      yardstick: the column that others are compared with if no number is published.
      claims: that the table tests.
      seeds: with which every cell is trained.
      axis: what the rows' numbers are, such as "share of the images"; "" if the rows are names.
      scores: names of those shown beside top-1 accuracy; see `tables.measured`.
    """

    title: str
    protocol: str
    cells: tuple[Cell, ...]
    yardstick: str = "kd"
    claims: tuple[Claim, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    axis: str = ""
    scores: tuple[str, ...] = ()


COMPARED = ("scratch", "kd", *(f"{name}+kd" for name in OTHERS), "sskd")
ABOVE = (
    Claim("KD is above training from scratch", "kd", "scratch"),
    Claim("SSKD is above KD", "sskd", "kd"),
)
ABOVE_CRD = Claim("SSKD is above CRD with KD", "sskd", "crd+kd")
FULL = (
    "CIFAR-100, the released recipe: 240 epochs, head 60; compared methods with KD. The published "
    "numbers of KD are of the last epoch, with other teachers."
)


def pair_cells(pairs: Iterable[tuple[str, str]]) -> tuple[Cell, ...]:
    """All methods of the paper on pairs of teacher and student, with the full schedule."""
    return tuple(
        Cell(
            f"{teacher} -> {student}",
            method,
            f"configs/cifar.py:method={method},teacher={teacher},student={student}",
            paper=CIFAR100.pairs[teacher, student].get(method, CIFAR100.networks[student]),
        )
        for teacher, student in pairs
        for method in COMPARED
    )


def imagenet_cells() -> tuple[Cell, ...]:
    teacher, student = "resnet34", "resnet18"
    published = IMAGENET.pairs[teacher, student] | {"scratch": IMAGENET.networks[student]}
    return tuple(
        Cell(
            f"{teacher} -> {student}",
            method,
            f"configs/imagenet.py:method={method}",
            {"teacher.checkpoint": "resnet34.pth"},
            published[method],
        )
        for method in ("scratch", "kd", "at", "crd", "sskd")
    )


def kept_cells() -> tuple[Cell, ...]:
    """Table 1: SSKD with several shares of the rows kept in which the teacher or its head errs."""
    config = "configs/cifar.py:method=sskd,teacher=vgg13,student=vgg8"
    return tuple(
        Cell(key, f"{100 * share:g} %", config, {f"method.{key}": share})
        for key in ("ss_ratio", "tf_ratio")
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    )


def task_cells() -> tuple[Cell, ...]:
    """Table 2: a cell per task that the head learns; with the contrastive task, it is SSKD."""
    pair = "teacher=vgg13,student=vgg8"
    row, contrastive = "vgg13 -> vgg8", f"configs/cifar.py:method=sskd,{pair}"
    published = {"exemplar": 74.57, "jigsaw": 74.85, "rotation": 75.01}
    return (
        *(
            Cell(row, task, f"configs/cifar.py:method=pretext,{pair}", {"method.task": task}, paper)
            for task, paper in published.items()
        ),
        Cell(row, "contrastive", contrastive, paper=75.48),
        Cell(row, "contrastive, four", contrastive, {"method.transformation": "four"}),
    )


def quarter(
    row: str,
    column: str,
    method: str = "",
    changes: Mapping[str, Any] = {},
    student: str = "resnet8",
    epochs: int = 15,
) -> Cell:
    """A cell of the small tables; if no method is given, it is the one that the column names."""
    method = method or column
    common: dict[str, Any] = {
        "teacher.checkpoint": "cifar100_resnet20.pth",
        "data.mean": (0.5070, 0.4865, 0.4409),  # what this teacher was trained with
        "data.std": (0.2673, 0.2564, 0.2761),
        "student.images.share": 0.25,
    }
    for stage in named.entry_of(method).stages(student):
        common |= {f"{stage}.epochs": 3, f"{stage}.images.share": 0.5, f"{stage}.milestones": ()}
    names = f"method={method},teacher=resnet20,student={student}"
    config = f"configs/cifar_fast.py:epochs={epochs},batch=64,{names}"
    return Cell(row, column, config, {**common, **changes})


def digit_cells(*names: str) -> tuple[Cell, ...]:
    """A cell per method, for the quickstart's student."""
    config = "configs/quickstart.py"
    return tuple(Cell(SMALL, name, config, {"methods": (name,), "seeds": 1}) for name in names)


SMALL = "resnet20 -> resnet8"
FAMILY = ("kd", "ka", "dtd", "ka_dtd", "sskd", "hsakd")
JOINT_TEACHER = {
    "teacher.checkpoint": "",
    "teacher.epochs": 4,
    "teacher.milestones": (),
    "teacher.warmup_epochs": 0.8,
    "teacher.cooldown_epochs": 3.2,
}
FEW = {"25 %": 0.25, "50 %": 0.5, "100 %": 1.0}
NOISE = {"0 %": 0.0, "30 %": 0.3, "50 %": 0.5}
WITHOUT = ("ce", "kd", "tf", "ss")

TABLES = {
    "kept": Table(
        "Table 1: SSKD with a share of the wrong rows kept",
        "CIFAR-100, vgg13 -> vgg8, the released recipe; the paper does not say its pair.",
        kept_cells(),
        yardstick="75 %",
    ),
    "tasks": Table(
        "Table 2: the auxiliary task",
        "CIFAR-100, vgg13 -> vgg8, the released recipe. The heads of the first three tasks are one "
        "linear layer, and no row is left out, which the paper does not say. Four: any of the "
        "paper's four transformations in place of rotations; how strong they are is not known.",
        task_cells(),
        yardstick="contrastive",
        claims=tuple(
            Claim(f"the contrastive task is above {task}", "contrastive", task)
            for task in ("exemplar", "jigsaw", "rotation")
        ),
    ),
    "similar": Table(
        "Table 3: teacher and student of one architecture",
        FULL,
        pair_cells(CIFAR_PAIRS[:5]),
        claims=(*ABOVE, ABOVE_CRD),
    ),
    "cross": Table(
        "Table 4: teacher and student of different architectures",
        FULL,
        pair_cells(CIFAR_PAIRS[5:]),
        claims=(*ABOVE, ABOVE_CRD),
    ),
    "imagenet": Table(
        "Table 5: ImageNet",
        "PyTorch's ImageNet example, 90 epochs; head 24 epochs, which the paper does not say. Of "
        "the published numbers, KD's is another program's, after 100 epochs.",
        imagenet_cells(),
        claims=(*ABOVE, Claim("SSKD is above CRD", "sskd", "crd")),
        seeds=(0,),
    ),
    "quarter": Table(
        "A quarter of the images, 15 epochs",
        "CIFAR-100, 25 % of the training images, 15 epochs in one cycle; SSKD's head 3 epochs on "
        "half of the images; a given teacher with 68.83 %.",
        tuple(
            quarter(SMALL, method)
            for method in ("scratch", "kd", "at", "sp", "crd+kd", "dkd", "dist", "sskd")
        ),
        claims=(*ABOVE, ABOVE_CRD),
    ),
    "few": Table(
        "Few labels (figure 4a, small)",
        "As the quarter, with 25, 50 and 100 % of the training images for the student; the teacher "
        "has seen all.",
        tuple(
            quarter(row, method, changes={"student.images.share": share})
            for row, share in FEW.items()
            for method in ("scratch", "kd", "sskd")
        ),
        claims=(
            Claim("SSKD leads KD by more with few labels", "sskd", "kd", "25 %", "100 %"),
            Claim("SSKD leads scratch by more with few labels", "sskd", "scratch", "25 %", "100 %"),
        ),
        axis="share of the training images",
    ),
    "noise": Table(
        "Wrong labels (figure 4b, small)",
        "As the quarter, with 30 and 50 % of the student's labels replaced by other classes; the "
        "teacher was trained on clean ones, which the paper does not say.",
        tuple(
            quarter(row, method, changes={"student.images.noise": noise})
            for row, noise in NOISE.items()
            for method in ("kd", "sskd")
        ),
        claims=(Claim("SSKD leads KD by more with wrong labels", "sskd", "kd", "50 %", "0 %"),),
        axis="share of the labels that are wrong",
    ),
    "ablation": Table(
        "SSKD without one of its terms (figure 3b, small)",
        "As the quarter, with the weight of a term at 0. Without ss, it is KD with the four "
        "rotations as augmentation.",
        (
            quarter(SMALL, "sskd"),
            *(
                quarter(SMALL, f"without {term}", "sskd", {f"weights.{term}": 0.0})
                for term in WITHOUT
            ),
        ),
        yardstick="sskd",
        claims=(Claim("the term tf adds to the others", "sskd", "without tf"),),
    ),
    "compute": Table(
        "Equal compute",
        "As the quarter; SSKD sees four views of every image, so KD stands beside it with four "
        "times the epochs, and with the four rotations as augmentation (SSKD without ss; 22.6 of "
        "its Tflop are for a head that it does not use).",
        (
            quarter(SMALL, "kd"),
            quarter(SMALL, "kd, 60 epochs", "kd", epochs=60),
            quarter(SMALL, "kd, four rotations", "sskd", {"weights.ss": 0.0}),
            quarter(SMALL, "sskd"),
        ),
        claims=(
            Claim("SSKD is above KD of four times the epochs", "sskd", "kd, 60 epochs"),
            Claim("SSKD is above KD of four rotations", "sskd", "kd, four rotations"),
        ),
    ),
    "crossed": Table(
        "Across architectures, small",
        "As the quarter, with MobileNetV2 as the student.",
        tuple(
            quarter("resnet20 -> MobileNetV2", method, student="MobileNetV2")
            for method in ("scratch", "kd", "sskd")
        ),
        claims=ABOVE,
    ),
    "digits": Table(
        "Digits",
        "scikit-learn's digits, a tenth of the training images, 40 epochs.",
        digit_cells("scratch", "kd", "sskd"),
        claims=ABOVE,
    ),
    "family": Table(
        "Digits: SSKD beside what came of it, and beside better supervision",
        "As the digits. KD and SSKD are of other runs than the rest, with teachers of their own.",
        digit_cells(*FAMILY, "hsakd_joint", "hssakd"),
    ),
    "family_quarter": Table(
        "A quarter of the images: the same",
        "As the quarter; HSAKD's branches learn as SSKD's head does, and its joint teacher on all "
        "images, for 4 epochs in one cycle. HSSAKD's two networks see the quarter alone. KA and "
        "DTD have temperature 8, so KD stands beside them with that, too.",
        (
            *(quarter(SMALL, method) for method in FAMILY),
            quarter(SMALL, "hsakd_joint", changes=JOINT_TEACHER),
            quarter(SMALL, "hssakd"),
            quarter(SMALL, "kd, temperature 8", "kd", {"method.temperature": 8.0}),
        ),
        claims=(Claim("HSAKD is above SSKD", "hsakd", "sskd"),),
    ),
}


LONG_TAIL = "CIFAR-100-LT, imbalance 100"
STREAM = "Seq-CIFAR-10, 5 x 2 classes, buffer 200"


def long_tail() -> Table:
    """The table of SSD-LT and the methods beside it; a run takes minutes on one core."""
    config = "configs/long_tail.py:student=resnet8,epochs=15,method="
    own = {  # of the stages that only some methods have
        "crt": {"classifier.epochs": 3},
        "ssd_lt": {"scales.epochs": 3, "settings.ssd_lt.method.key_momentum": 0.99},
    }
    methods = ("ce", "balanced_softmax", "ldam", "crt", "ssd_lt")
    others = {"ce": "cross-entropy", "balanced_softmax": "balanced softmax", "ldam": "LDAM-DRW"}
    return Table(
        "Long tails: CIFAR-100-LT, small",
        "configs/long_tail.py with resnet8 and 15 epochs, the rate falling along half a cosine, "
        "for every network of every method: SSD-LT trains two, one after the other. Classifiers "
        "and scales learn for 3 epochs. Epochs and curves are those of the last stage alone. "
        "SSD-LT's moving average has momentum 0.99 in place of 0.999, which is too slow for so "
        "few steps. Every seed draws its own long tail.",
        tuple(Cell(LONG_TAIL, name, config + name, own.get(name, {})) for name in methods),
        yardstick="ce",
        claims=(
            *(Claim(f"SSD-LT is above {text}", "ssd_lt", name) for name, text in others.items()),
            Claim("SSD-LT is above cRT", "ssd_lt", "crt"),
        ),
        scores=("many", "medium", "few", "ece", "hard_top1", "hard_few", "hard_ece"),
    )


def continual() -> Table:
    """The table of CoCa and the methods beside it; a run takes minutes on one core."""
    config = "configs/continual.py:student=ResNet18w16,epochs=1,method="
    cells = (Cell(STREAM, name, config + name) for name in ("finetune", "er", "derpp", "coca"))
    without = {"settings.coca.weights.rot": 0.0}
    return Table(
        "Streams of tasks: Seq-CIFAR-10, buffer 200, small",
        "configs/continual.py with ResNet18 at a quarter of its width and one epoch per task for "
        "all methods, where 50 are usual; batches, rates and weights as released. After the last "
        "task; top-1 is among all classes (class-IL).",
        (*cells, Cell(STREAM, "coca without rot", f"{config}coca", without)),
        yardstick="derpp",
        claims=(
            Claim("DER++ is above ER", "derpp", "er"),
            Claim("CoCa is above DER++", "coca", "derpp"),
            Claim("the rotation head adds to CoCa", "coca", "coca without rot"),
        ),
        scores=(
            "task_il",
            "class_il forgetting",
            "class_il backward",
            "task_il forgetting",
            "task_il forward",
        ),
    )


TABLES |= {"long_tail": long_tail(), "continual": continual()}


def table(name: str) -> Table:
    """The table of this name; raises a `UserError` if there is none."""
    return choose(TABLES, name, "table")
