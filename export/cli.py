"""dphr-export: a trained model -> bundle, behind the gate; and what is done with bundles before they fly.

This file answers which verbs there are without loading anything else; a verb's own options are in verbs.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dphr_infer.cli.terminal import choose_command, run_command

PROGRAM = "dphr-export"
COMMANDS = {
    "bundle": "Export a checkpoint or a timm network as a bundle; a model that differs from torch is not written.",
    "add-int8": "Give a bundle an int8 model, calibrated and judged on images of your own.",
    "calibrate": "Find, on flights over held-out maps, from where on a match and a fix of a bundle may be believed.",
    "build": "Build TensorRT engines of a bundle's models into this machine's cache.",
    "make-key": "Make an Ed25519 key pair: KEY.pem, private, and KEY.pub.pem for those who verify.",
    "sign": "Sign a bundle; dphr-infer --require-signature verifies it.",
    "import-sample4geo": "Convert weights in the layout of Sample4Geo's authors to a checkpoint.",
    "report": "Write a page, a table and JSON of a bundle: size, agreement, latency here, engine builds.",
    "compare": "Measure several bundles here and put them beside each other.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run dphr-export; see `terminal.run_command` for the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)

    def run() -> None:
        name = choose_command(PROGRAM, (__doc__ or "").splitlines()[0], COMMANDS, words)
        if name is None:
            return
        import tyro

        from export.verbs import VERB_TYPES

        tyro.cli(VERB_TYPES[name], prog=f"{PROGRAM} {name}", description=COMMANDS[name], args=words[1:]).run()

    return run_command(PROGRAM, run)


if __name__ == "__main__":
    sys.exit(main())
