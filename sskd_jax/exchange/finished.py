"""The trained networks in a workdir: which there are, what is known of them, and their weights."""

import sys
from typing import Any, NamedTuple

from etils import epath
from flax.traverse_util import flatten_dict

from sskd_jax.engine.devices import all_devices
from sskd_jax.exchange.torch_bridge import model_of, template
from sskd_jax.rules import MEAN, STD, TEXT, Rule, is_sequence, is_whole, whole
from sskd_jax.types import Params, UserError, choose
from sskd_jax.workdir.checkpoint import read_step
from sskd_jax.workdir.environment import changed_code, own_code
from sskd_jax.workdir.files import (
    CONFIG,
    ENVIRONMENTS,
    METRICS,
    RESULTS,
    TIMES,
    Row,
    existing_rows,
    read_json,
)
from sskd_jax.workdir.seeds import check_run
from sskd_jax.workdir.stages import description, kind_of, load_folder, nets_in, stage_folders

IMAGE = Rule(
    lambda value: is_sequence(value) and len(value) == 3 and all(map(is_whole, value)),
    "three whole numbers, [height, width, 3]",
    least=3,
)
NAMES = Rule(
    lambda value: is_sequence(value) and all(isinstance(name, str) for name in value),
    "a list of names",
)
RECORD = {  # what a network's record may say
    "model": TEXT,
    "mean": MEAN,
    "std": STD,
    "image": IMAGE,
    "resize": whole(1),
    "classes": NAMES,
}


class Network(NamedTuple):
    """A network in a workdir: a net of the stage that trained it."""

    stage: str
    net: str

    @property
    def name(self) -> str:
        """That of its stage, such as "sskd/student"; "hssakd/peer" for a peer beside it."""
        return self.stage.removesuffix(kind_of(self.stage)) + self.net


def networks_in(workdir: epath.Path) -> dict[str, Network]:
    """The networks in a workdir by name: those of its stages, and others that learned in them.

    Raises:
      UserError: a stage is of another version of this program.
    """
    own, beside = [], []
    for folder in stage_folders(workdir):
        stage, about = str(folder.relative_to(workdir)), description(folder)
        kind = kind_of(stage)
        model = about.get(f"{kind}_model", "")
        if model and model == model_of(model):  # the branches of a network are none
            own.append(Network(stage, kind))
            beside += [Network(stage, net) for net in about.get("normalisation", {})]
    found = {network.name: network for network in (*beside, *own)}
    return dict(sorted(found.items()))


def find_network(workdir: epath.Path, name: str | None) -> Network:
    """The network in a workdir that is called "sskd/student", "teacher", ...

    Args:
      workdir: of the run.
      name: the wanted one; None: the only student. A network that was made of one, such as cRT's,
        is a student, too.

    Raises:
      UserError: there is no such network, or there are several students to choose from.
    """
    check_run(workdir)
    found = networks_in(workdir)
    students = [name for name, network in found.items() if is_student(workdir, network)]
    if name is None and not students:
        raise UserError(f"{workdir} holds no student: give the workdir of a run that trained one")
    if name is None and len(students) > 1:
        raise UserError(
            f"{workdir} holds several students: choose one with --stage={'|'.join(students)}"
        )
    return choose(found, students[0] if name is None else name, "stage")


def is_student(workdir: epath.Path, network: Network) -> bool:
    """Whether a network is a student, or was made of one."""
    made = description(workdir / network.stage).get("made", [])
    return network.net in ("student", *made)


def describe(workdir: epath.Path, network: Network, best: bool = False) -> dict[str, Any]:
    """A record of a network: how it expects images, and which accuracy it reached.

    It is the network after the last epoch, or after the best one of its stage.
    """
    about = description(workdir / network.stage)
    data = read_json(workdir / CONFIG)["data"]
    result = result_row(workdir, network)
    own = about.get("normalisation", {}).get(network.net, data)
    image = own.get("image", about["image"])
    resize = data.get("resize", about["image"][0]) * image[0] / about["image"][0]
    return {
        "model": about[f"{network.net}_model"],
        "num_classes": about["num_classes"],
        "classes": about.get("classes", []),
        "image": image,
        "resize": round(resize),
        "preprocessing": "shorter side to `resize` (bilinear, antialiased), centre cut to `image`; "
        "then image / 255, minus mean, over std, by channel (RGB)",
        "mean": own["mean"],
        "std": own["std"],
        "data": data["name"],
        "stage": network.name,
        "steps": best_step(workdir, network) if best else about["steps"],
        "epoch": "best" if best else "last",
        "accuracy": {name: result.get("best_" * best + name) for name in ("top1", "top5")},
    }


def record_beside(file: epath.Path) -> epath.Path:
    """FILE.json, where `export` writes what `describe` says of the network in a file."""
    return file.with_name(f"{file.name}.json")


def record_of(file: epath.Path) -> dict[str, Any]:
    """The content of FILE.json; empty if there is none.

    Raises:
      UserError: it can't be read, or an entry is none that `describe` writes.
    """
    path = record_beside(file)
    record = read_json(path) if path.exists() else {}
    for key in record.keys() & RECORD:
        if advice := RECORD[key].advice(record[key]):
            told = f"{str(record[key])[:40]} as its {key!r}"
            raise UserError(f"{path} has {told}: give {advice}, or export the network again")
    return record


def best_step(workdir: epath.Path, network: Network) -> int:
    """The step at the end of the best epoch of a network's stage.

    Raises:
      UserError: the results name no best epoch.
    """
    epoch = result_row(workdir, network).get("best_epoch")
    steps = {
        row["epoch"]: row["step"]
        for row in existing_rows(workdir / METRICS)
        if row["stage"] == network.stage
    }
    if epoch not in steps:
        raise UserError(
            f"the results of {workdir} name no best epoch of {network.name}: finish that run "
            "first, or leave --best out"
        )
    return steps[epoch]


def load_network(workdir: epath.Path, network: Network) -> Params:
    """{"params", "batch_stats"} of a network after the last epoch of its stage.

    If code of the user's, which the config names, has changed since, stderr says so.

    Raises:
      UserError: it has changed so much that it makes a network with other arrays, or JAX can't use
        the devices.
    """
    tell_changed_code(workdir, network)
    all_devices()  # or else their error would seem to be a damaged checkpoint's
    record = describe(workdir, network)
    variables = load_folder(workdir / network.stage)[network.net]
    model, side = record["model"], record["image"][0]
    if ":" in model and shapes(variables) != shapes(template(model, record["num_classes"], side)):
        raise UserError(
            f"{network.name} in {workdir} has other arrays than {model} makes now: put back the "
            "code that it was trained with"
        )
    return variables


def load_best(workdir: epath.Path, network: Network) -> Params:
    """{"params", "batch_stats"} of a network after the best epoch of its stage."""
    stored = read_step(workdir / network.stage, best_step(workdir, network))
    return nets_in(stored)[network.net]


def tell_changed_code(workdir: epath.Path, network: Network) -> None:
    """Says on stderr which code of the user's has changed since a network was trained."""
    here = {"own_code": own_code(read_json(workdir / CONFIG))}
    for before in environments(workdir, network.stage)[-1:]:
        for module in changed_code(before, here):
            print(
                f"code  {module} changed since {network.name} was trained: it may be another "
                "network now",
                file=sys.stderr,
            )


def shapes(variables: Params) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {path: leaf.shape for path, leaf in flatten_dict(variables).items()}


def environments(workdir: epath.Path, stage: str) -> list[Row]:
    """The environments in which a stage was trained, as far as they are known, the newest last."""
    rows = [row for row in existing_rows(workdir / TIMES) if row["stage"] == stage]
    newest_first = dict.fromkeys(row["environment"] for row in reversed(rows))
    file = workdir / ENVIRONMENTS
    known = read_json(file) if file.exists() else []
    # Those of a file that was deleted, as is advised if it is damaged, are not known any more.
    return [known[place] for place in reversed(newest_first) if place < len(known)]


def result_row(workdir: epath.Path, network: Network) -> dict[str, Any]:
    """The row of a network in results.json; empty if the run has not got that far."""
    results = workdir / RESULTS
    if not results.exists():
        return {}
    for row in read_json(results):
        if network == (row["stage"], row.get("net", kind_of(row["stage"]))):
            return row
    return {}
