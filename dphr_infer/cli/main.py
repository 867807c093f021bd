"""dphr-infer: index a map, locate photos or a camera's frames on it, look into files, and check the installation."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from dphr_infer.cli.terminal import choose_command, run_command, with_homes

PROGRAM = "dphr-infer"
COMMANDS = {
    "index": "embed the tiles of a georeferenced map into a gallery",
    "locate": "locate photos on a gallery",
    "flight": "follow a flight's photos in time: fixes, or why there is none",
    "watch": "locate frames as a folder, a film or a camera gives them",
    "inspect": "say what a bundle or a gallery holds",
    "doctor": "say what is installed, and run a bundle's self-test",
}
"""Each command in one line; its options are a class of requests.py, its work lies in the file of its name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run dphr-infer; see `terminal.run_command` for the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)

    def run() -> None:
        name = choose_command(PROGRAM, __doc__ or "", COMMANDS, words)
        if name is None:
            return
        import tyro

        from dphr_infer.cli import requests

        kind = getattr(requests, name.capitalize())
        request = tyro.cli(kind, prog=f"{PROGRAM} {name}", args=words[1:], config=(tyro.conf.OmitArgPrefixes,))
        importlib.import_module(f"dphr_infer.cli.{name}").run(with_homes(request))

    return run_command(PROGRAM, run)


if __name__ == "__main__":
    sys.exit(main())
