r"""How well a linear layer on frozen features tells the classes of other images: a linear probe.

    python -m experiments.probe runs/table/*/ --data=cifar10 --data_dir=DIR
    python -m experiments.probe runs/sskd --config=configs/imagenet.py --data=NAME --data_dir=DIR
    python -m experiments.record runs/table/*/

The accuracies are written to probes.json in the workdirs; `experiments.record` keeps this file. The
papers hardly say how they trained their layers. Here, it is logistic regression (scikit-learn's, L2
with C = 1) on the features that the classifier takes, each standardised to mean 0 and deviation 1
over the training images. Images are not augmented, only resized to the size that the network was
trained on. So nothing depends on a seed.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments import records
from sskd_jax.commands.evaluate import data_section
from sskd_jax.data.sources import Dataset, Split
from sskd_jax.data.stream import Stream
from sskd_jax.engine.devices import leave_accelerators
from sskd_jax.engine.evaluate import padded_batches
from sskd_jax.exchange.classifier import Classifier, load
from sskd_jax.exchange.finished import networks_in
from sskd_jax.sections import dataset_of
from sskd_jax.system.console import console, fail, mistakes
from sskd_jax.system.paths import locate
from sskd_jax.types import UserError
from sskd_jax.workdir.files import read_json, write_json

BATCH = 500  # images
MOST_ITERATIONS = 1000


def batches(split: Split | Stream) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the batches (image u8[n, H, W, 3], label i32[n]) of a whole split in order."""
    index, mask = padded_batches(split.size, BATCH, devices=1)
    if isinstance(split, Split):
        for own, counts in zip(index[0], mask[0], strict=True):
            yield split.image[own[counts]], split.label[own[counts]]
    else:
        for batch, counts in zip(split.batches(index), mask[0], strict=True):
            yield batch.image[0, 0][counts], batch.label[0, 0][counts]


def features(classifier: Classifier, split: Split | Stream) -> tuple[np.ndarray, np.ndarray]:
    """(features f32[N, D] that the classifier takes, label i32[N]) of all images of a split."""
    size, _ = classifier.sizes
    found, labels = [], []
    for image, label in batches(split):
        if image.shape[1] != size:
            shape = (len(image), size, size, 3)
            resized = jax.image.resize(image.astype(np.float32), shape, "bilinear")
            image = np.asarray(resized).round().clip(0, 255).astype(np.uint8)
        found.append(classifier.features(image))
        labels.append(label)
    return np.concatenate(found), np.concatenate(labels)


def probe(classifier: Classifier, data: Dataset) -> float:
    """The accuracy in [0, 1] on the test images of a linear layer fitted to the training images."""
    layer = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MOST_ITERATIONS))
    layer.fit(*features(classifier, data.train))
    return float(layer.score(*features(classifier, data.test)))


def keep(workdir: str, data: str, found: Mapping[str, float]) -> None:
    """Adds accuracies on the dataset `data`, by stage, to the workdir's probes.json."""
    file = locate(workdir) / records.PROBES
    known = dict(read_json(file)) if file.exists() else {}
    for stage, accuracy in found.items():
        known[stage] = known.get(stage, {}) | {data: accuracy}
    write_json(file, known)


def probe_all(workdirs: Iterable[str], data: Dataset, name: str, stage: str) -> None:
    """Probes all networks of the workdirs, or those of one stage, and keeps their accuracies."""
    for workdir in workdirs:
        stages = [stage] if stage else networks_in(locate(workdir))
        if not stages:
            raise UserError(f"{workdir} holds no network: give the workdir of a run that is done")
        for own in stages:
            accuracy = probe(load(workdir, stage=own), data)
            keep(workdir, name, {own: accuracy})
            console.print(f"{workdir}  {own}  {name} {100 * accuracy:.2f} %")


def main(argv: Sequence[str] | None = None) -> None:
    """Probes the networks of the workdirs on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.probe", description=__doc__.splitlines()[0]
    )
    parser.add_argument("workdir", nargs="+", help="of a finished run")
    parser.add_argument("--stage", default="", help="such as sskd/student; default: all networks")
    parser.add_argument("--config", help="whose data section says how images are read")
    parser.add_argument("--data", help="the name of the dataset; default: that of --config")
    parser.add_argument("--data_dir", help="the folder of datasets")
    args = parser.parse_args(argv)
    leave_accelerators()
    try:
        section = data_section(args.workdir[0], args.config)
        data = dataset_of(section, args.data, args.data_dir)
        probe_all(args.workdir, data, args.data or section.name, args.stage)
    except mistakes() as error:
        fail(str(error))


if __name__ == "__main__":
    main()
