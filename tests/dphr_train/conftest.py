"""A tiny data set in University-1652's layout: each place has a colour and a stripe, so a small network learns it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The networks here are so small that a second thread costs more than it computes, also in child processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


def place_image(place: int, view: int, px: int = 40) -> np.ndarray:
    """uint8 (px, px, 3): the place's own pattern, with noise by view."""
    pattern = np.random.default_rng(place).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    noise = np.random.default_rng([place, view]).normal(0, 12, (px, px, 3))
    return np.clip(np.kron(pattern, np.ones((px // 4, px // 4, 1))) + noise, 0, 255).astype(np.uint8)


def write_place(folder: Path, place: int, names: list[str], first_view: int) -> None:
    target = folder / f"{place:04d}"
    target.mkdir(parents=True)
    for number, name in enumerate(names):
        Image.fromarray(place_image(place, first_view + number)).save(target / name)


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory) -> Path:
    """6 training places with 3 drone images; 4 test places and 2 distractors."""
    root = tmp_path_factory.mktemp("tiny1652")
    drones = ["image-01.jpeg", "image-02.jpeg", "image-03.jpeg"]
    for place in range(6):
        write_place(root / "train" / "satellite", place, [f"{place:04d}.jpg"], 0)
        write_place(root / "train" / "drone", place, drones, 1)
    for place in range(6, 12):
        for role in ("query", "gallery") if place < 10 else ("gallery",):
            write_place(root / "test" / f"{role}_satellite", place, [f"{place:04d}.jpg"], 0)
            write_place(root / "test" / f"{role}_drone", place, drones, 1)
    return root
