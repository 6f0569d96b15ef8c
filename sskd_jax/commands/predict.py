"""Prints the most probable classes of images, by a trained network.

python -m sskd_jax predict runs/flowers rose.jpg more/*.png
"""

from collections.abc import Sequence

import numpy as np

from sskd_jax.commands import add_network, make_parser
from sskd_jax.exchange.classifier import Classifier, load
from sskd_jax.system.console import table
from sskd_jax.types import UserError

SHOWN = 3  # how many of the most probable classes are shown


def run(argv: Sequence[str]) -> None:
    """Prints a table with the most probable classes of every image that a command line names.

    Raises:
      UserError: some images can't be read; it is raised after the table of the others is printed.
    """
    parser = make_parser("predict", __doc__)
    add_network(parser)
    parser.add_argument("images", nargs="+", help="image files")
    numbers = {"type": float, "nargs": 3, "metavar": ("R", "G", "B")}
    parser.add_argument(
        "--mean", help="of a file without a FILE.json: of images in 0..1", **numbers
    )
    parser.add_argument("--std", help="likewise", **numbers)
    parser.add_argument("--size", type=int, help="likewise, the side of its images in pixels")
    parser.add_argument(
        "--resize", type=int, help="likewise, of their shorter side before the cut; default: --size"
    )
    args = parser.parse_args(argv)
    numbers = {"mean": args.mean, "std": args.std, "size": args.size, "resize": args.resize}
    classifier = load(args.source, stage=args.stage, network=args.network, **numbers)
    rows, mistakes = [], []
    for path in args.images:
        try:
            rows.append([path, *most_probable(classifier, path)])
        except UserError as error:
            mistakes.append(str(error))
    if rows:
        columns = ["image", *(f"class {place}" for place in range(1, len(rows[0])))]
        table(f"What the {classifier.model} sees", columns, rows)
    if mistakes:
        raise UserError("; ".join(dict.fromkeys(mistakes)))


def most_probable(classifier: Classifier, path: str) -> list[str]:
    """The names of an image's most probable classes, each with its probability."""
    (probability,) = classifier.predict(path)
    best = np.argsort(-probability)[:SHOWN]
    return [f"{classifier.classes[label]} {100 * probability[label]:.1f} %" for label in best]
