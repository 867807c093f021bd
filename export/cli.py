"""dphr-export: a trained model -> bundle, behind the gate; and what is done with bundles before they fly."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from dphr_infer.cli.terminal import run_command
from dphr_infer.errors import ConfigError
from dphr_infer.files.bundle import PRECISIONS
from dphr_train.config import DatasetName
from export import commands

PROGRAM = "dphr-export"
# Kept in words that load nothing: export.gate.evaluation_set and export.int8.model have the numbers.
_MAX_IMAGES, _CALIBRATION_IMAGES = 2000, 256
_DATASETS = ", ".join(get_args(DatasetName))
_WORDS = """\
commands (dphr-export COMMAND --help):
  add-int8            give a bundle an int8 model, calibrated and judged on images of your own
  build               build TensorRT engines of a bundle's models into this machine's cache
  make-key, sign      make an Ed25519 key pair; sign a bundle with it
  import-sample4geo   convert weights in the layout of Sample4Geo's authors to a checkpoint
  report, compare     a page and a table of one bundle; several bundles beside each other
"""


def _add_judging(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", help="data set whose test split the gate runs on")
    parser.add_argument(
        "--dataset",
        choices=get_args(DatasetName),
        default="university1652",
        help=f"its layout: {_DATASETS} (%(default)s, as dphr-train cities writes it)",
        metavar="NAME",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder to make; it must not exist")
    parser.add_argument(
        "--max-images",
        type=int,
        default=_MAX_IMAGES,
        metavar="N",
        help="images that the gate compares, spread over the places (%(default)s)",
    )
    parser.add_argument(
        "--calibration-images",
        type=int,
        metavar="N",
        help=f"training images that int8 ranges are measured on ({_CALIBRATION_IMAGES})",
    )
    parser.add_argument(
        "--int8-weights",
        choices=("int8", "float"),
        help="how the int8 model stores weights; float is for a runtime that takes no int8 constants (int8)",
    )


def _export_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Export a checkpoint as a bundle: ONNX models, self-test and manifest. Every model is compared "
        "with torch on real images first; one that differs is not written.",
        epilog=_WORDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", nargs="?", help="checkpoint of a training run, or the run's folder")
    parser.add_argument("--encoder", metavar="NAME", help="a timm network instead of a checkpoint")
    parser.add_argument(
        "--weights", metavar="FILE", help="its weights, needed: a file, embedded (tf_efficientnet_lite0) or random"
    )
    parser.add_argument("--image-px", type=int, metavar="N", help="side of its input, needed")
    parser.add_argument(
        "--pooling", choices=("average", "gem"), help="of its features, in place of a checkpoint's (average)"
    )
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=("fp32", "fp16"), help="models to make (fp32 fp16)"
    )
    parser.add_argument(
        "--optional",
        nargs="+",
        choices=PRECISIONS,
        default=(),
        metavar="PRECISION",
        help="leave a precision out of the bundle, and say so, instead of refusing the bundle when it fails the gate",
    )
    parser.add_argument("--opset", type=int, default=18, metavar="N", help="of the ONNX files (%(default)s)")
    _add_judging(parser)
    return parser


def _source(arguments: argparse.Namespace) -> commands.Source:
    if (arguments.checkpoint is None) == (arguments.encoder is None):
        raise ConfigError("Name either a checkpoint or, with --encoder, a timm network: one of the two.")
    if arguments.encoder is None:
        for name in ("weights", "image_px", "pooling"):
            if getattr(arguments, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option} belongs to --encoder; a checkpoint has its own. Leave {option} out.")
        if not arguments.checkpoint:
            raise ConfigError("The name of the checkpoint is empty. Name the file, or the folder of its run.")
        return commands.Source(checkpoint=Path(arguments.checkpoint))
    if arguments.image_px is None:
        raise ConfigError(f"--encoder {arguments.encoder} needs --image-px, the side of its input, such as 224.")
    if arguments.weights == "":
        raise ConfigError("--weights is empty. Name a file, or give embedded or random.")
    return commands.Source(
        encoder=arguments.encoder,
        weights=arguments.weights,
        image_px=arguments.image_px,
        pooling=arguments.pooling or "average",
    )


def _judging(arguments: argparse.Namespace, precisions: Sequence[str] = ("int8",)) -> commands.Judging:
    if "int8" not in precisions:
        for name in ("calibration_images", "int8_weights"):
            if getattr(arguments, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(
                    f"{option} is about int8, but the precisions are {' '.join(precisions)}. Add int8 to --precisions, "
                    f"or leave {option} out."
                )
    asked = arguments.calibration_images
    return commands.Judging(
        data=arguments.data,
        dataset=arguments.dataset,
        out=arguments.out,
        max_images=arguments.max_images,
        calibration_images=_CALIBRATION_IMAGES if asked is None else asked,
        int8_weights=arguments.int8_weights or "int8",
    )


def _export(arguments: argparse.Namespace) -> None:
    if arguments.data is None:
        raise ConfigError(
            "No --data was given. The parity gate compares the exported models with torch on real drone and satellite "
            "images, and the bundle's self-test is taken from them: name a data set with a test split, such as the "
            "one of the training run, or one that dphr-train cities writes."
        )
    precisions, optional = tuple(arguments.precisions), tuple(arguments.optional)
    commands.export(_source(arguments), _judging(arguments, precisions), precisions, optional, arguments.opset)


def _add_int8(arguments: argparse.Namespace) -> None:
    if arguments.data is None:
        raise ConfigError(
            "No --data was given. int8 is calibrated on the training split of a data set, and judged on its test "
            "split: name one with both, of images like those that the drone will see."
        )
    commands.add_int8(arguments.bundle, _judging(arguments))


def _add_int8_parser() -> argparse.ArgumentParser:
    parser = _command("add-int8", "Give a bundle an int8 model, calibrated and judged on images of your own.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="with an fp32 and an fp16 model")
    _add_judging(parser)
    return parser


def _build_parser() -> argparse.ArgumentParser:
    parser = _command("build", "Build TensorRT engines of a bundle's models into this machine's cache.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, help="models to build (all of the bundle)")
    parser.add_argument("--max-batch", type=int, metavar="N", help="largest batch (as far as the gate ran)")
    parser.add_argument("--best-batch", type=int, default=1, metavar="N", help="batch to tune for (%(default)s)")
    parser.add_argument("--workspace-mb", type=int, default=1024, metavar="MB", help="for a kernel (%(default)s)")
    parser.add_argument("--dla", type=int, metavar="CORE", help="DLA core to use, of a board that has one")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="instead of the user's own cache")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too, for report --engines")
    return parser


def _build(arguments: argparse.Namespace) -> None:
    commands.build(
        arguments.bundle,
        arguments.precisions,
        max_batch=arguments.max_batch,
        best_batch=arguments.best_batch,
        workspace_mb=arguments.workspace_mb,
        dla=arguments.dla,
        cache=arguments.cache,
        json_file=arguments.json,
    )


def _make_key_parser() -> argparse.ArgumentParser:
    parser = _command("make-key", "Make an Ed25519 key pair: KEY.pem, private, and KEY.pub.pem for those who verify.")
    parser.add_argument("key", type=Path, metavar="KEY.pem", help="the private key to write; it must not exist")
    return parser


def _sign_parser() -> argparse.ArgumentParser:
    parser = _command("sign", "Sign a bundle; dphr-infer --require-signature verifies it.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--key", type=Path, required=True, metavar="KEY.pem", help="the private key")
    return parser


def _import_parser() -> argparse.ArgumentParser:
    parser = _command("import-sample4geo", "Convert weights in the layout of Sample4Geo's authors to a checkpoint.")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS.pth", help="a state dict; also .safetensors")
    parser.add_argument("--encoder", required=True, metavar="NAME", help="timm name of the network")
    parser.add_argument("--image-px", type=int, required=True, metavar="N", help="side of the square images")
    parser.add_argument(
        "--dataset",
        choices=get_args(DatasetName),
        default="university1652",
        metavar="NAME",
        help=f"what they were trained on: {_DATASETS} (%(default)s)",
    )
    parser.add_argument(
        "--ground-px", type=int, nargs=2, metavar=("H", "W"), help="size of the panoramas, if not the authors'"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="CHECKPOINT", help="file to write")
    return parser


def _import(arguments: argparse.Namespace) -> None:
    ground = None if arguments.ground_px is None else (arguments.ground_px[0], arguments.ground_px[1])
    commands.import_weights(
        arguments.weights, arguments.encoder, arguments.image_px, arguments.out, arguments.dataset, ground
    )


def _report_parser() -> argparse.ArgumentParser:
    parser = _command("report", "A page, a table and JSON of a bundle: size, agreement, latency here, engine builds.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make; it must not exist")
    parser.add_argument("--engines", type=Path, metavar="FILE", help="what build --json wrote")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="for each batch size (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="0 takes all cores (%(default)s)")
    return parser


def _compare_parser() -> argparse.ArgumentParser:
    parser = _command("compare", "Measure several bundles here and put them beside each other.")
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="for each batch size (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="0 takes all cores (%(default)s)")
    return parser


def _command(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"{PROGRAM} {name}", description=description)


_COMMANDS: dict[str, tuple[Callable[[], argparse.ArgumentParser], Callable[[argparse.Namespace], None]]] = {
    "add-int8": (_add_int8_parser, _add_int8),
    "build": (_build_parser, _build),
    "make-key": (_make_key_parser, lambda a: commands.make_key(a.key)),
    "sign": (_sign_parser, lambda a: commands.sign(a.bundle, a.key)),
    "import-sample4geo": (_import_parser, _import),
    "report": (_report_parser, lambda a: commands.report(a.bundle, a.out, a.engines, a.seconds, a.threads)),
    "compare": (_compare_parser, lambda a: commands.compare(a.bundles, a.seconds, a.threads)),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command line. A checkpoint that is called like a command is written ./sign."""
    words = list(sys.argv[1:] if argv is None else argv)
    make, run = _COMMANDS.get(words[0], (_export_parser, _export)) if words else (_export_parser, _export)
    parsed = make().parse_args(words[1:] if words and words[0] in _COMMANDS else words)
    return run_command(PROGRAM, lambda: run(parsed))


if __name__ == "__main__":
    sys.exit(main())
