from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from dphr_infer.errors import BundleError, ConfigError, MissingPackageError
from dphr_infer.files.signature import (
    SIGNATURE_FILE_BYTES,
    Signature,
    fingerprint,
    parse_signature,
    read_public_key,
    require_signature,
    verify_manifest,
)

# RFC 8032, section 7.1, test 2: the message is the one byte 0x72.
SECRET = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
MESSAGE = b"r"
SIGNED = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)
RFC_FILE = b"""{
  "algorithm": "Ed25519",
  "format": "dphr-signature",
  "manifest_sha256": "454349e422f05297191ead13e21d3db520e5abef52055e4964b82fb213f593a1",
  "public_key": "PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=",
  "signature": "kqAJqfDUyrhyDoILX2QlQKKye1QWUD+Ps3YiI+vbadoIWsHkPhWZbkWPNhPQ8R2MOHsurrQwKu6wDSkWErsMAA==",
  "version": 1
}
"""
FOLDER = Path("my_bundle")
MANIFEST = b'{\n  "dim": 24,\n  "format": "dphr-bundle"\n}\n'


def sign(manifest: bytes, seed: int = 1) -> tuple[bytes, bytes]:
    """(signature.json, public key) of a key made of one repeated byte."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    public = key.public_key().public_bytes_raw()
    digest = hashlib.sha256(manifest).hexdigest()
    return Signature(public, digest, key.sign(manifest)).to_json().encode(), public


def write_public(path: Path, raw: bytes) -> Path:
    key = ed25519.Ed25519PublicKey.from_public_bytes(raw)
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.write_bytes(pem)
    return path


def flip(content: bytes, position: int, mask: int) -> bytes:
    return content[:position] + bytes([content[position] ^ mask]) + content[position + 1 :]


SIGNATURE, PUBLIC_KEY = sign(MANIFEST)


def test_the_signature_of_the_rfc_is_written_byte_by_byte_and_verified() -> None:
    signature = Signature(PUBLIC, hashlib.sha256(MESSAGE).hexdigest(), SIGNED)
    assert signature.to_json().encode() == RFC_FILE
    assert len(RFC_FILE) == SIGNATURE_FILE_BYTES == 335
    assert parse_signature(RFC_FILE, "x") == signature
    verify_manifest(MESSAGE, RFC_FILE, PUBLIC, FOLDER)
    assert ed25519.Ed25519PrivateKey.from_private_bytes(SECRET).sign(MESSAGE) == SIGNED


@given(st.integers(0, len(MANIFEST) - 1), st.integers(1, 255))
def test_any_changed_byte_of_the_manifest_is_refused(position: int, mask: int) -> None:
    with pytest.raises(BundleError, match=r"^my_bundle was changed after it was signed: the sha256 of its manifest"):
        verify_manifest(flip(MANIFEST, position, mask), SIGNATURE, PUBLIC_KEY, FOLDER)


@given(st.integers(0, len(SIGNATURE) - 1), st.integers(1, 255))
def test_any_changed_byte_of_the_signature_file_is_refused(position: int, mask: int) -> None:
    with pytest.raises(BundleError):
        verify_manifest(MANIFEST, flip(SIGNATURE, position, mask), PUBLIC_KEY, FOLDER)


def test_no_byte_of_the_signature_file_is_free() -> None:
    for position in range(len(SIGNATURE)):
        for mask in (0x01, 0x08, 0x20, 0x29):  # 0x20 turns letters to the other case, 0x29 a space into a tab
            with pytest.raises(BundleError):
                verify_manifest(MANIFEST, flip(SIGNATURE, position, mask), PUBLIC_KEY, FOLDER)


@given(st.binary(max_size=400) | st.integers(0, len(SIGNATURE) - 1).map(lambda end: SIGNATURE[:end]))
def test_any_other_bytes_are_refused_as_damaged(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"signature\.json is damaged"):
        verify_manifest(MANIFEST, content, PUBLIC_KEY, FOLDER)


@pytest.mark.parametrize(
    "change",
    [
        {"signature": 5},
        {"public_key": "AA=="},
        {"signature": None},
        {"manifest_sha256": ["\x1b[2J"]},
        {"manifest_sha256": "\x1b[2J" + 60 * "0"},
        {"extra": 1},
        {"format": "other"},
        {"public_key": "é"},
    ],
)
def test_fields_of_the_wrong_kind_are_refused_as_damaged(change: dict[str, object]) -> None:
    content = json.dumps({**json.loads(SIGNATURE), **change}, indent=2, sort_keys=True) + "\n"
    with pytest.raises(BundleError, match="is damaged") as caught:
        verify_manifest(MANIFEST, content.encode(), PUBLIC_KEY, FOLDER)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("change", [{"version": 2}, {"algorithm": "Ed448"}])
def test_a_signature_of_another_version_is_refused_with_both(change: dict[str, object]) -> None:
    content = json.dumps({**json.loads(SIGNATURE), **change}, indent=2, sort_keys=True) + "\n"
    with pytest.raises(
        BundleError, match=r"version (2|1) with 'Ed(25519|448)'; this program reads version 1 with Ed25"
    ):
        parse_signature(content.encode(), "signature.json")


def test_a_signature_by_another_key_names_both_keys() -> None:
    _, other = sign(MANIFEST, 2)
    with pytest.raises(BundleError) as caught:
        verify_manifest(MANIFEST, SIGNATURE, other, FOLDER)
    assert f"signed by the key {fingerprint(PUBLIC_KEY)}, not by the key {fingerprint(other)}" in str(caught.value)


def test_a_forger_who_writes_the_trusted_key_and_the_right_digest_is_refused() -> None:
    forged = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([2]) * 32).sign(MANIFEST)
    content = Signature(PUBLIC_KEY, hashlib.sha256(MANIFEST).hexdigest(), forged).to_json().encode()
    with pytest.raises(BundleError, match=r"signature\.json is not genuine: the key .* did not make this signature"):
        verify_manifest(MANIFEST, content, PUBLIC_KEY, FOLDER)


def test_a_signature_with_a_second_form_of_the_same_number_is_refused() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    twin = SIGNED[:32] + (int.from_bytes(SIGNED[32:], "little") + order).to_bytes(32, "little")
    content = Signature(PUBLIC, hashlib.sha256(MESSAGE).hexdigest(), twin).to_json().encode()
    with pytest.raises(BundleError, match="is not genuine"):
        verify_manifest(MESSAGE, content, PUBLIC, FOLDER)


def test_a_folder_is_checked_with_the_bytes_that_the_caller_read(tmp_path: Path) -> None:
    key = write_public(tmp_path / "key.pub.pem", PUBLIC_KEY)
    with pytest.raises(BundleError, match=f"is not signed: it has no signature.json.*{fingerprint(PUBLIC_KEY)}"):
        require_signature(tmp_path, MANIFEST, key)
    (tmp_path / "signature.json").write_bytes(SIGNATURE)
    (tmp_path / "manifest.json").write_bytes(b"changed on the disk since it was read")
    require_signature(tmp_path, MANIFEST, key)
    with pytest.raises(BundleError, match="was changed after it was signed"):
        require_signature(tmp_path, b"changed on the disk since it was read", key)
    (tmp_path / "signature.json").write_bytes(SIGNATURE + b"\n")
    with pytest.raises(BundleError, match="is damaged"):
        require_signature(tmp_path, MANIFEST, key)
    (tmp_path / "signature.json").unlink()
    (tmp_path / "signature.json").mkdir()
    with pytest.raises(BundleError, match=r"signature\.json cannot be read: Is a directory"):
        require_signature(tmp_path, MANIFEST, key)


def test_key_files_that_are_no_public_key_are_refused_by_what_they_are(tmp_path: Path) -> None:
    pem, info = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    private = ed25519.Ed25519PrivateKey.generate()
    pkcs8 = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    other = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(pem, info)
    public = private.public_key().public_bytes(pem, info)
    files = {
        "holds a private key; a signature is checked with the public one": pkcs8,
        "holds a public key of another kind than Ed25519": other,
        "is not a public key in PEM form": b"ssh-ed25519 AAAA somebody@home\n",
        "is not a public key in PEM form.": b"",
        "is not a public key in PEM form. Give": public[:60],
        "is larger than 65536 bytes": b"0" * 65537,
    }
    for words, content in files.items():
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            read_public_key(tmp_path / "key")
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="does not exist"):
        read_public_key(tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_public_key(tmp_path)
    (tmp_path / "key").write_bytes(public)
    assert read_public_key(tmp_path / "key") == private.public_key().public_bytes_raw()


def test_without_cryptography_a_signature_is_refused_and_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'dphr\[sign\]'"):
        verify_manifest(MANIFEST, SIGNATURE, PUBLIC_KEY, FOLDER)


def test_importing_the_module_does_not_import_cryptography() -> None:
    code = "import sys, dphr_infer.files.signature; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_openssl_verifies_the_same_bytes(tmp_path: Path) -> None:
    key = write_public(tmp_path / "key.pub.pem", PUBLIC_KEY)
    (tmp_path / "signature.bin").write_bytes(parse_signature(SIGNATURE, "x").signature)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(key), "-rawin"]
    for content, code in ((MANIFEST, 0), (MANIFEST + b" ", 1)):
        (tmp_path / "manifest.json").write_bytes(content)
        files = ["-in", str(tmp_path / "manifest.json"), "-sigfile", str(tmp_path / "signature.bin")]
        try:
            done = subprocess.run([*command, *files], capture_output=True, check=False)
        except FileNotFoundError:
            pytest.skip("openssl is not installed")
        assert done.returncode == code
