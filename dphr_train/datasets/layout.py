"""Which benchmark a folder holds, told by its marker folders, and what to say where it holds another one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dphr_infer.errors import DatasetError

VIGOR_CITIES = ("Chicago", "NewYork", "SanFrancisco", "Seattle")


@dataclass(frozen=True, slots=True)
class Layout:
    """One benchmark's folder.

    Attributes:
        title: the benchmark's name in the literature.
        dataset_names: what to ask for to open it.
        markers: paths below the root, any of which only this layout has.
        needs: the layout in one line.
    """

    title: str
    dataset_names: str
    markers: tuple[str, ...]
    needs: str


LAYOUTS = {
    "university1652": Layout(
        "University-1652",
        "university1652",
        tuple(f"train/{view}" for view in ("satellite", "drone"))
        + tuple(f"test/{role}_{view}" for role in ("query", "gallery") for view in ("drone", "satellite")),
        "train/{satellite,drone}/<id>/ and test/{query,gallery}_{satellite,drone}/<id>/, each with its images",
    ),
    "sues200": Layout(
        "SUES-200",
        "sues200-150, sues200-200, sues200-250 or sues200-300",
        ("Training", "Testing", "drone_view_512", "satellite-view"),
        "Training/<height>/{drone,satellite}/<id>/ and Testing/<height>/{query,gallery}_{drone,satellite}/<id>/, or "
        "the raw drone_view_512/<id>/<height>/ and satellite-view/<id>/",
    ),
    "cvusa": Layout(
        "CVUSA",
        "cvusa",
        ("bingmap", "streetview/panos", "splits/train-19zl.csv", "splits/val-19zl.csv"),
        "bingmap/19/, streetview/panos/ and splits/{train,val}-19zl.csv",
    ),
    "cvact": Layout(
        "CVACT",
        "cvact-val or cvact-test",
        ("ANU_data_small", "ANU_data_test", "ACT_data.mat"),
        "ACT_data.mat, ANU_data_small/{streetview,satview_polish}/ and, for the test split, ANU_data_test/",
    ),
    "vigor": Layout(
        "VIGOR",
        "vigor-same or vigor-cross",
        tuple(
            marker.format(city)
            for city in VIGOR_CITIES
            for marker in ("{}/panorama", "{}/satellite", "ground/{}", "satellite/{}", "splits/{}")
        ),
        "<City>/{panorama,satellite}/ or {ground,satellite}/<City>/, and splits/<City>/*.txt",
    ),
}


def recognise(root: Path) -> str | None:
    """The key in LAYOUTS of the layout that a folder has; None where it has none of them."""
    return next((name for name in LAYOUTS if has_layout(root, name)), None)


def has_layout(root: Path, name: str) -> bool:
    """Whether a folder has a part of the layout of this key, whatever else lies in it."""
    return bool(_markers(root, LAYOUTS[name]))


def layout_error(root: Path, wanted: str, missing: Path) -> DatasetError:
    """What to raise where a part of the layout `wanted` is missing: names the part, the layout found, and what to do.

    Args:
        root: folder of the data set.
        wanted: key of the layout that was asked for.
        missing: the file or folder that is not there.
    """
    layout, found = LAYOUTS[wanted], wanted if has_layout(root, wanted) else recognise(root)
    if not root.is_dir():
        return DatasetError(f"{root} is not a folder. Give the folder of {layout.title}: {layout.needs}.")
    problem = f"{missing} is missing. {root}"
    if found == wanted:
        return DatasetError(f"{problem} is laid out as {layout.title} but is incomplete; it needs {layout.needs}.")
    if found:
        other = LAYOUTS[found]
        return DatasetError(
            f"{problem} has the layout of {other.title} ({_markers(root, other)[0]}), not of {layout.title}. "
            f"Ask for the data set {other.dataset_names}."
        )
    for child in sorted(path for path in root.iterdir() if path.is_dir()):
        if inner := recognise(child):
            return DatasetError(f"{problem} has no layout known here, but {child} has that of {LAYOUTS[inner].title}.")
    return DatasetError(f"{problem} has no layout known here; {layout.title} needs {layout.needs}.")


def _markers(root: Path, layout: Layout) -> list[str]:
    return [marker for marker in layout.markers if (root / marker).exists()]
