"""A trained network for use from Python: it takes images and gives probabilities."""

import dataclasses
import functools
import io
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from PIL import Image, UnidentifiedImageError

from sskd_jax.data.image_file import FORMATS, Unreadable, contents, eight_bits
from sskd_jax.exchange import finished, torch_bridge
from sskd_jax.models.build import architecture
from sskd_jax.rules import MEAN, SIDE, STD
from sskd_jax.system.paths import locate
from sskd_jax.types import Array, Outputs, Params, UserError
from sskd_jax.views import Optics, normalise

AT_ONCE = 256  # images per forward pass
THINNEST = 100  # ratio of an image file's sides; a thinner one would be resized to a very long one
COLOURS = ", as colours count from 0 to 1"
RULES = {  # for what `load` may be told of a file
    "mean": MEAN._replace(text=MEAN.text + COLOURS),
    "std": STD._replace(text=STD.text + COLOURS),
    "size": SIDE,
    "resize": SIDE,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network, with a record of how it expects images.

    Attributes:
      model: the name of its architecture.
      module: the linen module.
      variables: {"params", "batch_stats"}.
      record: as `export` writes it next to a network: mean, std, image, resize, accuracy ...
    """

    model: str
    module: nn.Module
    variables: Params
    record: Mapping[str, Any]

    def predict(self, images: np.ndarray | str | os.PathLike) -> np.ndarray:
        """Probabilities f32[N, K] for uint8 images [N, H, W, 3] (RGB), or for an image file."""
        return np.asarray(jax.nn.softmax(self.logits(images)))

    def logits(self, images: np.ndarray | str | os.PathLike) -> np.ndarray:
        """Logits f32[N, K] for uint8 images [N, H, W, 3] (RGB), or for an image file."""
        return np.concatenate([outputs.logits for outputs in self.outputs(images)])

    def features(self, images: np.ndarray | str | os.PathLike) -> np.ndarray:
        """The pooled features f32[N, D] that the last layer takes."""
        return np.concatenate([outputs.embed for outputs in self.outputs(images)])

    def outputs(self, images: np.ndarray | str | os.PathLike) -> Iterator[Outputs]:
        """Yields logits and embed of `AT_ONCE` images at a time, to limit the memory.

        Raises:
          UserError: the images are of another type, shape or size, or the file can't be read.
        """
        if isinstance(images, str | os.PathLike):
            images = read_image(pathlib.Path(images), *self.sizes)[None]
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise UserError(
                f"images are {images.dtype}{list(images.shape)}: give uint8[N, H, W, 3], or the "
                "path of one"
            )
        shape = list(images.shape[1:])
        if shape != self.record.get("image", shape):
            side, _ = self.sizes
            raise UserError(
                f"images are of {shape[0]}x{shape[1]} pixels, and the network was trained on "
                f"{side}x{side}: resize them, or give the paths of image files"
            )
        for start in range(0, max(1, len(images)), AT_ONCE):  # no images give no rows
            part = images[start : start + AT_ONCE]
            # Filled up to a power of two, so that few programs serve for any number of images.
            fill = (1 << max(len(part) - 1, 0).bit_length()) - len(part)
            filled = np.pad(part, ((0, fill), (0, 0), (0, 0), (0, 0)))
            found = self.program(self.variables, filled)
            yield Outputs(found.logits[: len(part)], found.embed[: len(part)])

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the K classes; their numbers if the names are not known."""
        names = self.record.get("classes") or range(self.record["num_classes"])
        return tuple(map(str, names))

    @property
    def sizes(self) -> tuple[int, int]:
        """(side of the images, length of their shorter side before the centre crop), in pixels."""
        if "image" not in self.record:
            raise UserError(
                "the size of the network's images is not known: give size=32, or --size 32"
            )
        return self.record["image"][0], self.record["resize"]

    @property
    def optics(self) -> Optics:
        """How the network expects images."""
        return Optics(False, 0, tuple(self.record["mean"]), tuple(self.record["std"]))

    def forward(self, variables: Params, images: Array) -> Outputs:
        """Logits [N, K] and embed [N, D] of uint8 images [N, H, W, 3]."""
        outputs = self.module.apply(variables, normalise(images, self.optics))
        return Outputs(outputs.logits, outputs.embed)

    @functools.cached_property
    def program(self) -> Any:
        """The jitted `forward`."""
        return jax.jit(self.forward)


def load(
    source: str | os.PathLike,
    *,
    stage: str | None = None,
    network: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    size: int | None = None,
    resize: int | None = None,
) -> Classifier:
    """Loads a trained network from a workdir, or from a .pth or .safetensors file.

    Args:
      source: the workdir or the file. A FILE.json beside it, as `export` writes it, says how the
        network expects images.
      stage: of a workdir, such as "sskd/student" or "teacher"; None: the only student.
      network: of a file, the name of its architecture; None: that of FILE.json, or else the one
        that its weights fit. Code of your own, such as "my_code:Net", is run only if it is given.
      mean: for a file without FILE.json, the mean of images in [0, 1]; std likewise.
      size: for such a file, the side of the images in pixels; needed only for image files.
      resize: for such a file, the length in pixels to which the shorter side of an image file is
        brought before its centre is cut out; None: `size`. Networks of ImageNet, such as
        torchvision's, are usually measured with 256 at size 224.

    Raises:
      UserError: there is no such network, it is not finished or damaged, or mean and std are not
        known, are known already, or are no such numbers.
    """
    numbers = {"mean": mean, "std": std, "size": size, "resize": resize}
    given = {
        name: np.asarray(value, object).tolist()
        for name, value in numbers.items()
        if value is not None
    }
    for name, value in given.items():
        if advice := RULES[name].advice(value):
            raise UserError(f"{name} is {value}: give {advice}")
    if resize is not None and (size is None or resize < size):
        raise UserError(f"resize is {resize}: give size, too, and no resize below it")
    path = locate(source)
    if given and is_described(path):
        first = next(iter(given))
        raise UserError(
            f"{path} has its own mean, std and size of images: omit {first} (--{first})"
        )
    if path.is_dir() and network:
        raise UserError(f"--network is of a file, and {path} is a workdir, which knows its own")
    if stage and path.is_file():
        raise UserError(f"--stage is of a workdir, and {path} is a file of one network")
    if path.is_dir():
        found = finished.find_network(path, stage)
        record, variables = finished.describe(path, found), finished.load_network(path, found)
        return classifier(record["model"], variables, record)
    return from_file(path, network, given)


def from_file(path: pathlib.Path, network: str | None, given: Mapping[str, Any]) -> Classifier:
    """As `load`, from a file; `given` are mean, std, size and resize as far as they are."""
    state = torch_bridge.read_state_dict(path)
    record = finished.record_of(path) or dict(given)
    if size := record.pop("size", None):
        record |= {"image": [size, size, 3], "resize": record.get("resize", size)}
    if missing := [key for key in ("mean", "std") if key not in record]:
        raise UserError(
            f"no {path.name}.json beside {path} says how images are normalised: give "
            + " and ".join(f"{key}=(R, G, B)" for key in missing)
            + " (as flags: --mean R G B --std R G B)"
        )
    name = network or record.get("model") or identified(path, state)
    if not network and ":" in name:
        raise UserError(
            f"{path} is a network of the module {name.partition(':')[0]!r}, whose code would be "
            f"run: if you trust that, give network={name!r} (--network={name})"
        )
    side, *_ = record.get("image", [torch_bridge.SIDE])
    record.setdefault("resize", side)
    if record["resize"] < side:
        raise UserError(
            f"{path.name}.json says resize {record['resize']}, and images of {side} pixels: put a "
            "copy of it back"
        )
    variables, num_classes = torch_bridge.load_weights(path, name, section="", side=side)
    if len(classes := record.get("classes", [])) not in (0, num_classes):
        raise UserError(
            f"{path.name}.json names {len(classes)} classes, and {path} has {num_classes}: put a "
            "copy of it back"
        )
    return classifier(name, variables, record | {"num_classes": num_classes})


def identified(path: pathlib.Path, state: torch_bridge.StateDict) -> str:
    """The name in `MODELS` of the architecture whose weights `state`, of this file, holds."""
    try:
        return torch_bridge.identified(state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def is_described(path: pathlib.Path) -> bool:
    """Whether a workdir or a file says how its network expects images."""
    return path.is_dir() or finished.record_beside(path).exists()


def classifier(model: str, variables: Params, record: Mapping[str, Any]) -> Classifier:
    module = architecture(model)(num_classes=record["num_classes"], dtype=jnp.float32)
    return Classifier(model, module, variables, record)


def read_image(path: pathlib.Path, size: int, resize: int) -> np.ndarray:
    """uint8[size, size, 3]: the shorter side becomes `resize` pixels, then the centre is cut out.

    This is done as in `data.jpeg.decode_centre`, with which a network's accuracy is measured.

    Raises:
      UserError: there is no such file, or it is not a whole image, or a very thin one.
    """
    try:
        with Image.open(io.BytesIO(contents(path)), formats=FORMATS) as image:
            image = eight_bits(image).convert("RGB")
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is no image of a known format") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Unreadable) as error:
        raise UserError(f"{path} is no image that can be read: {error}") from error
    shorter, longer = sorted(image.size)
    if longer > THINNEST * shorter:
        raise UserError(f"{path} is too thin, with {longer} by {shorter} pixels: cut it first")
    image = image.resize(
        [side * resize // shorter for side in image.size], Image.Resampling.BILINEAR
    )
    left, top = (round((side - size) / 2) for side in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size)))
