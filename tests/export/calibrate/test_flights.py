from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from dphr_infer.flight.settings import FilterSettings
from export.calibrate.flights import KINDS, fly_all, told_odometry, true_rank_areas
from export.calibrate.site import match


def test_the_rank_of_the_true_tile_is_counted_in_tile_areas(sites) -> None:
    site = sites[0]
    gallery, stride = site.gallery, (site.gallery.origin.stride_m / site.gallery.origin.tile_m) ** 2
    at_truth = int(np.argmin(gallery.distances_m(site.truth[5])))
    similarity = np.asarray(gallery.embeddings, np.float32) @ site.queries[5]
    better = sum(float(value) > float(similarity[at_truth]) for value in similarity)
    areas = true_rank_areas(site)
    assert areas.shape == (48,) and areas[5] == pytest.approx((better + 0.5) * stride)
    # A photo that is its tile ranks first.
    own = dataclasses.replace(
        site, queries=np.asarray(gallery.embeddings[[at_truth]], np.float32), truth=(site.truth[5],)
    )
    assert true_rank_areas(own) == pytest.approx([0.5 * stride])


def test_matches_are_the_best_rows_and_ties_go_to_the_lower_row(sites) -> None:
    gallery = sites[0].gallery
    query = np.asarray(gallery.embeddings[4], np.float32)
    found = match(gallery, query, 3)
    similarity = np.asarray(gallery.embeddings, np.float32) @ query
    assert found.rows.shape == (1, 3) and found.rows[0, 0] == 4
    assert found.similarity[0].tolist() == sorted(similarity.tolist(), reverse=True)[:3]
    doubled = dataclasses.replace(gallery, embeddings=gallery.embeddings[[4, 4, 0]])
    assert match(doubled, query, 2).rows.tolist() == [[0, 1]]


def test_told_odometry_errs_in_scale_heading_and_noise_and_says_so() -> None:
    moves = np.tile([[30.0, 40.0]], (400, 1))
    told = list(told_odometry(moves, 100.0, np.random.default_rng(2)))
    displacement = np.array([[each.east_m, each.north_m] for each in told])
    mean = displacement.mean(axis=0)
    assert np.hypot(*mean) == pytest.approx(50.0, rel=0.12) and np.hypot(*mean) != pytest.approx(50.0, rel=1e-4)
    turn = np.degrees(np.arctan2(*mean) - np.arctan2(30.0, 40.0))
    assert 0.01 < abs(turn) < 8.0
    assert displacement.std(axis=0) == pytest.approx([2.5, 2.5], rel=0.1)
    sigma = 0.08 * np.hypot(*displacement[0]) + 0.02 * 100
    assert told[0].covariance == pytest.approx(np.eye(2) * sigma**2)


def test_each_site_is_flown_over_its_map_its_halves_the_others_and_kidnapped(sites) -> None:
    settings = [FilterSettings(fix_mass=0.8)] * len(sites)
    frames = fly_all(sites, settings, 0)
    counts = Counter((frame.kind, frame.unit[0]) for frame in frames)
    per_kind = dict(zip(KINDS, (48, 192, 96, 48), strict=True))
    assert counts == {(kind, number): n for kind, n in per_kind.items() for number in range(3)}
    assert {frame.unit[1] for frame in frames} == set(range(15))
    right = [frame for frame in frames if frame.kind == "right" and frame.error_m is not None]
    assert len(right) > 10 and np.median([frame.error_m for frame in right]) < 30.0
    for frame in frames:
        assert (frame.error_m is None) == (frame.nees is None)
        assert frame.error_m is None or frame.mass >= 0.8
        assert frame.rank is None or (frame.mass >= 0.8 and 0 <= frame.rank <= 4)
    # The same seed gives the same flights, and a kind alone the same as with the others.
    alone = fly_all(sites, settings, 0, ("right",))
    assert alone == [frame for frame in frames if frame.kind == "right"]
    assert fly_all(sites, settings, 1, ("right",)) != alone


def test_kidnapped_the_flight_goes_on_elsewhere_and_its_odometry_does_not_tell(sites) -> None:
    frames = [frame for frame in fly_all(sites[:2], [FilterSettings()] * 2, 0, ("kidnapped",)) if frame.unit[0] == 0]
    order = [*range(24), *range(47, 23, -1)]
    assert [frame.unit[1] for frame in frames] == [int(sites[0].unit[index]) for index in order]
