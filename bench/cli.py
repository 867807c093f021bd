"""dphr-bench: how fast a bundle locates photos on this machine, and whether it is still right."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dphr_infer.cli.terminal import choose_command, run_command

PROGRAM = "dphr-bench"
COMMANDS = {
    "run": "measure a photo from file to position, throughput, matching, start-up and memory",
    "flight": "fly over known maps, right and wrong, and hold every fix against the truth",
    "sweep": "one figure over a grid of settings, a line of JSON for each point",
    "versus": "another installation and this one in turns: is this one slower?",
    "compare": "what changed between reports: medians, intervals and ratios",
    "gpu": "measurements that need an NVIDIA GPU",
}
"""Each command of commands.COMMANDS in one line."""
_SEPARATOR = "--"


def _act(words: list[str]) -> int:
    name = choose_command(PROGRAM, __doc__ or "", COMMANDS, words)
    if name is None:
        return 0
    import tyro

    from bench.commands import COMMANDS as KINDS

    own, run_words = words[1:], tuple[str, ...]()
    if name == "versus" and _SEPARATOR in own:
        place = own.index(_SEPARATOR)
        own, run_words = own[:place], tuple(own[place + 1 :])
    flat = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes, tyro.conf.CascadeSubcommandArgs)
    command = tyro.cli(KINDS[name], prog=f"{PROGRAM} {name}", args=own, config=flat)
    code: int = command.run(run_words) if name == "versus" else command.run()
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command line.

    Returns:
        0; 1 for an INVALID report or a change beyond --fail-above; 2 for a mistake of the user's; 130 for an interrupt.
    """
    ended = [0]

    def act() -> None:
        ended[0] = _act(list(sys.argv[1:] if argv is None else argv))

    return run_command(PROGRAM, act) or ended[0]
