"""A picture of the worst failures: the query, the truth, and what was ranked before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dphr_infer.files.atomic import atomic_file
from dphr_infer.images.preprocess import Preprocess, read_image
from dphr_train.evaluate import RankedDirection
from dphr_train.metrics import best_of, matching_rows, rank_of, similarity_rows

_TILE_PX, _GAP_PX, _TEXT_PX = 160, 6, 20
_TOP = 5
_RIGHT, _WRONG, _NEUTRAL = (30, 150, 70), (200, 60, 50), (90, 90, 90)


def worst_queries(direction: RankedDirection, count: int) -> list[tuple[int, int, list[int]]]:
    """(query row, rank of its best true match, rows of the top 5), the worst first, at most one query a place."""
    queries, gallery = direction.queries, direction.gallery
    place_ids = queries.place_ids
    matches = matching_rows(place_ids, gallery.place_ids)
    rows = zip(similarity_rows(queries.embeddings, gallery.embeddings), matches, strict=True)
    ranks = np.array([rank_of(similarity, best_of(similarity, found)) for similarity, found in rows])
    chosen: list[tuple[int, int, list[int]]] = []
    places: set[int] = set()
    for row in np.argsort(-ranks, kind="stable"):
        place = int(place_ids[row])
        if place not in places and len(chosen) < count:
            places.add(place)
            similarity = gallery.embeddings @ queries.embeddings[row]
            chosen.append((int(row), int(ranks[row]), np.argsort(-similarity, kind="stable")[:_TOP].tolist()))
    return chosen


def draw_failures(direction: RankedDirection, path: Path, count: int = 8) -> None:
    """Write a PNG with one line for each of the worst queries: query, truth, top 5 with similarity.

    Raises:
        StorageError: the file cannot be written.
    """
    rows = worst_queries(direction, count)
    step = _TILE_PX + _GAP_PX
    sheet = Image.new("RGB", ((2 + _TOP) * step + _GAP_PX, len(rows) * (step + _TEXT_PX) + _TEXT_PX + _GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for column, title in enumerate(["query", "truth", *(f"rank {n + 1}" for n in range(_TOP))]):
        draw.text((_GAP_PX + column * step, 3), title, fill="black", font=font)
    to_tile = Preprocess(_TILE_PX, _TILE_PX)
    gallery, queries = direction.gallery, direction.queries
    for line, (query, rank, top) in enumerate(rows):
        place = queries.images[query].place_id
        truth = next(row for row, image in enumerate(gallery.images) if image.place_id == place)
        tiles = [(queries.images[query], _NEUTRAL, f"place {place:04d}, found at {rank + 1}")]
        for number, row in enumerate([truth, *top]):
            same = gallery.images[row].place_id == place
            value = float(queries.embeddings[query] @ gallery.embeddings[row])
            text = f"{value:.3f}" if number == 0 else f"{value:.3f}  {gallery.images[row].place_id:04d}"
            tiles.append((gallery.images[row], _RIGHT if same else _WRONG, text))
        top_px = _TEXT_PX + line * (step + _TEXT_PX)
        for column, (image, colour, text) in enumerate(tiles):
            x = _GAP_PX + column * step
            draw.rectangle((x - 3, top_px - 3, x + _TILE_PX + 2, top_px + _TILE_PX + 2), fill=colour)
            sheet.paste(Image.fromarray(to_tile(read_image(image.path))), (x, top_px))
            draw.text((x, top_px + _TILE_PX + 3), text, fill=colour, font=font)
    with atomic_file(path) as temporary:
        sheet.save(temporary, "PNG")
