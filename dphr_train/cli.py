"""dphr-train: make or check data sets, fit an encoder, evaluate it, compare runs.

The list of commands answers at once: tyro, NumPy and torch are imported for the command that is asked for.
"""

from __future__ import annotations

import logging
import sys

from dphr_infer.cli.terminal import choose_command, run_command
from dphr_infer.errors import ConfigError

PROGRAM = "dphr-train"
COMMANDS = {
    "cities": "render the generated benchmark, or a flight over its unseen city",
    "tiles": "cut two maps of the same ground into a data set",
    "check": "verify a downloaded benchmark against its official counts",
    "presets": "list the published recipes",
    "fit": "train an encoder; --preset NAME starts from a published recipe",
    "evaluate": "measure recall and average precision by the benchmark's rules",
    "compare": "print finished runs as one table",
    "ablate": "train every row of DPHR's ablation with every seed",
    "throughput": "measure speed and memory of the training loop",
}
"""Each command of commands.COMMANDS in one line."""

_PRESET = "--preset"


def take_preset(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The value of --preset, if it is given, and the other arguments.

    Raises:
        ConfigError: it has no value, or belongs to a command that does not train.
    """
    for number, argument in enumerate(arguments):
        if argument.partition("=")[0] == _PRESET:
            _, equals, name = argument.partition("=")
            rest = arguments[:number] + arguments[number + (1 if equals else 2) :]
            name = name if equals else "".join(arguments[number + 1 : number + 2])
            if not name or name.startswith("-"):
                raise ConfigError("--preset needs a name: dphr-train presets lists them.")
            if rest and not rest[0].startswith("-"):
                if rest[0] != "fit":
                    raise ConfigError(f"--preset belongs to fit, not to {rest[0]}: leave it out there.")
                rest = rest[1:]
            return name, rest
    return None, arguments


def _log_to_stderr() -> None:
    """Show what the training logs, a line each, without a level: it is meant for people."""
    logger = logging.getLogger("dphr_train")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def _run() -> None:
    preset_name, arguments = take_preset(sys.argv[1:])
    if preset_name is not None:
        _run_preset(preset_name, arguments)
        return
    name = choose_command(PROGRAM, (__doc__ or "").splitlines()[0], COMMANDS, arguments)
    if name is None:
        return
    import tyro

    from dphr_train.commands import COMMANDS as CLASSES

    _log_to_stderr()
    tyro.cli(CLASSES[name], prog=f"{PROGRAM} {name}", args=arguments[1:]).run()


def _run_preset(name: str, arguments: list[str]) -> None:
    import tyro

    from dphr_train.commands import Fit
    from dphr_train.presets.catalogue import preset, require_weights

    _log_to_stderr()
    command = tyro.cli(Fit, prog=f"{PROGRAM} fit", args=arguments, default=Fit(preset(name)))
    require_weights(command.config, name)
    command.run()


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run_command(PROGRAM, _run))
