"""dphr-infer: index a map, locate photos or a camera's frames on it, look into files, and check the installation."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import tyro
from tyro.conf import OmitArgPrefixes

from dphr_infer.cli.requests import Doctor, Index, Inspect, Locate, Watch
from dphr_infer.cli.terminal import run_command, with_homes

PROGRAM = "dphr-infer"

# Each command's work lies in the file of its name, which is loaded when it runs.
_COMMANDS: dict[str, Any] = {"index": Index, "locate": Locate, "watch": Watch, "inspect": Inspect, "doctor": Doctor}


def main(argv: Sequence[str] | None = None) -> int:
    """Run dphr-infer; see `terminal.run_command` for the exit code."""

    def run() -> None:
        request = tyro.extras.subcommand_cli_from_dict(
            _COMMANDS, prog=PROGRAM, description=__doc__, args=argv, config=(OmitArgPrefixes,)
        )
        name = type(request).__name__.lower()
        importlib.import_module(f"dphr_infer.cli.{name}").run(with_homes(request))

    return run_command(PROGRAM, run)


if __name__ == "__main__":
    sys.exit(main())
