from __future__ import annotations

from pathlib import Path

import pytest
import tyro

from bench.cases.startup import measure_startup, start_once
from bench.request import BenchRequest
from bench.steps import locate_arguments
from dphr_infer.cli.requests import Locate, Search
from dphr_infer.errors import EngineError
from dphr_infer.files.bundle import SELFTEST_IMAGES, Bundle
from dphr_infer.images.preprocess import list_images
from dphr_infer.locate.settings import CameraSettings, DeviceSettings, LocateSettings
from dphr_infer.register.settings import RegisterSettings


def test_a_start_is_a_process_of_locate_until_its_first_word_and_its_end(bundle: Bundle, gallery: Path) -> None:
    photo = list_images(bundle.folder / SELFTEST_IMAGES)[0]
    arguments = locate_arguments(BenchRequest(bundle.folder, gallery), gallery, photo)
    found = measure_startup(arguments, [gallery, photo], times=2)
    assert found["warm"]["n"] == len(found["samples_ms"]) == 2
    assert min(found["cold"], *found["samples_ms"]) > 50
    assert found["exit_p50"] >= min(found["samples_ms"])
    assert 20e6 < found["peak_memory_bytes"] < 2e9


def test_the_memory_of_a_start_is_its_own_and_not_that_of_the_bench(bundle: Bundle, gallery: Path) -> None:
    photo = list_images(bundle.folder / SELFTEST_IMAGES)[0]
    arguments = locate_arguments(BenchRequest(bundle.folder, gallery), gallery, photo)
    before = start_once(arguments).peak_bytes
    if before is None:
        pytest.skip("this system does not tell the memory of a process")
    taken = bytearray(b"x" * 600_000_000)
    assert start_once(arguments).peak_bytes == pytest.approx(before, abs=100e6)
    assert len(taken) == 600_000_000


def test_a_start_that_fails_says_what_locate_said(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"ended with exit code 2: dphr-infer: .*none\.gallery is not a file"):
        start_once([str(bundle.folder), str(tmp_path / "none.gallery"), "photo.png"])


def test_the_arguments_are_those_of_locate_and_carry_what_is_measured(bundle: Bundle, gallery: Path) -> None:
    settings = LocateSettings(top_k=2, heading="search", refine=True)
    search = Search(
        settings,
        CameraSettings(rectify="off", pitch_deg=-60.0),
        map=Path("map.pack"),
        verify=False,
        register=RegisterSettings(candidates=3),
        near="-46.5,8.0",
        within=250.0,
        on=DeviceSettings("cuda", "fp16", 1, "int8"),
    )
    request = BenchRequest(bundle.folder, gallery, search=search)
    words = locate_arguments(request, gallery, Path("a.png"))
    parsed = tyro.cli(Locate, args=words, config=(tyro.conf.OmitArgPrefixes,))
    assert (parsed.bundle, parsed.gallery, parsed.photos) == (bundle.folder, gallery, (Path("a.png"),))
    assert parsed.search == search
