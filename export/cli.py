"""dphr-export: checkpoint -> bundle, behind the parity gate."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dphr_infer.bundle import PRECISIONS
from dphr_infer.errors import ExportError
from dphr_infer.terminal import run_command
from export.evaluation_set import DEFAULT_MAX_IMAGES

PROGRAM = "dphr-export"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Export a checkpoint as a bundle: ONNX models, self-test and manifest. Every model is compared "
        "with torch on real images first; one that differs is not written.",
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint of a training run, or the run's folder")
    parser.add_argument("--data", type=Path, help="data set with a test split in University-1652's layout")
    parser.add_argument("--out", type=Path, required=True, help="bundle folder to make; it must not exist")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="default: all")
    parser.add_argument(
        "--optional",
        nargs="+",
        choices=PRECISIONS,
        default=(),
        metavar="PRECISION",
        help="leave a precision out of the bundle, and say so, instead of refusing the bundle when it fails the gate",
    )
    parser.add_argument(
        "--max-images",
        type=int,
        default=DEFAULT_MAX_IMAGES,
        help="images that the gate compares, spread over the places (default: %(default)s)",
    )
    return parser


def export(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        DphrError: the user can mend it.
    """
    if arguments.data is None:
        raise ExportError(
            "No --data was given. The parity gate compares the exported models with torch on real drone and satellite "
            "images, and the bundle's self-test is taken from them: name a data set with a test split, such as the "
            "one of the training run."
        )
    # Only here, so that --help answers without loading torch.
    from dphr_train.checkpoint import last_checkpoint
    from export.build_bundle import ExportRequest, build_bundle

    request = ExportRequest(
        last_checkpoint(arguments.checkpoint),
        arguments.data,
        arguments.out,
        tuple(arguments.precisions),
        tuple(arguments.optional),
        arguments.max_images,
    )
    manifest = build_bundle(request)
    print(f"{arguments.out}: {manifest.encoder}, {manifest.dim} dimensions, {', '.join(manifest.parity)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command line."""
    arguments = _parser().parse_args(argv)
    return run_command(PROGRAM, lambda: export(arguments))


if __name__ == "__main__":
    sys.exit(main())
