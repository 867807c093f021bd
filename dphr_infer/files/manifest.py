"""manifest.json: what a model is, how images reach it, and the sha256 of every other file of its bundle.

UTF-8 JSON with sorted keys:

    format      "dphr-bundle"
    version     2
    encoder     name of the backbone, for people
    dim         length of an embedding
    max_batch   largest batch that the parity gate ran
    preprocess  {"height_px", "width_px", "interpolation", "fit"}
    files       {relative path: sha256 in hex} for every other file of the folder
    parity      {precision: {"min_cosine", "mean_cosine", "recall_drop", "ap_drop", "n_images"}}, for exactly the
                precisions whose model is in `files`
    quantisation  null without model.int8.onnx, else how it was made: {"recipe", "weights", "calibration_sha256",
                "n_calibration_images", "float_layers": [layers that went back to half precision]}
    calibration null, or left out, where the bundle is not calibrated; else see calibration.py
    origin      free text fields on how the model came to be (checkpoint digest, versions, command). Two are read:
                "training_rectify", "off" where the encoder was trained on drone photos as they are, else "auto" or
                "all", and then "training_tile_m", the side in metres of the squares of ground that they became

A reader takes nothing else: each field has one JSON type and a range, a key stands once, and nothing is converted.
Only further fields at the top are ignored.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, NoReturn, get_args

from dphr_infer.errors import BundleError, printable
from dphr_infer.files.calibration import Calibration, read_calibration
from dphr_infer.files.signature import SIGNATURE_NAME
from dphr_infer.images.preprocess import MAX_PIXELS, MIN_SIDE_PX, Fit, Interpolation, Preprocess
from dphr_infer.types import PRECISIONS, Precision

FORMAT = "dphr-bundle"
VERSION = 2
MANIFEST_NAME = "manifest.json"
TRAINING_RECTIFY, TRAINING_TILE_M = "training_rectify", "training_tile_m"
MAX_INTEGER = 2**31 - 1
# Rounding puts the cosine of two equal float32 embeddings a hair above 1.
MAX_COSINE = 1.0 + 1e-5
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 1024

_SHOWN_CHARACTERS = 60


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
    calibration: Calibration | None = None

    def to_json(self) -> str:
        """The exact text of manifest.json."""
        content = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}
        return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @property
    def trained_rectified(self) -> bool | None:
        """Whether the encoder was trained on rectified photos; None where the origin does not say."""
        stated = self.origin.get(TRAINING_RECTIFY)
        return None if stated is None else stated != "off"

    @property
    def trained_tile_m(self) -> float | None:
        """Side of the ground that those photos became; None without them.

        Raises:
            BundleError: the origin does not say it.
        """
        if not self.trained_rectified:
            return None
        stated = self.origin.get(TRAINING_TILE_M, "")
        if not re.fullmatch(r"\d+(\.\d+)?", stated, re.ASCII):
            raise BundleError(
                f"The bundle was trained on rectified photos, but its origin's {TRAINING_TILE_M} is {_shown(stated)}, "
                "not a length in metres. Export the bundle again."
            )
        return float(stated)

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Of the models in `files`."""
        return tuple(precision for precision in PRECISIONS if model_name(precision) in self.files)


def parse_manifest(content: str | bytes, name: str) -> Manifest:
    """Read the content of a manifest.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        BundleError: not UTF-8 or JSON, of another format or version, or a field is missing, of another type or out of
            its range. One line.
    """
    name = printable(name)
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        raw = json.loads(text, object_pairs_hook=_read_pairs, parse_constant=_refuse_constant)
        raw = _read_object(raw, "it", ("format", "version"), further=True)
        if raw["format"] != FORMAT or type(raw["version"]) is not int or raw["version"] != VERSION:
            raise BundleError(
                f"{name} is {_shown(raw['format'])} version {_shown(raw['version'])}; this program reads "
                f'"{FORMAT}" version {VERSION}. Export the bundle again with this release.'
            )
        return _read_manifest(raw)
    except (ValueError, RecursionError) as error:
        reason = printable(str(error))
        raise BundleError(f"{name} is not a bundle manifest: {reason}. Export the bundle again.") from error


def _shown(value: object) -> str:
    """A JSON value in a message: ASCII, on one line, and short."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _refuse(where: str, value: object, wanted: str) -> NoReturn:
    raise ValueError(f"{where} is {_shown(value)}, not {wanted}")


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"it holds {word}, which is no JSON number")


def _read_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it holds the key {_shown(key)} twice in one object")
        found[key] = value
    return found


def _read_object(value: object, where: str, fields: tuple[str, ...] = (), further: bool = False) -> dict[str, Any]:
    """An object that has all of `fields` and, unless `further`, no other."""
    if not isinstance(value, dict):
        _refuse(where, value, "an object")
    for field in fields:
        if field not in value:
            raise ValueError(f"{where} lacks {field}")
    for key in value:
        if not further and key not in fields:
            raise ValueError(f"{where} has a field {_shown(key)}, which is unknown")
    return value


def _read_text(value: object, where: str) -> str:
    if not isinstance(value, str):
        _refuse(where, value, "a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        _refuse(where, value, "Unicode text: it holds half a character")
    return value


def _read_choice(value: object, where: str, choices: tuple[str, ...]) -> Any:
    if not isinstance(value, str) or value not in choices:
        _refuse(where, value, " or ".join(choices))
    return value


def _read_digest(value: object, where: str) -> str:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        _refuse(where, value, "a sha256 of 64 hex digits in lower case")
    return value


def _read_integer(value: object, where: str, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_INTEGER:
        _refuse(where, value, f"an integer in [{least}, {MAX_INTEGER}]")
    return value


def _read_fraction(value: object, where: str, most: float = 1.0) -> float:
    """Compared before it is converted: an integer may be too long for a float."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not -1.0 <= value <= most:
        _refuse(where, value, "a number in [-1, 1]")
    return float(value)


def _read_manifest(raw: dict[str, Any]) -> Manifest:
    names = tuple(field.name for field in dataclasses.fields(Manifest) if field.name != "calibration")
    calibration = raw.get("calibration")  # bundles of before it were not calibrated
    raw = _read_object(raw, "it", names, further=True)
    origin = _read_object(raw["origin"], "origin", further=True)
    manifest = Manifest(
        encoder=_read_text(raw["encoder"], "encoder"),
        dim=_read_integer(raw["dim"], "dim", 1),
        max_batch=_read_integer(raw["max_batch"], "max_batch", 1),
        preprocess=_read_preprocess(raw["preprocess"]),
        files=_read_files(raw["files"]),
        parity=_read_parities(raw["parity"]),
        origin={_read_text(key, "a field of origin"): _read_text(text, "origin.*") for key, text in origin.items()},
        quantisation=None if raw["quantisation"] is None else _read_quantisation(raw["quantisation"]),
        calibration=None if calibration is None else read_calibration(calibration),
    )
    models = manifest.precisions
    if not models:
        raise ValueError(f"files names no model ({', '.join(map(model_name, PRECISIONS))})")
    if set(manifest.parity) != set(models):
        stated = ", ".join(p for p in PRECISIONS if p in manifest.parity) or "no model"
        raise ValueError(f"parity is of {stated}, but files names the models {', '.join(models)}")
    if (manifest.quantisation is None) == ("int8" in models):
        stated = "null" if manifest.quantisation is None else "stated"
        raise ValueError(f"quantisation is {stated}, but files names the models {', '.join(models)}")
    return manifest


def _read_preprocess(raw: object) -> Preprocess:
    fields = _read_object(raw, "preprocess", tuple(field.name for field in dataclasses.fields(Preprocess)))
    height, width = (_read_integer(fields[f], f"preprocess.{f}", MIN_SIDE_PX) for f in ("height_px", "width_px"))
    if height * width > MAX_PIXELS:
        raise ValueError(f"preprocess asks for {width}x{height} px, more than {MAX_PIXELS} in all")
    interpolation = _read_choice(fields["interpolation"], "preprocess.interpolation", get_args(Interpolation))
    return Preprocess(height, width, interpolation, _read_choice(fields["fit"], "preprocess.fit", get_args(Fit)))


def _read_files(raw: object) -> dict[str, str]:
    files = _read_object(raw, "files", further=True)
    return {_read_name(name): _read_digest(digest, f"files[{_shown(name)}]") for name, digest in files.items()}


def _read_name(name: str) -> str:
    """A path below the bundle's folder in the one form that it has on every system."""
    shown, parts = _shown(name), name.split("/")
    _read_text(name, "a name in files")
    if PurePosixPath(name).is_absolute() or ".." in parts or re.match("[A-Za-z]:", name):
        raise ValueError(f"files names a file outside the bundle: {shown}")
    if not all(parts) or "." in parts:
        raise ValueError(f"files names {shown}, which is not the plain form of a path")
    if "\\" in name or any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise ValueError(f"files names {shown}, which holds a backslash or a control character")
    if name in (MANIFEST_NAME, SIGNATURE_NAME):
        raise ValueError(f"files names {shown} as a part of the bundle, which cannot hold its own digest")
    if len(name.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise ValueError(f"files names {shown}, longer than {MAX_NAME_BYTES} bytes per part or {MAX_PATH_BYTES} in all")
    return name


def _read_parities(raw: object) -> dict[str, Parity]:
    return {
        _read_choice(precision, "a precision in parity", PRECISIONS): _read_parity(values, f"parity.{precision}")
        for precision, values in _read_object(raw, "parity", further=True).items()
    }


def _read_parity(raw: object, where: str) -> Parity:
    fields = _read_object(raw, where, tuple(field.name for field in dataclasses.fields(Parity)))
    return Parity(
        min_cosine=_read_fraction(fields["min_cosine"], f"{where}.min_cosine", MAX_COSINE),
        mean_cosine=_read_fraction(fields["mean_cosine"], f"{where}.mean_cosine", MAX_COSINE),
        recall_drop=_read_fraction(fields["recall_drop"], f"{where}.recall_drop"),
        ap_drop=_read_fraction(fields["ap_drop"], f"{where}.ap_drop"),
        n_images=_read_integer(fields["n_images"], f"{where}.n_images", 0),
    )


def _read_quantisation(raw: object) -> Quantisation:
    fields = _read_object(raw, "quantisation", tuple(field.name for field in dataclasses.fields(Quantisation)))
    layers = fields["float_layers"]
    if not isinstance(layers, list):
        _refuse("quantisation.float_layers", layers, "a list of strings")
    return Quantisation(
        recipe=_read_text(fields["recipe"], "quantisation.recipe"),
        weights=_read_choice(fields["weights"], "quantisation.weights", ("int8", "float")),
        calibration_sha256=_read_digest(fields["calibration_sha256"], "quantisation.calibration_sha256"),
        n_calibration_images=_read_integer(fields["n_calibration_images"], "quantisation.n_calibration_images", 0),
        float_layers=tuple(_read_text(layer, "a name in quantisation.float_layers") for layer in layers),
    )
