"""What `dphr-infer watch` does."""

from __future__ import annotations

from dphr_infer.cli.locate import open_search
from dphr_infer.cli.requests import Watch
from dphr_infer.watch.video import open_source
from dphr_infer.watch.watch import run_watch


def run(request: Watch) -> None:
    """Watch until the source ends; errors as of `run_watch`."""
    prior, source = request.search.prior, open_source(request.source, request.frames)
    localizer = open_search(request.search, request.bundle, request.gallery)
    run_watch(localizer, source, request.frames, prior, request.format)
