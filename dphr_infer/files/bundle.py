"""A bundle is one folder that holds everything a model needs to fly. This file knows which file is where.

    manifest.json            what the model is, how images reach it, the sha256 of every other file; see manifest.py
    model.fp32.onnx          uint8 (B, height_px, width_px, 3) RGB "images" -> float32 (B, dim) "embeddings", of
                             unit length
    model.fp16.onnx          the same, half-precision body
    selftest/images/*.png    real pictures at model size
    selftest/embeddings.safetensors   tensor "embeddings", float32 (n, dim): torch's answer for them, in file-name order

The bundle's digest is the sha256 of manifest.json; through it every byte of the bundle is named. signature.json may lie
beside it, see signature.py.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from dphr_infer.errors import BundleError, ImageError
from dphr_infer.files.manifest import (
    MANIFEST_NAME,
    Manifest,
    Parity,
    Quantisation,
    model_name,
    parse_manifest,
)
from dphr_infer.files.signature import SIGNATURE_NAME, require_signature
from dphr_infer.images.preprocess import read_image
from dphr_infer.types import PRECISIONS, Precision

__all__ = [
    "MANIFEST_NAME",
    "PRECISIONS",
    "SELFTEST_EMBEDDINGS",
    "SELFTEST_IMAGES",
    "Bundle",
    "Manifest",
    "Parity",
    "Precision",
    "Quantisation",
    "digest_files",
    "file_digest",
    "model_name",
    "open_bundle",
    "parse_manifest",
]

SELFTEST_IMAGES = "selftest/images"
SELFTEST_EMBEDDINGS = "selftest/embeddings.safetensors"
MAX_LENGTH_ERROR = 1e-3


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
        """The self-test images, uint8 (n, height_px, width_px, 3), and torch's embeddings of them, float32 (n, dim).

        Raises:
            BundleError: there are none, the manifest does not name them, they cannot be read, they are of another
                size than the manifest states, or an embedding is not of unit length.
        """
        names = sorted(name for name in self.manifest.files if name.startswith(SELFTEST_IMAGES + "/"))
        if not names:
            raise BundleError(f"{self.folder} holds no picture in {SELFTEST_IMAGES}. Export the bundle again.")
        if SELFTEST_EMBEDDINGS not in self.manifest.files:
            raise BundleError(f"The manifest of {self.folder} names no {SELFTEST_EMBEDDINGS}. Export the bundle again.")
        try:
            images = [read_image(self.folder / name) for name in names]
            embeddings = load_file(self.folder / SELFTEST_EMBEDDINGS)["embeddings"]
        except (SafetensorError, ImageError, KeyError, TypeError, ValueError, OSError) as error:
            raise BundleError(
                f"The self-test of {self.folder} cannot be read ({str(error).rstrip('.')}). Export the bundle again."
            ) from error
        size = (self.manifest.preprocess.height_px, self.manifest.preprocess.width_px, 3)
        for name, image in zip(names, images, strict=True):
            if image.shape != size:
                raise BundleError(
                    f"{self.folder / name} is {image.shape[1]}x{image.shape[0]} px, the manifest says {size[1]}x"
                    f"{size[0]}. Export the bundle again."
                )
        return np.stack(images), self._checked_embeddings(embeddings, len(images))

    def _checked_embeddings(self, embeddings: NDArray[np.generic], n_images: int) -> NDArray[np.float32]:
        path, wanted = self.folder / SELFTEST_EMBEDDINGS, (n_images, self.manifest.dim)
        if embeddings.dtype != np.float32 or embeddings.shape != wanted:
            raise BundleError(
                f"{path} holds {embeddings.dtype} {embeddings.shape}, and float32 {wanted} belongs to its pictures and "
                "its manifest. Export the bundle again."
            )
        checked = embeddings.astype(np.float32, copy=False)
        off = float(np.abs(np.linalg.norm(checked.astype(np.float64), axis=1) - 1.0).max())
        if not off <= MAX_LENGTH_ERROR:  # also where it is no number
            raise BundleError(
                f"An embedding in {path} is off unit length by {off:.3g}, at most {MAX_LENGTH_ERROR} is rounding. "
                "Export the bundle again."
            )
        return checked


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


def open_bundle(folder: str | Path, signer: str | Path | None = None) -> Bundle:
    """Open a bundle and check every file against its digest.

    Args:
        folder: of the bundle.
        signer: file of the public key that must have signed it; None asks for no signature.

    Raises:
        BundleError: not a bundle, a file missing or changed, of another version, or not signed by that key.
        ConfigError: the file holds no public key.
        MissingPackageError: a signature is asked for and cryptography is not installed.
    """
    folder = Path(folder)
    path = folder / MANIFEST_NAME
    try:
        if not path.is_file():
            raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST_NAME}. Make one with dphr-export.")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if signer is not None:
        require_signature(folder, content, Path(signer))
    manifest = parse_manifest(content, str(path))
    for name, expected in manifest.files.items():
        try:
            if not (folder / name).is_file():
                raise BundleError(f"{folder} lacks {name}, which its manifest names. Copy the whole bundle again.")
            found = file_digest(folder / name)
        except OSError as error:
            raise _unreadable(folder / name, error) from error
        if found != expected:
            raise BundleError(
                f"{folder / name} is damaged: its sha256 is {found[:12]}…, the manifest says {expected[:12]}…. "
                "Copy the bundle again."
            )
    return Bundle(folder, manifest, hashlib.sha256(content).hexdigest())


def _unreadable(path: Path, error: OSError | ValueError) -> BundleError:
    reason = error.strerror if isinstance(error, OSError) else error
    return BundleError(f"{path} cannot be read: {reason}.")
