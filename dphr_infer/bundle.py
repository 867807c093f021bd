"""A bundle is one folder that holds everything a model needs to fly. This file knows which file is where.

    manifest.json            what the model is, how images reach it, the sha256 of every other file (below)
    model.fp32.onnx          uint8 (B, height_px, width_px, 3) RGB "images" -> float32 (B, dim) "embeddings", of
                             unit length
    model.fp16.onnx          the same, half-precision body
    selftest/images/*.png    real pictures at model size
    selftest/embeddings.safetensors   tensor "embeddings", float32 (n, dim): torch's answer for them, in file-name order

manifest.json, UTF-8 JSON with sorted keys:

    format      "dphr-bundle"
    version     2
    encoder     name of the backbone, for people
    dim         length of an embedding
    max_batch   largest batch that the parity gate ran
    preprocess  {"height_px", "width_px", "interpolation", "fit"}
    files       {relative path: sha256 in hex} for every other file of the folder
    parity      {precision: {"min_cosine", "mean_cosine", "recall_drop", "ap_drop", "n_images"}}
    quantisation  null, or how the int8 model was made: {"recipe", "weights", "calibration_sha256",
                "n_calibration_images", "float_layers": [layers that went back to half precision]}
    origin      free text fields on how the model came to be (checkpoint digest, versions, command)

The bundle's digest is the sha256 of manifest.json; through it every byte of the bundle is named. signature.json may lie
beside it, see signature.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from dphr_infer.errors import BundleError, ConfigError
from dphr_infer.preprocess import Preprocess, read_image
from dphr_infer.signature import SIGNATURE_NAME, require_signature

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")

FORMAT = "dphr-bundle"
VERSION = 2
MANIFEST_NAME = "manifest.json"
SELFTEST_IMAGES = "selftest/images"
SELFTEST_EMBEDDINGS = "selftest/embeddings.safetensors"


def model_name(precision: Precision) -> str:
    """File name of the model in one precision."""
    return f"model.{precision}.onnx"


@dataclass(frozen=True, slots=True)
class Parity:
    """What the gate measured when the shipped model was run against its reference in float32.

    Attributes:
        min_cosine, mean_cosine: between shipped and reference embeddings, over images and batch sizes.
        recall_drop, ap_drop: the reference's recall@1 and AP minus the shipped model's, fractions.
        n_images: that were compared.
    """

    min_cosine: float
    mean_cosine: float
    recall_drop: float
    ap_drop: float
    n_images: int


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How the int8 model was made.

    Attributes:
        recipe: name of the backbone family's rules.
        weights: "int8" where they are stored as int8; "float" where the model holds float weights behind Q/DQ pairs.
        calibration_sha256: digest over the names and contents of the calibration images.
        n_calibration_images: number of them.
        float_layers: layers that the recipe would quantise and that went back to half precision to hold the gate.
    """

    recipe: str
    weights: Literal["int8", "float"]
    calibration_sha256: str
    n_calibration_images: int
    float_layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of manifest.json; see the head of this file for each field."""

    encoder: str
    dim: int
    max_batch: int
    preprocess: Preprocess
    files: dict[str, str]
    parity: dict[str, Parity]
    origin: dict[str, str]
    quantisation: Quantisation | None = None

    def to_json(self) -> str:
        """The exact text of manifest.json."""
        content = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}
        return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files were all present and unchanged when it was opened."""

    folder: Path
    manifest: Manifest
    digest: str

    def model_path(self, precision: Precision) -> Path:
        """The model file in one precision.

        Raises:
            BundleError: the bundle has no such precision.
        """
        if model_name(precision) not in self.manifest.files:
            raise BundleError(f"{self.folder} holds no {precision} model. Export it again with that precision.")
        return self.folder / model_name(precision)

    def read_selftest(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """The self-test images, uint8 (n, h, w, 3), and torch's embeddings of them, float32 (n, dim).

        Raises:
            BundleError: there are none, they differ in size, or they cannot be read.
        """
        names = sorted(name for name in self.manifest.files if name.startswith(SELFTEST_IMAGES + "/"))
        if not names:
            raise BundleError(f"{self.folder} holds no picture in {SELFTEST_IMAGES}. Export the bundle again.")
        try:
            images = np.stack([read_image(self.folder / name) for name in names])
            embeddings = load_file(self.folder / SELFTEST_EMBEDDINGS)["embeddings"]
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise BundleError(
                f"The self-test of {self.folder} cannot be read ({error}). Export the bundle again."
            ) from error
        return images, cast("NDArray[np.float32]", embeddings)


def file_digest(path: Path) -> str:
    """sha256 of a file, in hex, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_files(folder: Path) -> dict[str, str]:
    """{relative posix path: sha256} of every file below `folder` except the manifest and its signature."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: file_digest(path) for name, path in names.items() if name not in (MANIFEST_NAME, SIGNATURE_NAME)}


def parse_manifest(text: str, name: str) -> Manifest:
    """Read the text of a manifest.

    Raises:
        BundleError: not JSON, of another format or version, or with fields missing.
    """
    try:
        raw: dict[str, Any] = json.loads(text)
        if raw["format"] != FORMAT or raw["version"] != VERSION:
            raise BundleError(
                f"{name} is {raw['format']} version {raw['version']}; this program reads {FORMAT} version {VERSION}. "
                "Export the bundle again with this release."
            )
        if int(raw["dim"]) < 1 or int(raw["max_batch"]) < 1:
            raise ValueError(f"dim is {raw['dim']} and max_batch {raw['max_batch']}; both must be at least 1")
        return Manifest(
            encoder=str(raw["encoder"]),
            dim=int(raw["dim"]),
            max_batch=int(raw["max_batch"]),
            preprocess=Preprocess(**raw["preprocess"]),
            files={str(path): str(digest) for path, digest in raw["files"].items()},
            parity={str(precision): _parse_parity(values) for precision, values in raw["parity"].items()},
            origin={str(key): str(value) for key, value in raw["origin"].items()},
            quantisation=_parse_quantisation(raw["quantisation"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError, RecursionError) as error:
        raise BundleError(
            f"{name} is not a bundle manifest ({type(error).__name__}: {error}). Export again."
        ) from error


def _parse_parity(raw: dict[str, Any]) -> Parity:
    drops = {name: float(raw[name]) for name in ("min_cosine", "mean_cosine", "recall_drop", "ap_drop")}
    if not all(map(math.isfinite, drops.values())) or set(raw) != {*drops, "n_images"}:
        raise ValueError(f"parity {raw} holds a value that is no number, or another field")
    return Parity(**drops, n_images=int(raw["n_images"]))


def _parse_quantisation(raw: dict[str, Any] | None) -> Quantisation | None:
    if raw is None:
        return None
    if raw["weights"] not in ("int8", "float"):
        raise ValueError(f"weights are {raw['weights']}; they are stored as int8 or as float")
    return Quantisation(
        recipe=str(raw["recipe"]),
        weights=raw["weights"],
        calibration_sha256=str(raw["calibration_sha256"]),
        n_calibration_images=int(raw["n_calibration_images"]),
        float_layers=tuple(str(name) for name in raw["float_layers"]),
    )


def open_bundle(folder: Path, signer: Path | None = None) -> Bundle:
    """Open a bundle and check every file against its digest.

    Args:
        folder: of the bundle.
        signer: file of the public key that must have signed it; None asks for no signature.

    Raises:
        BundleError: not a bundle, a file missing or changed, of another version, or not signed by that key.
        ConfigError: the file holds no public key.
        MissingPackageError: a signature is asked for and cryptography is not installed.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST_NAME}. Make one with dphr-export.")
    text = path.read_bytes()
    if signer is not None:
        require_signature(folder, text, signer)
    manifest = parse_manifest(text.decode("utf-8", errors="replace"), str(path))
    for name, expected in manifest.files.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise BundleError(f"{path} names a file outside the bundle: {name}. Do not use this bundle.")
        if not (folder / name).is_file():
            raise BundleError(f"{folder} lacks {name}, which its manifest names. Copy the whole bundle again.")
        found = file_digest(folder / name)
        if found != expected:
            raise BundleError(
                f"{folder / name} is damaged: its sha256 is {found[:12]}…, the manifest says {expected[:12]}…. "
                "Copy the bundle again."
            )
    return Bundle(folder, manifest, hashlib.sha256(text).hexdigest())
