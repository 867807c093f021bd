"""The page in a real browser, on a phone's screen and on a desk's; skipped where there is no Chromium.

Name one that is not on PATH in CHROMIUM.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.record import BenchRecord
from bench.report.page import to_html

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Written by the page itself once it is laid out: how wide it is, and how wide its window.
MEASURE = "<script>parent.document.title = document.documentElement.scrollWidth + ' of ' + window.innerWidth</script>"
# Chromium's own windows are never narrower than 500 px, a frame is.
FRAME = '<!doctype html><title></title><iframe style="border: 0; width: {width}px; height: 9000px" srcdoc="{page}">'


@pytest.fixture(scope="module")
def chromium() -> str:
    named = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if named is None:
        pytest.skip(f"there is none of {', '.join(NAMES)} on PATH, and CHROMIUM names none")
    return named


def browse(chromium: str, folder: Path, page: Path, *options: str) -> str:
    command = [
        *(chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *(f"--user-data-dir={folder / 'profile'}", "--window-size=1400,2400", *options, page.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_the_screen_and_is_drawn(chromium: str, record: BenchRecord, tmp_path: Path, width: int) -> None:
    text = to_html(record).replace("</body>", f"{MEASURE}</body>")
    page, shot = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(FRAME.format(width=width, page=html.escape(text)), encoding="utf-8")
    browse(chromium, tmp_path, page, f"--screenshot={shot}")
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB"))[:, :width]
    drawn = (pixels != pixels[0, 0]).any(axis=2)
    assert 0.02 < drawn.mean() < 0.9
    title = re.search(r"<title>(\d+) of (\d+)</title>", browse(chromium, tmp_path, page, "--dump-dom"))
    assert title is not None
    assert int(title[1]) <= int(title[2]) == width
