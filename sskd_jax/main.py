"""python -m sskd_jax.main --config=configs/cifar.py --workdir=DIR [--config.KEY=VALUE ...]"""

import contextlib
import pathlib
import sys
import textwrap
from collections.abc import Sequence

from sskd_jax.system import early

if __name__ == "__main__":  # before the imports that take seconds
    early.catch_signals()

from absl import app, flags, logging
from ml_collections import config_flags

from sskd_jax.system import distributed
from sskd_jax.system.console import complain, fail, mistakes
from sskd_jax.system.hints import reason
from sskd_jax.system.installed import with_equals_sign, with_installed_config
from sskd_jax.types import Stopped, UserError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "What to train, such as configs/cifar.py:method=kd."
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for checkpoints and results, from which a run that stopped goes on. "
    "Default: runs/CONFIG.",
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, f"This is one of several processes: {distributed.HOW}."
)


def parse(argv: Sequence[str]) -> list[str]:
    """Parses absl's flags; exits with one line and code 2 if they or the config have a mistake."""
    argv = [with_installed_config(part) for part in with_equals_sign(argv)]
    if {"-h", "-help", "--help"} & set(argv):
        print(usage())
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
        if not flags.FLAGS["config"].present:
            raise UserError(
                "give --config=configs/quickstart.py (minutes on a CPU) or "
                "--config=configs/cifar.py"
            )
        # A config file that could not be loaded raises when it is used, here by `in`.
        if CONFIG.value is None or "seed" not in CONFIG.value:
            raise UserError(
                "get_config of the config file returns no config with a seed: "
                "configs/quickstart.py shows one"
            )
        if len(rest) > 1:
            raise UserError(f"{rest[1]!r} is not a flag: write --config.KEY=VALUE")
        if WORKDIR.value == "":  # as an unset variable of the shell leaves it
            raise UserError("--workdir= is empty: give a folder, or leave the flag out")
        return rest
    except Exception as error:  # a config file may raise anything
        fail(reason(error, argv))


def usage() -> str:
    """The flags, and all names and keys that a config may have."""
    from sskd_jax import names

    text = sys.modules["__main__"].__doc__ or ""
    program = text if "--config" in text else __doc__  # of a benchmark, or this one
    own = [flags.FLAGS[flag.name] for flag in (CONFIG, WORKDIR, DISTRIBUTED)]
    for module, others in flags.FLAGS.flags_by_module_dict().items():
        if module == sys.argv[0] or module.startswith("experiments."):
            own += [flag for flag in others if flag not in own]
    lines = [f"--{flag.name}: {flag.help}" for flag in own]
    texts = [textwrap.fill(line, 80, subsequent_indent="  ") for line in lines]
    return "\n".join([f"usage: {program}", *texts, "", names.overview()])


def default_workdir() -> str:
    """runs/cifar,method=kd for --config=configs/cifar.py:method=kd."""
    file, _, arguments = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return str(pathlib.Path("runs", ",".join(filter(None, [pathlib.Path(file).stem, arguments]))))


def main(argv: Sequence[str]) -> None:
    """Trains what the config says in the workdir that the flags give."""
    logging.set_verbosity(logging.FATAL)  # libraries log errors that they also raise
    try:
        with distributed.membership() if DISTRIBUTED.value else contextlib.nullcontext():
            from sskd_jax import train

            train.run(CONFIG.value, WORKDIR.value or default_workdir())
    except mistakes() as error:
        fail(str(error))
    except Stopped as stop:
        complain(f"stopped: {stop}")
        sys.exit(early.GO_ON)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
