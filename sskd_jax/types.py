"""What the rooms of this package hand to each other; imports nothing of ours.

Shape alphabet: N images, V views of each image, B = N * V rows image-major (image 0 view 0, image 0 view 1, ...),
H, W, C image or map sizes, D embedding width, K classes.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Array = jax.Array
Params = Mapping[str, Any]
# label [N], index [N]; in evaluation mask [N]; in training epoch [] from 0, key u32[2] for what the method draws, and
# memory, what it carries. Singular keys.
Batch = dict[str, Any]
Terms = dict[str, Array]  # scalars by name


class UserError(Exception):
    """A mistake that the user can mend; its text is the one line that they are shown."""


class Stopped(Exception):
    """The run ended before its end and can go on; its text says why and from where."""


class Streamed(NamedTuple):
    """Images that come with a step, in place of lying on the device: u8[n, H, W, C], and label and index i32[n]."""

    image: Array
    label: Array
    index: Array


class Outputs(NamedTuple):
    """One forward pass of a network over B rows.

    Attributes:
      logits: f32[B, K].
      embed: f32[B, D], the pooled feature in front of the classifier.
      maps: feature maps [B, H, W, C], stem first; the tensors of the reference's feature list.
      preacts: the same maps in front of their ReLU.
      aux: whatever else a network wants to show, by name.
    """

    logits: Array
    embed: Array
    maps: tuple[Array, ...] = ()
    preacts: tuple[Array, ...] = ()
    aux: Mapping[str, Array] = {}


class Method(NamedTuple):
    """A distillation method as pure functions; one paper is one file under `methods/`.

    Attributes:
      terms: names of the loss terms, each of which needs a weight. A network that learns without `ce` gets no accuracy.
      init: (key, student, teacher) -> the method's own trained parameters; both `Outputs` hold shapes only.
      loss: (params, pretrained, student, teacher, batch) -> (unweighted terms, figures worth logging).
        It sees the global batch, but for maps. `pretrained` maps the name of each stage in `pretrain` to what it
        learned.
      views: rotated views per image: 1 or 4.
      teacher: whether a frozen teacher is needed.
      student: whether a network learns; a method without one trains its own parameters on the teacher alone.
      gathered: which of `Outputs.maps` and `preacts` `loss` sees for the global batch. Of the others it sees this
        device's images, and may only take means over them.
      pretrain: methods of stages that come first, by the stage's name. Where a network learns in one, the next stage's
        student starts from its weights.
      memory: (key, student, teacher, label of all training images [M]) -> arrays that are carried from step to step,
        in no optimizer; both `Outputs` hold shapes only.
      remember: (params, student, teacher, batch) -> the memory of the next step, from what `loss` saw.
      evaluate: (params, student, teacher, batch) -> {name: f32[N * r]}: a score of every row, r rows per image; their
        mean over a whole split is reported.
    """

    terms: tuple[str, ...]
    init: Callable[[Array, Outputs | None, Outputs | None], Params]
    loss: Callable[[Params, Params, Outputs | None, Outputs | None, Batch], tuple[Terms, Terms]]
    views: int = 1
    teacher: bool = True
    student: bool = True
    gathered: slice = slice(0)
    pretrain: Mapping[str, "Method"] = {}
    memory: Callable[[Array, Outputs, Outputs, Array], Params] = (
        lambda key, student, teacher, label: {}
    )
    remember: Callable[[Params, Outputs, Outputs, Batch], Params] = (
        lambda params, student, teacher, batch: {}
    )
    evaluate: Callable[[Params, Outputs | None, Outputs | None, Batch], Terms] | None = None

    @property
    def remembers(self) -> bool:
        """Whether it carries a memory."""
        return self.memory is not Method._field_defaults["memory"]


def choose(registry: Mapping[str, Any], name: str, what: str) -> Any:
    """registry[name]; for a name that is not there, a `UserError` that lists those that are."""
    if name in registry:
        return registry[name]
    close = difflib.get_close_matches(str(name), registry, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    choices = f"choose from {', '.join(registry)}" if registry else "there is none"
    raise UserError(f"unknown {what} {name!r}: {hint}{choices}")
