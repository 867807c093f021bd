"""A picture of the worst failures: the query, the truth, and what was ranked before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dphr_infer.atomic import atomic_file
from dphr_infer.preprocess import Preprocess, read_image
from dphr_train.evaluate import Direction

_TILE_PX, _GAP_PX, _TEXT_PX = 160, 6, 20
_TOP = 5
_RIGHT, _WRONG, _NEUTRAL = (30, 150, 70), (200, 60, 50), (90, 90, 90)


def worst_queries(direction: Direction, count: int) -> list[tuple[int, int, list[int]]]:
    """(query row, rank of its best true match, rows of the top 5), the worst first, at most one query a place."""
    similarity = direction.queries.embeddings @ direction.gallery.embeddings.T
    order = np.argsort(-similarity, axis=1, kind="stable")
    hits = direction.gallery.place_ids[order] == direction.queries.place_ids[:, None]
    ranks = hits.argmax(axis=1)
    chosen: list[tuple[int, int, list[int]]] = []
    places: set[int] = set()
    for row in np.argsort(-ranks, kind="stable"):
        place = int(direction.queries.place_ids[row])
        if place not in places and len(chosen) < count:
            places.add(place)
            chosen.append((int(row), int(ranks[row]), order[row, :_TOP].tolist()))
    return chosen


def draw_failures(direction: Direction, path: Path, count: int = 8) -> None:
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
        place = int(queries.place_ids[query])
        truth = int(np.nonzero(gallery.place_ids == place)[0][0])
        tiles = [(queries.images[query], _NEUTRAL, f"place {place:04d}, found at {rank + 1}")]
        for number, row in enumerate([truth, *top]):
            same = int(gallery.place_ids[row]) == place
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
