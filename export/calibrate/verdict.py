"""From which similarity and margin on a match alone may be believed.

A similarity alone does not transfer from map to map, so the margin decides: how much more similar the best tile is than
the best one of other ground. The floor is what 95 % of the right answers reach. It is set before a single wrong answer
is looked at, and the margins that are tried are a fixed list, so that their test stands; see `bounds.loosest`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dphr_infer.files.calibration import VerdictCalibration
from dphr_infer.files.gallery import Gallery
from dphr_infer.images.blank import blank_reason
from dphr_infer.images.photo import Photo
from dphr_infer.locate.estimate import margin_of, matches_for_margin
from export.calibrate.bounds import loosest
from export.calibrate.site import Site, made_pictures, match, part_of

MARGINS = tuple(hundredths / 100 for hundredths in range(60, -1, -1))
FLOOR_SHARE = 0.05
# Tiles that show any of the ground of a square of their own size, turned as it may be, lie within the diagonal's reach.
_SEEN_TILES = 1.5


@dataclass(frozen=True, slots=True)
class Answer:
    """What a map answers to a picture: the best tile's similarity, its margin, and whether it is the right place."""

    similarity: float
    margin: float
    right: bool

    def accepted(self, floor: float, margin: float) -> bool:
        """By the rule of `dphr-infer`."""
        return self.similarity >= floor and self.margin >= margin


def collect_answers(sites: Sequence[Site]) -> dict[str, list[Answer]]:
    """{kind: answers}, one of each kind for the first photo of every stretch of every flight.

    "own map": right or wrong. "own map without the place": every tile that shows any of the photo's ground is taken
    out. "another map": the next ones in turn. "made picture": of `made_pictures` in turn, none where it is told blank.
    """
    kinds = ("own map", "own map without the place", "another map", "made picture")
    found: dict[str, list[Answer]] = {kind: [] for kind in kinds}
    blank = [bool(blank_reason(Photo(picture))) for picture in made_pictures()]
    for number, site in enumerate(sites):
        for count, index in enumerate(site.firsts()):
            query, tile_m = site.queries[index], site.gallery.origin.tile_m
            away_m = site.gallery.distances_m(site.truth[index])
            found["own map"].append(_answer(site.gallery, query, away_m <= tile_m))
            rest = part_of(site.gallery, np.flatnonzero(away_m > _SEEN_TILES * tile_m))
            if len(rest):
                found["own map without the place"].append(_answer(rest, query, None))
            if len(sites) > 1:
                other = sites[(number + 1 + count % (len(sites) - 1)) % len(sites)]
                found["another map"].append(_answer(other.gallery, query, None))
            which = count % len(blank)
            nothing = Answer(-1.0, -1.0, False)
            found["made picture"].append(nothing if blank[which] else _answer(site.gallery, site.made[which], None))
    return found


def _answer(gallery: Gallery, query: np.ndarray, right: np.ndarray | None) -> Answer:
    matches = match(gallery, query, matches_for_margin(gallery))
    best = int(matches.rows[0, 0])
    margin = margin_of(matches, 0, gallery)
    return Answer(float(matches.similarity[0, 0]), margin, right is not None and bool(right[best]))


def calibrate_verdict(answers: dict[str, list[Answer]], alpha: float) -> VerdictCalibration:
    """The smallest margin at which the wrongly accepted share of every kind stays at alpha, by its upper bound.

    Args:
        answers: of `collect_answers`.
        alpha: in (0, 1).
    """
    own = answers["own map"]
    right = sorted(answer.similarity for answer in own if answer.right) or [1.0]
    floor = math.floor(1000 * right[int(FLOOR_SHARE * len(right))]) / 1000

    def wrong(kind: str, margin: float) -> int:
        return sum(answer.accepted(floor, margin) and not answer.right for answer in answers[kind])

    tried = ((margin, [(wrong(kind, margin), len(answers[kind])) for kind in answers]) for margin in MARGINS)
    margin = loosest(tried, alpha)
    accepted = [] if margin is None else [answer for answer in own if answer.right and answer.accepted(floor, margin)]
    if margin is None or not accepted:
        return VerdictCalibration(None, None, alpha, len(own), dict.fromkeys(answers, 0.0), 0.0)
    shares = {kind: round(wrong(kind, margin) / len(answers[kind]), 4) for kind in answers}
    return VerdictCalibration(floor, margin, alpha, len(own), shares, round(len(accepted) / len(own), 4))
