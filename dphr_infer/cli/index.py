"""What `dphr-infer index` does."""

from __future__ import annotations

from dphr_infer.cli.requests import Index
from dphr_infer.errors import printable
from dphr_infer.files.bundle import open_bundle
from dphr_infer.indexing.index import index_map


def run(request: Index) -> None:
    """Index the map and say what came of it; errors as of `indexing.index.index`."""
    tiles, out = request.tiles, request.out
    bundle = open_bundle(request.bundle, request.signer)
    report = index_map(request.map, bundle, out, tiles, request.on, request.with_map)
    skipped = f", {report.skipped} skipped (more than {tiles.max_nodata:.0%} without data)" if report.skipped else ""
    size = f"{out.stat().st_size / 1e6:.1f} MB"
    print(f"{printable(str(out))}: {report.indexed} tiles of {tiles.tile_m:g} m{skipped}, {size}")
    if (pack := report.pack) is not None:
        size = f"{pack.size_bytes / 1e6:.1f} MB"
        print(f"{printable(str(request.with_map))}: the map at {pack.gsd_m:.3g} m a pixel, {pack.tiles} tiles, {size}")
