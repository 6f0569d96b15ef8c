"""Orbax behind three functions: states in and out of a stage's folder, the last ones and the best one kept."""
import os
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

Folder = str | os.PathLike[str]


def _score(metrics: dict[str, float]) -> float:
    return metrics["score"]


def manager(folder: Folder) -> ocp.CheckpointManager:
    """Keeps the two newest checkpoints and, of those that came with a score, the best. Close it before exit."""
    best = keep.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
    options = ocp.CheckpointManagerOptions(
        best_fn=_score, preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(2), best]))
    return ocp.CheckpointManager(pathlib.Path(folder).absolute(), options=options)


def save(manager: ocp.CheckpointManager, step: int, state: Any, score: float | None = None) -> None:
    """Writes `state`, stacked over the devices, in the background; its values are copied before this returns."""
    host = jax.tree.map(lambda leaf: np.array(leaf.addressable_data(0))[0], state)
    manager.save(step, args=ocp.args.StandardSave(serialization.to_state_dict(host)),
                 metrics=None if score is None else {"score": score})


def restore(manager: ocp.CheckpointManager, step: int | None, template: Any = None) -> Any:
    """The state of `step`, with the structure of `template`, or as nested dicts without one."""
    state = manager.restore(step, args=ocp.args.StandardRestore())
    return state if template is None else serialization.from_state_dict(template, state)
