"""Who made this bundle? An Ed25519 signature over the exact bytes of its manifest, which names every other byte.

    signature.json   beside manifest.json: 335 bytes of UTF-8 JSON, keys sorted, indented by two spaces, with these
                     keys and a line end after the last brace

    algorithm         "Ed25519" (RFC 8032, without a context and without hashing beforehand)
    format            "dphr-signature"
    manifest_sha256   sha256 of manifest.json, 64 lower-case hex digits: the bundle's digest
    public_key        the signer's public key, 32 bytes in base64 (44 characters)
    signature         over all bytes of manifest.json, 64 bytes in base64 (88 characters)
    version           1

Only the signature is proof. The key and the digest in the file say in an error what does not fit; the key that counts
is the one that the user gives. A file that differs from this form in one byte is refused, so that no two files are the
same signature. OpenSSL checks the same, given the 64 bytes in a file of their own:

    openssl pkeyutl -verify -pubin -inkey KEY.pub.pem -rawin -in manifest.json -sigfile signature.bin

What it covers: manifest.json, and through its sha256 values every file that it names, as `open_bundle` finds them. A
file in the folder that the manifest does not name is not covered; no program of ours reads one. A signature does not
protect from somebody who may write to the folder while a program uses it.

Together with export/signing.py the only file that imports cryptography, and only when a signature is asked for.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dphr_infer.errors import BundleError, ConfigError, MissingPackageError

FORMAT = "dphr-signature"
VERSION = 1
ALGORITHM = "Ed25519"
SIGNATURE_NAME = "signature.json"
SIGNATURE_FILE_BYTES = 335
KEY_BYTES = 32
SIGNATURE_BYTES = 64

_MAX_KEY_FILE_BYTES = 1 << 16
_FINGERPRINT_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Signature:
    """The content of signature.json.

    Attributes:
        public_key: the signer's, 32 bytes.
        manifest_sha256: of the manifest that was signed, in hex.
        signature: 64 bytes.
    """

    public_key: bytes
    manifest_sha256: str
    signature: bytes

    def to_json(self) -> str:
        """The exact text of signature.json."""
        content = {
            "algorithm": ALGORITHM,
            "format": FORMAT,
            "manifest_sha256": self.manifest_sha256,
            "public_key": base64.b64encode(self.public_key).decode(),
            "signature": base64.b64encode(self.signature).decode(),
            "version": VERSION,
        }
        return json.dumps(content, indent=2, sort_keys=True) + "\n"


def fingerprint(public_key: bytes) -> str:
    """A public key's name in messages: the first 16 hex digits of the sha256 of its 32 bytes."""
    return hashlib.sha256(public_key).hexdigest()[:_FINGERPRINT_DIGITS]


def import_ed25519(purpose: str) -> Any:
    """The module cryptography.hazmat.primitives.asymmetric.ed25519.

    Raises:
        MissingPackageError: cryptography is not installed; a signature that was asked for is never skipped.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingPackageError("cryptography", "sign", purpose) from error
    return ed25519


def parse_signature(content: bytes, name: str) -> Signature:
    """Read the bytes of signature.json; nothing is verified yet.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        BundleError: of another version, or not exactly the bytes that `Signature.to_json` writes.
    """
    try:
        raw: dict[str, Any] = json.loads(content)
        if raw["format"] == FORMAT and (raw["version"], raw["algorithm"]) != (VERSION, ALGORITHM):
            raise BundleError(
                f"{name} is {FORMAT} version {raw['version']!r:.20} with {raw['algorithm']!r:.20}; this program "
                f"reads version {VERSION} with {ALGORITHM}. Sign the bundle again with this release."
            )
        signature = Signature(
            public_key=base64.b64decode(raw["public_key"], validate=True),
            manifest_sha256=str(raw["manifest_sha256"]),
            signature=base64.b64decode(raw["signature"], validate=True),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(name) from error
    lengths = (len(signature.public_key), len(signature.signature))
    hexadecimal = re.fullmatch("[0-9a-f]{64}", signature.manifest_sha256)
    if lengths != (KEY_BYTES, SIGNATURE_BYTES) or not hexadecimal or signature.to_json().encode() != content:
        raise _damaged(name)
    return signature


def _damaged(name: str) -> BundleError:
    return BundleError(
        f"{name} is damaged: it is not a {FORMAT} file byte by byte. Copy the bundle again, or have it signed again."
    )


def read_public_key(path: Path) -> bytes:
    """The 32 bytes of an Ed25519 public key in a PEM file.

    Raises:
        ConfigError: the file cannot be read, holds a private key or another kind of key, or no key.
        MissingPackageError: cryptography is not installed.
    """
    ed25519 = import_ed25519("Checking a bundle's signature")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = read_key_file(path)
    if b"PRIVATE KEY" in content:
        raise ConfigError(
            f"{path} holds a private key; a signature is checked with the public one, which dphr-export make-key wrote "
            "beside it (.pub.pem). Keep the private key off the machine that flies."
        )
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path} is not a public key in PEM form. Give the .pub.pem file that dphr-export make-key wrote."
        ) from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise ConfigError(
            f"{path} holds a public key of another kind than {ALGORITHM}. Give the .pub.pem file that dphr-export "
            "make-key wrote."
        )
    raw: bytes = key.public_bytes_raw()
    return raw


def read_key_file(path: Path) -> bytes:
    """The bytes of a small file that should hold a key.

    Raises:
        ConfigError: there is no such file, it cannot be read, or it is too large for a key.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_KEY_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"The key file {path} does not exist. Make a pair with dphr-export make-key.") from None
    except OSError as error:
        raise ConfigError(f"The key file {path} cannot be read: {error.strerror}.") from error
    if len(content) > _MAX_KEY_FILE_BYTES:
        raise ConfigError(f"{path} is larger than {_MAX_KEY_FILE_BYTES} bytes, so it is no key file.")
    return content


def verify_manifest(manifest: bytes, signature: bytes, public_key: bytes, folder: Path) -> None:
    """Verify a manifest that was read already. Reads no file, so nothing can change between check and use.

    Args:
        manifest: all bytes of manifest.json.
        signature: all bytes of signature.json.
        public_key: 32 bytes, of the signer that the caller trusts.
        folder: of the bundle, for messages.

    Raises:
        BundleError: the signature file is damaged, by another key, of another manifest, or not genuine.
        MissingPackageError: cryptography is not installed.
    """
    ed25519 = import_ed25519("Checking a bundle's signature")
    from cryptography.exceptions import InvalidSignature

    path = folder / SIGNATURE_NAME
    found = parse_signature(signature, str(path))
    if found.public_key != public_key:
        raise BundleError(
            f"{folder} is signed by the key {fingerprint(found.public_key)}, not by the key {fingerprint(public_key)} "
            "that was asked for. Do not use it unless you trust that signer and have its key from a safe source."
        )
    digest = hashlib.sha256(manifest).hexdigest()
    if found.manifest_sha256 != digest:
        raise BundleError(
            f"{folder} was changed after it was signed: the sha256 of its manifest is {digest[:12]}…, the signed one "
            f"was {found.manifest_sha256[:12]}…. Copy the bundle again, or have it signed again."
        )
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public_key).verify(found.signature, manifest)
    except (InvalidSignature, ValueError) as error:
        raise BundleError(
            f"{path} is not genuine: the key {fingerprint(public_key)} did not make this signature of the manifest. "
            "Do not use this bundle."
        ) from error


def require_signature(folder: Path, manifest: bytes, public_key_path: Path) -> None:
    """Refuse a bundle whose manifest is not signed by one key.

    Args:
        folder: of the bundle; signature.json is read from it, once.
        manifest: the bytes of manifest.json that the caller read and goes on with.
        public_key_path: PEM file of the signer that the user trusts.

    Raises:
        BundleError: unsigned, or see `verify_manifest`.
        ConfigError: see `read_public_key`.
        MissingPackageError: cryptography is not installed.
    """
    public_key = read_public_key(public_key_path)
    path = folder / SIGNATURE_NAME
    try:
        with path.open("rb") as file:
            signature = file.read(SIGNATURE_FILE_BYTES + 1)
    except FileNotFoundError:
        raise BundleError(
            f"{folder} is not signed: it has no {SIGNATURE_NAME}, and a signature by the key "
            f"{fingerprint(public_key)} was asked for. Have it signed with dphr-export sign."
        ) from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}.") from error
    verify_manifest(manifest, signature, public_key, folder)
