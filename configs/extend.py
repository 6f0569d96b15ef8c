r"""More epochs for a finished run: its schedule again, from the last weights of its students.

    python -m sskd_jax.main --config=configs/extend.py:run=runs/sskd,epochs=60 \
        --workdir=runs/sskd_more --config.student.learning_rate=.005

The stages before it are taken from that run unchanged, and so is every number that is not given;
those after it, such as cRT's new classifier, are trained again. The result is a new run. Momentum
and the memories of methods are not continued.
"""

import json
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from configs import common, named
from sskd_jax.types import UserError, choose

STAGES = ("student", "teacher")  # that may be extended; no stage comes before a teacher


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: run, the workdir; epochs, by default as many as that run had; stage."""
    args = common.parse(arg, run="", epochs="", stage="student")
    chosen = args["stage"]
    choose(dict.fromkeys(STAGES), chosen, "stage to extend")
    config = stored(args["run"])
    settings = [setting["method"] for setting in settings_of(config)]
    orders = [list(named.stages_of(setting)) for setting in settings]
    stages = {kind: config[kind] for kinds in orders for kind in kinds}
    if chosen not in stages:
        raise UserError(f"the run in {args['run']} has no {chosen}: it has {', '.join(stages)}")
    if any("task_epochs" in setting for setting in settings):
        raise UserError(f"{args['run']} is a stream of tasks, which can't be extended")
    later = {kind for kinds in orders for kind in after(chosen, kinds)}
    for kind, section in stages.items():
        given = "" if kind in later else section.get("checkpoint") or args["run"]
        section |= {"checkpoint": given, "start_from": ""}
    config[chosen] |= {"checkpoint": "", "start_from": args["run"]}
    if args["epochs"]:
        scale(config, chosen, common.whole(args["epochs"], "epochs"))
    until = config["until"] if config["until"] in {chosen, *later} else ""
    if chosen == "teacher":  # no student is trained again for its teacher
        until = chosen
    return ConfigDict(config | {"until": until, "time_limit": common.RUN["time_limit"]})


def after(chosen: str, kinds: list[str]) -> list[str]:
    """The kinds of stages that come after the chosen one, if that is among them."""
    return kinds[kinds.index(chosen) + 1 :] if chosen in kinds else []


def scale(config: dict[str, Any], kind: str, epochs: int) -> None:
    """Gives a stage so many epochs, and scales what else is counted in them; milestones are not.

    In the student's stage, these are also numbers of the methods, such as DKD's `warmup_epochs`.
    """
    stage = config[kind]
    before = stage["epochs"]
    stage["epochs"] = epochs
    for key in ("warmup_epochs", "cooldown_epochs"):
        stage[key] = epochs / before * stage.get(key, 0.0)
    if kind == "student":
        common.scale_counted(config, before, epochs)


def settings_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The settings of all methods of a run, or of its only one."""
    if "methods" not in config:
        return [config]
    return [config["settings"][name] for name in config["methods"]]


def stored(workdir: str) -> dict[str, Any]:
    """The config of a workdir's run."""
    if not workdir:
        raise UserError("say which run to extend: --config=configs/extend.py:run=WORKDIR")
    file = epath.Path(workdir).expanduser() / "config.json"
    if not file.exists():
        runs = sorted(str(found.parent) for found in file.parent.glob("*/config.json"))
        advice = f"; it holds some, such as run={runs[0]}" if runs else ""
        raise UserError(f"{workdir} is no workdir of a run: it has no config.json{advice}")
    try:
        return tuples(json.loads(file.read_text()))
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): put a copy of it back") from error


def tuples(content: Any) -> Any:
    """The content of a JSON file, with tuples instead of lists, as config files have them."""
    if isinstance(content, dict):
        return {key: tuples(value) for key, value in content.items()}
    return tuple(content) if isinstance(content, list) else content
