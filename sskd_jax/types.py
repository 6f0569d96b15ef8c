"""Types that the packages exchange; this module imports none of them.

A method is its stages in order. A stage names its networks (nets) and gives a loss; the loss
calls them.

Shape alphabet: N images of the whole batch, n of this device's share of it; V views of each
image, n * V rows image-major (image 0 view 0, image 0 view 1, ...); M training images; H, W, C
image or map sizes, D embedding width, K classes.
"""

import difflib
import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

Array = jax.Array
Params = Mapping[str, Any]
Terms = dict[str, Array]  # scalars by name
Nets = Mapping[str, Callable[..., Any]]  # every net of a stage, to be called with arrays
View = Callable[..., Array]  # (optics, key, u8[H, W, C]) -> f32[V, H, W, C]: see views.py


class UserError(Exception):
    """A mistake that the user can mend; its text is the one line that they are shown."""


class Stopped(BaseException):
    """The run ended before its end and can go on; its text says why and from where.

    Like KeyboardInterrupt it is no `Exception`: a signal may raise it anywhere, and what catches
    every error of a library, to find that a file is damaged, must not take it for one.
    """


class Streamed(NamedTuple):
    """Images that come with a step, in place of lying on the device: u8[n, H, W, C].

    label and index are i32[n].
    """

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
    """

    logits: Array
    embed: Array
    maps: tuple[Array, ...] = ()
    preacts: tuple[Array, ...] = ()


class Net(NamedTuple):
    """A network, or anything else with parameters, that takes part in a stage.

    What neither learns nor follows is frozen: in evaluation mode, and in no checkpoint.

    Attributes:
      module: a linen module whose `__call__` takes `train: bool = False`, or the architecture
        that a section of the config names: "student", "teacher", "teacher.branches".
      start: "stage/net" of an earlier stage whose last weights it starts from; "" for random
        ones, which depend on the net's name and the seed alone.
      learns: whether the optimizer moves it.
      follows: the net of this stage whose moving average it is. It starts as that net, is
        updated behind every step, and runs in training mode.
      momentum: of that average.
    """

    module: nn.Module | str
    start: str = ""
    learns: bool = True
    follows: str = ""
    momentum: float = 0.0


def learns(module: nn.Module | str, start: str = "") -> Net:
    """A net that the optimizer moves."""
    return Net(module, start)


def frozen(module: nn.Module | str, start: str = "") -> Net:
    """A net that stays as an earlier stage left it; "teacher" is that of the stage "teacher"."""
    return Net(module, start or f"{module}/{module}", learns=False)


def follows(leader: str, module: nn.Module | str, momentum: float) -> Net:
    """The moving average of another net."""
    return Net(module, learns=False, follows=leader, momentum=momentum)


class Batch(NamedTuple):
    """What a loss, or scores, are given of one step.

    Attributes:
      image: u8[n, H, W, C], this device's share of the batch.
      label: i32[N], of the whole batch.
      index: i32[N], the places of its images in the training set.
      see: (view, image=None) -> f32[n * V, H, W, C], pixels of the batch's images, or of another
        share of raw ones. Every call draws anew, by an image's place in its whole; in
        evaluation nothing is drawn.
      epoch: i32[], from 0.
      key: for what is drawn once for all images; another one in every step.
      memory: what the stage carries.
      counts: () -> i64[K], how many training images each class has; a number of numpy, known
        when the program is traced.
      mask: bool[N], in evaluation: whether an image counts, or only fills up its batch.
    """

    image: Array
    label: Array
    index: Array
    see: Callable[..., Array]
    epoch: Array | None = None
    key: Array | None = None
    memory: Any = None
    counts: Callable[[], np.ndarray] | None = None
    mask: Array | None = None


class Losses(NamedTuple):
    """Unweighted terms [] by name, figures [] worth logging, and the memory of the next step."""

    terms: Terms
    figures: Terms = {}
    memory: Any = {}


class Binned(NamedTuple):
    """A score that is summed within each bin, as for the expected calibration error.

    The absolute values of these sums are added and divided by the number of rows.

    Attributes:
      score: f32[N * r], of every row.
      bin: i32[N * r], which bin a row falls in.
      bins: how many there are.
    """

    score: Array
    bin: Array
    bins: int


class Facts(NamedTuple):
    """The training images as a memory needs them: label i32[M], shape [H, W, C], their classes."""

    label: Array
    shape: tuple[int, ...]
    num_classes: int


def shuffled(rng: np.random.Generator, images: Any, epoch: int) -> np.ndarray:
    """A permutation of all images, the order of most epochs."""
    return rng.permutation(images.size)


class Stage(NamedTuple):
    """One part of a method's training.

    A stage that is called like one of its nets makes that network, which can be exported. Its
    accuracy stands in the results, and so does that of every other stage that scores top1.

    Attributes:
      terms: names of the loss terms, each of which needs a weight.
      nets: by name.
      loss: (nets, batch) -> `Losses`. It is traced once before training: what a net is first
        given decides the shapes of its parameters. A term that is a mean over images may be
        taken of shares; what compares images with each other takes wholes.
      scores: (nets, batch) -> {name: f32[N * r]}, a score of every row, r rows per image, or of
        those that a bool[N * r] beside it marks, or a `Binned` one. Means over a whole split are
        reported; epochs are compared by the first one, or by the training loss where there is
        none.
      memory: (key, facts) -> arrays that are carried from step to step, in no optimizer.
      order: (rng, images, epoch) -> i64[M'], which images an epoch visits. `images` have `size`
        and `label`; M' is the same in all epochs.
      shared: trained once for all methods of a run.
      momentum_offset: what the momentum of the first term's gradient is lower by, and that of the
        other terms' higher; 0: the whole gradient has one momentum. See `methods/dot.py`.
    """

    terms: tuple[str, ...]
    nets: Mapping[str, Net]
    loss: Callable[[Nets, Batch], Losses]
    scores: Callable[[Nets, Batch], Mapping[str, Any]]
    memory: Callable[[Array, Facts], Any] | None = None
    order: Callable[[np.random.Generator, Any, int], np.ndarray] = shuffled
    shared: bool = False
    momentum_offset: float = 0.0


Method = Mapping[str, Stage]


def choose(registry: Mapping[str, Any], name: str, what: str) -> Any:
    """registry[name]; for a name that is not there, a `UserError` that lists those that are."""
    if name in registry:
        return registry[name]
    close = difflib.get_close_matches(str(name), registry, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    choices = f"choose from {', '.join(registry)}" if registry else "there is none"
    raise UserError(f"unknown {what} {name!r}: {hint}{choices}")


def find(registry: Mapping[str, Any], name: str, what: str) -> Any:
    """registry[name], or of a name such as "my_code:Thing", what the module my_code has there.

    Raises:
      UserError: there is no such name, or the module can't be imported.
    """
    module, colon, attribute = str(name).partition(":")
    if not colon:
        return choose(registry, name, what)
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise UserError(f"the {what} {name!r}: {module} asks for {error.name}") from error
        raise UserError(
            f"the {what} {name!r}: there is no module {module!r} in this folder or on PYTHONPATH"
        ) from error
    except UserError:
        raise
    except Exception as error:  # the module is the user's, and may raise anything
        raise UserError(f"the {what} {name!r}: {type(error).__name__}: {error}") from error
