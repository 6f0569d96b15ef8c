"""The commands of `python -m sskd_jax`, each a module with `run(argv)`."""

import argparse


def make_parser(command: str, text: str) -> argparse.ArgumentParser:
    """The parser of a command's arguments; `text` is what --help says of the command."""
    return argparse.ArgumentParser(
        prog=f"python -m sskd_jax {command}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_network(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that name a trained network, as `exchange.classifier.load` takes them."""
    parser.add_argument("source", help="a workdir, or a .pth or .safetensors file")
    parser.add_argument("--stage", help="of a workdir, such as sskd/student or teacher")
    parser.add_argument("--network", help="of a file; default: that of FILE.json, or one that fits")
