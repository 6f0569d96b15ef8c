"""The model card of an exported network: a README.md in the format of the Hugging Face hub.

It contains only what the records of the run say.
"""

from collections.abc import Mapping
from typing import Any

import yaml
from etils import epath

import sskd_jax
from sskd_jax.exchange.finished import Network, environments, result_row
from sskd_jax.system.paths import write_bytes
from sskd_jax.workdir.files import CONFIG, STAGE, read_json
from sskd_jax.workdir.stages import kind_of

MARK = "<!-- written by sskd_jax export -->"  # distinguishes our card from any other README.md
HUB = {  # names of datasets on the hub
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "imagenet2012": "ILSVRC/imagenet-1k",
}
FEW = 20  # the most classes whose names are listed in one line

CARD = """\
---
{head}---
{mark}

# {title}

| | |
|---|---|
{rows}

This is what the records of the run say; on other images the network was not measured. The licence
above is that of the software: whoever publishes the weights decides on theirs.

## {file}

`{file}.json` has the names of the classes and the preprocessing.
"""

# How a file is read, by the suffix of its name.
USE = {
    "pth": """import torch

state_dict = torch.load("{file}")  # for the network of that name in the reference's code""",
    "safetensors": """from safetensors.numpy import load_file

state_dict = load_file("{file}")  # PyTorch's names and shapes""",
    "stablehlo": """import jax

program = jax.export.deserialize(bytearray(open("{file}", "rb").read()))
logits = program.call(images)  # uint8 [N, {shape}], not normalised; JAX reads it for six months""",
    "onnx": """import onnxruntime

session = onnxruntime.InferenceSession("{file}")
(logits,) = session.run(None, {{"image": images}})  # uint8 [N, {shape}], not normalised""",
}


def facts(workdir: epath.Path, network: Network) -> dict[str, Any]:
    """What the records of a run say about a network: config, results, environments."""
    config, stage = read_json(workdir / CONFIG), network.stage
    kind = kind_of(stage)
    # A method that trains a teacher of its own has it beside its student.
    own_or_shared = Network(stage, "teacher").name, "teacher"
    teachers = [result_row(workdir, Network(name, "teacher")) for name in own_or_shared]
    about = read_json(workdir / stage / STAGE)
    model = about.get("teacher_model") if kind != "teacher" else None
    teacher = next((row for row in teachers if row.get("network") == model), {})
    result, folder = result_row(workdir, network), stage.rpartition("/")[0]
    method = result.get("method", "")
    setting = config.get("settings", {}).get(folder, config) if kind == "student" else {}
    return {
        "result": result,
        # Several names of a comparison, such as at+kd and at, may be one method.
        "method": method if ":" in method else folder or method,
        "weights": setting.get("weights", {}),
        "teacher": model,
        "teacher_result": teacher,  # of the stage `teacher`, if the teacher is of its architecture
        "training": config.get(kind, {}),
        "seed": config.get("seed"),
        "validation": config["data"].get("validation", 0),
        "environments": environments(workdir, stage),
    }


def write(file: epath.Path, record: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """Writes README.md next to an exported file, and returns a message about it for the user.

    A README.md that `export` did not write is left as it is.
    """
    path = file.with_name("README.md")
    if path.exists() and MARK.encode() not in path.read_bytes():
        return f"{path} is not of ours and stays: no model card is written"
    write_bytes(path, card(file, record, known).encode())
    return f"{path.name} is its model card"


def card(file: epath.Path, record: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """The text of README.md: the hub's metadata, a table of facts, and how to use the file."""
    head = yaml.safe_dump(front_matter(record, known), sort_keys=False, allow_unicode=True)
    rows = "\n".join(f"| {name} | {text} |" for name, text in table(record, known).items() if text)
    kind = file.suffix.removeprefix(".")
    shape = ", ".join(map(str, record["image"]))
    code = USE.get(kind, "").format(file=file.name, shape=shape)
    values = {"head": head, "title": title(record, known), "rows": rows, "file": file.name}
    return CARD.format(**values, mark=MARK) + (f"\n```python\n{code}\n```\n" if code else "")


def title(record: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    method = known["method"]
    return record["model"] + (f" ({method})" if method else "") + f" on {record['data']}"


def front_matter(record: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata at the top of a card (YAML), by the hub's names."""
    dataset = HUB.get(record["data"], record["data"])
    tags = ["knowledge-distillation", known["method"]] if known["teacher"] else []
    top1, top5 = (record["accuracy"][name] for name in ("top1", "top5"))
    metrics = [
        {"type": kind, "name": f"{name}, {record['epoch']} epoch, %", "value": percent(value)}
        for kind, name, value in (("accuracy", "top-1", top1), ("accuracy", "top-5", top5))
        if value is not None
    ]
    task = {"type": "image-classification"}
    of = {"name": record["data"], "type": dataset, "split": "test"}
    result = {"task": task, "dataset": of, "metrics": metrics}
    matter = {
        "license": "apache-2.0",
        "library_name": "sskd_jax",
        "pipeline_tag": "image-classification",
        "tags": ["jax", *filter(None, tags)],
        "datasets": [dataset] if record["data"] in HUB else [],
        "metrics": ["accuracy"],
        "model-index": [{"name": title(record, known), "results": [result]}] if metrics else [],
    }
    return {key: value for key, value in matter.items() if value}


def table(record: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, str]:
    """The rows of a card's table by their names; `card` leaves out those without a text."""
    result, training = known["result"], known["training"]
    settings = {key: value for key, value in training.items() if is_setting(key, value)}
    height, width, _ = record["image"]
    names = record["classes"]
    listed = f": {', '.join(names)}" if 0 < len(names) <= FEW else ""
    best = result.get("best_top1")
    chosen = "held-out training images" if known["validation"] else "the test images themselves"
    size = f", {result['parameters']:,} parameters" if "parameters" in result else ""
    return {
        "network": record["model"] + size,
        "weights": f"after the {record['epoch']} epoch",
        "top-1, last epoch": shown(result.get("top1")),
        "top-5, last epoch": shown(result.get("top5")),
        "top-1, best epoch": ""
        if best is None
        else f"{shown(best)}, epoch {result['best_epoch']}, chosen on {chosen}",
        "measured on": f"the test images of {record['data']}",
        "method": known["method"],
        "terms": ", ".join(f"{weight:g} {term}" for term, weight in known["weights"].items()),
        "teacher": teacher(known),
        "training": ", ".join(f"{key} {value}" for key, value in settings.items()),
        "images of it": ", ".join(f"{k} {v}" for k, v in training.get("images", {}).items()),
        "seed": str(known["seed"]),
        "classes": f"{record['num_classes']}{listed}",
        "image": f"{width}x{height} pixels; mean {record['mean']}, std {record['std']}",
        "trained with": "; ".join(map(place, known["environments"])),
        "exported by": f"sskd_jax {sskd_jax.__version__}",
    }


def teacher(known: Mapping[str, Any]) -> str:
    """The teacher's network, with its accuracy if the run measured it."""
    if not known["teacher"]:
        return ""
    accuracy = shown(known["teacher_result"].get("top1"))
    return known["teacher"] + (f", top-1 {accuracy}" if accuracy else "")


def place(environment: Mapping[str, Any]) -> str:
    """The versions and devices of an environment."""
    versions = [f"{name} {text}" for name, text in environment["versions"].items() if text]
    devices = environment["devices"]
    known = {"Python": environment.get("python"), "revision": environment.get("git_revision")}
    versions += [f"{name} {text}" for name, text in known.items() if text]
    return ", ".join([*versions, f"{len(devices)} x {devices[0]}"])


def is_setting(key: str, value: Any) -> bool:
    """Whether an entry of a stage's section belongs in the row about its training."""
    is_empty = value in ("", None, [], ()) or key == "size" and not value
    return key != "model" and not isinstance(value, Mapping) and not is_empty


def percent(value: float) -> float:
    return round(100 * value, 2)


def shown(value: float | None) -> str:
    return "" if value is None else f"{percent(value):.2f} %"
