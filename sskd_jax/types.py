"""Types that the packages exchange; this module imports none of them.

A method is its stages in order. A stage names its networks (nets) and gives a loss; the loss
calls them.

Letters in shapes: N images of the whole batch, n images of this device's share of it; V views of
each image, n * V rows in image-major order (image 0 view 0, image 0 view 1, ...); M training
images; H, W, C height, width and channels of an image or a feature map; D embedding width; K
classes.
"""

import contextlib
import difflib
import importlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

Array = jax.Array
Params = Mapping[str, Any]
Terms = dict[str, Array]  # scalars by name
Nets = Mapping[str, Callable[..., Any]]  # every net of a stage as a function of arrays
View = Callable[..., Array]  # (optics, key, u8[H, W, C]) -> f32[V, H, W, C]: see views.py


class UserError(Exception):
    """A mistake that the user can correct; its text is the one line that they see."""


class Stopped(BaseException):
    """The run stopped early and can be resumed; its text says why and from where.

    Like KeyboardInterrupt it is not an `Exception`: a signal may raise it anywhere, and code that
    catches every error of a library, to detect a damaged file, must not catch it.
    """


class Streamed(NamedTuple):
    """Images u8[n, H, W, C] that are sent with a step, instead of being resident on the device.

    label and index are i32[n].
    """

    image: Array
    label: Array
    index: Array


class Outputs(NamedTuple):
    """One forward pass of a network over B rows.

    Attributes:
      logits: f32[B, K].
      embed: f32[B, D], the pooled feature that the classifier takes.
      maps: feature maps [B, H, W, C], stem first; the tensors of the reference's feature list.
      preacts: the same maps before their ReLU.
    """

    logits: Array
    embed: Array
    maps: tuple[Array, ...] = ()
    preacts: tuple[Array, ...] = ()


class Net(NamedTuple):
    """A network, or any other module with parameters, that takes part in a stage.

    A net that neither learns, follows nor is made is frozen: it runs in evaluation mode and is not
    stored in checkpoints.

    Attributes:
      module: a linen module whose `__call__` takes `train: bool = False`, or a string for the
        architecture that a config section names: "student", "teacher", "teacher.branches".
      start: "stage/net" of an earlier stage whose last weights it starts from; "" for random
        ones, which depend on the net's name and the seed alone.
      learns: whether the optimizer updates it.
      follows: the net of this stage whose moving average it is. It starts with that net's
        weights, is updated after every step, and runs in training mode.
      momentum: of the moving average.
      made: whether `Stage.tied` makes its parameters of other nets'. The loss never calls it, and
        `start` gives its first weights and its batch statistics, which stay.
    """

    module: nn.Module | str
    start: str = ""
    learns: bool = True
    follows: str = ""
    momentum: float = 0.0
    made: bool = False

    @property
    def is_frozen(self) -> bool:
        """Whether it stays as an earlier stage left it."""
        return not (self.learns or self.follows or self.made)

    @property
    def place(self) -> tuple[str, str]:
        """("teacher", "branches") for "teacher.branches"; ("", "") for a linen module.

        That is the config section of its architecture, and the part of it ("": the whole network).
        """
        if not isinstance(self.module, str):
            return "", ""
        section, _, part = self.module.partition(".")
        return section, part

    @property
    def is_network(self) -> bool:
        """Whether its module is the whole network that a config section names."""
        section, part = self.place
        return bool(section) and not part


def learns(module: nn.Module | str, start: str = "") -> Net:
    """A net that the optimizer updates."""
    return Net(module, start)


def frozen(module: nn.Module | str, start: str = "") -> Net:
    """A net that stays as an earlier stage left it: by default net `module` of stage `module`."""
    return Net(module, start or f"{module}/{module}", learns=False)


def follows(leader: str, module: nn.Module | str, momentum: float) -> Net:
    """A net that is the moving average of the net `leader`."""
    return Net(module, learns=False, follows=leader, momentum=momentum)


def made(module: nn.Module | str, start: str) -> Net:
    """A net that starts as an earlier stage left it, and that `Stage.tied` then changes."""
    return Net(module, start, learns=False, made=True)


class Batch(NamedTuple):
    """The arguments of a loss, or of scores, in one step.

    Attributes:
      image: u8[n, H, W, C], this device's share of the batch.
      label: i32[N], of the whole batch.
      index: i32[N], the positions of the batch's images in the training set.
      see: (view, image=None) -> f32[n * V, H, W, C], the view of the batch's images, or of this
        device's share of other uint8 images. Every call draws new random numbers, which depend
        on an image's position in the whole batch. In evaluation, `once` and the rotations are
        not random.
      epoch: i32[], counted from 0; None in evaluation.
      key: for random draws that concern the whole batch; a different one in every step, and None
        in evaluation.
      memory: the arrays that the stage carries from step to step; None in evaluation.
      counts: () -> i64[K], the number of training images of each class; a NumPy array, known
        when the program is traced.
      mask: bool[N], in evaluation: False for the images that only fill up the last batch.
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
    """Unweighted loss terms [] by name, figures [] to log, and the memory for the next step."""

    terms: Terms
    figures: Terms = {}
    memory: Any = {}


class Binned(NamedTuple):
    """A score that is summed within each bin, as for the expected calibration error.

    The absolute values of the bins' sums are added and divided by the number of rows.

    Attributes:
      score: f32[N * r], of every row.
      bin: i32[N * r], the bin of every row.
      bins: the number of bins.
    """

    score: Array
    bin: Array
    bins: int


class Facts(NamedTuple):
    """What a memory may depend on: labels i32[M], the images' shape [H, W, C], how many classes."""

    label: Array
    shape: tuple[int, ...]
    num_classes: int


def shuffled(rng: np.random.Generator, images: Any, epoch: int) -> np.ndarray:
    """A random permutation of all images: the default order of an epoch."""
    return rng.permutation(images.size)


class Stage(NamedTuple):
    """One part of a method's training.

    A stage that has the name of one of its nets produces that network, which can be exported, as
    can other networks that learn or are made in it. Its accuracy is reported in the results, as is
    that of every other stage with a score `top1`.

    Attributes:
      terms: names of the loss terms, each of which needs a weight.
      nets: by name.
      loss: (nets, batch) -> `Losses`. It is traced once before training: the first arguments of
        a net decide the shapes of its parameters. A term that is a mean over images may be
        computed from this device's share; one that compares images needs the whole batch.
      scores: (nets, batch) -> {name: score}. A score is f32[N * r], with r rows per image; or a
        pair of that and a bool[N * r] that marks the rows that count; or `Binned`. Means over a
        whole split are reported. Epochs are compared by the first score, whose largest value is the
        best, or by the training loss if there is none.
      memory: (key, facts) -> arrays that are carried from step to step and not optimized.
      order: (rng, images, epoch) -> i64[M'], the images of an epoch in order. `images` has the
        attributes `size` and `label`; M' is the same in all epochs. The function may
        have an attribute `check`, (images, number of epochs), which raises a `UserError` if they
        do not fit.
      tied: (params of all nets) -> the same, in which some that the loss does not use are made of
        others. It is applied to the first weights and after every update; frozen nets stay, and
        those of this package come with batch norms that contain their statistics (`folded`).
      shared: whether it is trained once for all methods of a run.
      momentum_offset: is subtracted from the momentum of the first term's gradient and added to
        that of the other terms'; 0: one momentum for the whole gradient. See `methods/dot.py`.
    """

    terms: tuple[str, ...]
    nets: Mapping[str, Net]
    loss: Callable[[Nets, Batch], Losses]
    scores: Callable[[Nets, Batch], Mapping[str, Any]]
    memory: Callable[[Array, Facts], Any] | None = None
    order: Callable[[np.random.Generator, Any, int], np.ndarray] = shuffled
    tied: Callable[[Params], Params] = lambda params: params
    shared: bool = False
    momentum_offset: float = 0.0


Method = Mapping[str, Stage]


def choose(registry: Mapping[str, Any], name: str, what: str) -> Any:
    """registry[name]; raises a `UserError` that lists all names if there is no such name."""
    if name in registry:
        return registry[name]
    close = difflib.get_close_matches(str(name), registry, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    choices = f"choose from {', '.join(registry)}" if registry else "there is none"
    raise UserError(f"unknown {what} {name!r}: {hint}{choices}")


def expect(found: Any, kind: type, what: str) -> Any:
    """`found`, which the code that `what` names returned; a `UserError` if it is no `kind`."""
    if not isinstance(found, kind):
        raise UserError(
            f"{what} returns a {type(found).__name__}: return sskd_jax.types.{kind.__name__}"
        )
    return found


def find(registry: Mapping[str, Any], name: str, what: str) -> Any:
    """registry[name]; for a name such as "my_code:Thing", the attribute Thing of module my_code.

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


@contextlib.contextmanager
def blamed(what: str, names: Iterable[str]) -> Iterator[None]:
    """A context that turns an error in a user's code, such as "my_code:Net", into a `UserError`."""
    own = [name for name in names if ":" in name]
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # any, as the code is the user's
        if not own:
            raise
        modules = (sys.modules.get(name.partition(":")[0]) for name in own)
        files = {module.__file__ for module in modules if module}
        frames = traceback.extract_tb(error.__traceback__)
        places = [f", {one.filename}, line {one.lineno}" for one in frames if one.filename in files]
        where, text = "".join(places[-1:]), (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{what} {' and '.join(own)}{where}: {type(error).__name__}: {text}"
        ) from error
