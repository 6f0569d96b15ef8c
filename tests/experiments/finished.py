"""Workdirs as runs leave them, without training anything."""

import json
import pathlib

from experiments import protocol

ENVIRONMENTS = [
    {
        "platform": "cpu",
        "processor": "Abacus",
        "cores": 2,
        "devices": ["cpu"],
        "versions": {"jax": "0.9"},
        "git_revision": "aaaa",
        "command": ["-m", "sskd_jax.main", "--config.data.data_dir=/data/mine"],
    },
    {"platform": "gpu", "devices": ["NVIDIA H100"] * 4, "versions": {"jax": "0.10"}},
]
PAIR = "configs/cifar.py:teacher=vgg13,student=vgg8,method="


def finished(
    folder: pathlib.Path, seed: int = 0, top1: float = 0.75, method: str = "at+kd,sskd", **changes
) -> pathlib.Path:
    """A finished workdir of a pair of networks on CIFAR-100, with three epochs per stage.

    Every stage took a minute and a half in the second of `ENVIRONMENTS`, in two parts. `changes`
    are keys of the config, with __ for a dot.
    """
    folder.mkdir(parents=True)
    given = {key.replace("__", "."): value for key, value in changes.items()}
    schedule = {"student.epochs": 3, "teacher.epochs": 3}
    config = protocol.load(PAIR + method, {**schedule, "seed": seed, **given})
    config.data.data_dir = str(folder)
    names = config.get("methods", ("",))
    students = [f"{name}/student".lstrip("/") for name in names]
    stages = ["teacher", *students]
    if "head" in config:
        stages.insert(-1, students[-1].replace("student", "head"))
    last = {"parameters": 9, "top1": top1, "top5": 0.9, "loss": 1.5, "paper": 75.33}
    scores = last | {"best_top1": top1 + 0.01, "best_epoch": 2}
    results = [
        {"stage": stage, "network": "vgg13" if stage == "teacher" else "vgg8", **scores}
        for stage in ("teacher", *students)
    ]
    metrics = [
        {"stage": stage, "epoch": epoch, "step": 4 * epoch, "test/top1": top1 * epoch / 3}
        for stage in stages
        for epoch in (1, 2, 3)
    ]
    times = [
        {"stage": stage, "step": step, "seconds": seconds, "environment": 1}
        for stage in stages
        for step, seconds in ((6, 60.0), (12, 30.0))
    ]
    contents = {
        "config": protocol.as_json(config),
        "environments": ENVIRONMENTS,
        "results": results,
    }
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    write_rows(folder / "metrics.jsonl", metrics)
    write_rows(folder / "times.jsonl", times)
    return folder


def write_rows(path: pathlib.Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
