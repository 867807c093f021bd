"""Make a key pair, and sign a bundle with it. The form of signature.json is stated in dphr_infer/files/signature.py.

Keys are Ed25519 in PEM files: PKCS #8 for the private key, SubjectPublicKeyInfo for the public one. A passphrase is
out of scope: the private key lies in a file that only its owner may read, and whoever wants more keeps that file in an
encrypted folder or on a machine that does nothing but sign.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dphr_infer.engines.onnxruntime import EXTERNAL_DATA_MARK
from dphr_infer.errors import BundleError, ConfigError, StorageError
from dphr_infer.files.atomic import atomic_file, new_parents, storage_error
from dphr_infer.files.bundle import MANIFEST_NAME, open_bundle
from dphr_infer.files.signature import SIGNATURE_NAME, Signature, import_ed25519, read_key_file

PUBLIC_SUFFIX = ".pub.pem"
_PRIVATE_MODE, _PUBLIC_MODE = 0o600, 0o644
_PURPOSE = "Signing a bundle"
# Kinds of protobuf fields, and ModelProto's field 7, the graph.
_VARINT, _BYTES = 0, 2
_GRAPH = 7 << 3 | _BYTES


def public_key_path(private_path: Path) -> Path:
    """Where the public key of a pair lies: drone.pem -> drone.pub.pem."""
    return private_path.with_name(private_path.stem + PUBLIC_SUFFIX)


@contextlib.contextmanager
def _new_file(path: Path, content: bytes, mode: int) -> Iterator[None]:
    """Write a file that must not exist yet; it is removed again when the block fails.

    The mode holds from the first moment on, which `atomic_file` does not promise: it makes files that all may read.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise StorageError(f"{path} exists already, and a key is never overwritten. Choose another name.") from None
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            kept = stat.S_IMODE(os.fstat(handle).st_mode)
            if kept & ~mode:
                raise StorageError(
                    f"{path} would be readable by others: its file system gives it mode {kept:o} instead of {mode:o}. "
                    "Choose a folder on another file system."
                )
            file.write(content)
            file.flush()
            os.fsync(handle)
        yield
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise storage_error(path, error) from error
        raise


def make_key(private_path: Path) -> Path:
    """Make a key pair.

    Args:
        private_path: file for the private key, mode 0600; it must not exist.

    Returns:
        The file of the public key, beside it with the ending .pub.pem.

    Raises:
        StorageError: one of the two files exists or cannot be written, or the private one cannot be kept private;
            neither is left behind.
        MissingPackageError: cryptography is not installed.
    """
    ed25519 = import_ed25519(_PURPOSE)
    from cryptography.hazmat.primitives import serialization

    if not private_path.name:
        raise storage_error(private_path, OSError(errno.EISDIR, "it is a folder"))
    public_path = public_key_path(private_path)
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with (
        new_parents(private_path),
        _new_file(private_path, private, _PRIVATE_MODE),
        _new_file(public_path, public, _PUBLIC_MODE),
    ):
        return public_path


def _read_private_key(path: Path) -> Any:
    ed25519 = import_ed25519(_PURPOSE)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = read_key_file(path)
    if b"PUBLIC KEY" in content:
        raise ConfigError(
            f"{path} holds a public key; a bundle is signed with the private one, the file that was named to "
            "dphr-export make-key."
        )
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError as error:
        raise ConfigError(
            f"{path} is locked by a passphrase, which dphr-export does not ask for. Remove the passphrase, or make "
            "another pair with dphr-export make-key."
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is not a private key in PEM form. Make a pair with dphr-export make-key.") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ConfigError(
            f"{path} holds a private key of another kind than Ed25519. Make a pair with dphr-export make-key."
        )
    return key


def _require_model(path: Path) -> None:
    """Refuse what no ONNX reader could open: the fields of the outermost message must fill the file and hold a graph.

    This needs no package that a machine for signing lacks. Whether the model answers well is for dphr-infer doctor.

    Raises:
        BundleError: it is no ONNX model, it is cut short, or it keeps weights in other files, which nothing would sign.
    """
    content = path.read_bytes()
    if EXTERNAL_DATA_MARK in content:
        raise BundleError(
            f"{path} keeps weights in other files, which a signature would not cover. Export the bundle again."
        )
    position, fields = 0, set()
    try:
        while position < len(content):
            tag, position = _read_varint(content, position)
            fields.add(tag)
            if tag & 7 == _VARINT:
                _, position = _read_varint(content, position)
            elif tag & 7 == _BYTES:
                length, position = _read_varint(content, position)
                position += length
            else:
                raise ValueError("a field of a kind that no model has")
    except (ValueError, IndexError):
        position = -1
    if position != len(content) or _GRAPH not in fields:
        raise BundleError(f"{path} is not an ONNX model, or is cut short. Export the bundle again.")


def _read_varint(content: bytes, position: int) -> tuple[int, int]:
    """A number of protobuf's variable length, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than 10 bytes")


def sign_bundle(folder: Path, private_key_path: Path) -> None:
    """Check every file of a bundle, its models and its self-test, and write signature.json beside its manifest.

    An older signature.json is replaced. The same bundle and key give the same bytes.

    Raises:
        BundleError: the bundle is incomplete, damaged or of another version, a model is no model, or the self-test
            cannot be read or does not fit the manifest; it is not signed.
        ConfigError: the file holds no Ed25519 private key without a passphrase.
        StorageError: signature.json cannot be written.
        MissingPackageError: cryptography is not installed.
    """
    key = _read_private_key(private_key_path)
    bundle = open_bundle(folder)
    for precision in bundle.manifest.precisions:
        _require_model(bundle.model_path(precision))
    bundle.read_selftest()
    manifest = (folder / MANIFEST_NAME).read_bytes()
    digest = hashlib.sha256(manifest).hexdigest()
    if digest != bundle.digest:
        raise BundleError(f"{folder} was changed while it was being signed. Let nobody write to it, and sign again.")
    signature = Signature(key.public_key().public_bytes_raw(), digest, key.sign(manifest))
    with atomic_file(folder / SIGNATURE_NAME) as temporary:
        temporary.write_text(signature.to_json(), encoding="utf-8")
