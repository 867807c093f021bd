import json
import subprocess
import sys
from dataclasses import asdict
from math import hypot
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from dphr_infer.errors import DatasetError
from dphr_train.metrics import (
    best_of,
    matching_rows,
    one_percent_rank,
    rank_of,
    report_retrieval,
    standard_ap,
    trapezoid_ap,
)
from dphr_train.types import GroundPositions, Rules


def report_on(similarity, query_ids, gallery_ids, protocol="full", **rules):
    """Report on a similarity matrix (Q, G) that is given: query i is the i-th unit vector."""
    similarity = np.array(similarity, np.float32)
    queries = np.eye(len(similarity), dtype=np.float32)
    return report_retrieval(queries, np.array(query_ids), similarity.T, np.array(gallery_ids), protocol, Rules(**rules))


def plain_report(queries, query_ids, gallery, gallery_ids, protocol, one_percent, semi_positives, positions):
    """The reference: sort every row whole, then read each figure off the ranking as it is defined."""
    orders = np.argsort(-(queries @ gallery.T), axis=1, kind="stable").tolist()
    hits, within, aps, standard_aps, first = [], [], [], [], []
    for query, (place, order) in enumerate(zip(query_ids, orders, strict=True)):
        kept = [row for row in order if protocol == "full" or gallery_ids[row] in query_ids]
        right = [gallery_ids[row] == place for row in kept]
        ranks = [rank for rank, is_right in enumerate(right) if is_right]
        first.append(ranks[0])
        points = [((j + 1) / (r + 1), j / r if r else 1.0) for j, r in enumerate(ranks)]
        aps.append(sum((at + before) / 2 for at, before in points) / len(points))
        standard_aps.append(sum(at for at, _ in points) / len(points))
        counted = [ok for row, ok in zip(kept, right, strict=True) if ok or row not in semi_positives[query]]
        hits.append(counted[0])
        offsets = [positions.gallery_m[row] - positions.queries_m[query] for row in kept]
        within.append([hypot(*offset) <= positions.within_m for offset in offsets])
    last = round(0.01 * len(kept)) if one_percent == "round" else max(1, len(kept) // 100) - 1
    return {
        "recall_at": {k: np.mean([rank < k for rank in first]) for k in (1, 5, 10) if k <= len(kept)},
        "recall_at_1_percent": np.mean([rank <= last for rank in first]),
        "ap": np.mean(aps),
        "standard_ap": np.mean(standard_aps),
        "protocol": protocol,
        "n_queries": len(queries),
        "n_gallery": len(kept),
        "hit_rate": np.mean(hits),
        "recall_within": {k: np.mean([any(row[:k]) for row in within]) for k in (1, 5, 10) if k <= len(kept)},
        "within_m": positions.within_m,
    }


@pytest.mark.kernels
@given(st.data())
def test_counting_ranks_gives_what_sorting_every_row_gives(data):
    n_queries, n_gallery, dim = (data.draw(st.integers(1, top)) for top in (9, 130, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    # Small integers: products are exact whatever the order of the sum, and many similarities are equal.
    queries = rng.integers(-1, 2, (n_queries, dim)).astype(np.float32)
    gallery = rng.integers(-1, 2, (n_gallery, dim)).astype(np.float32)
    gallery_ids = rng.integers(0, data.draw(st.integers(1, n_gallery)), n_gallery)
    query_ids = rng.choice(gallery_ids, n_queries)
    semi_positives = rng.integers(0, n_gallery, (n_queries, 3))
    positions = GroundPositions(
        rng.integers(0, 12, (n_queries, 2)).astype(float), rng.integers(0, 12, (n_gallery, 2)).astype(float)
    )
    protocol, rule = data.draw(st.sampled_from(["full", "matched"])), data.draw(st.sampled_from(["round", "floor"]))
    with patch("dphr_train.metrics._BLOCK_BYTES", data.draw(st.sampled_from([1, 4 * 3 * n_gallery, 2**24]))):
        found = report_retrieval(
            queries,
            query_ids,
            gallery,
            gallery_ids,
            protocol,
            Rules(rule, semi_positives, positions),
        )
    expected = plain_report(queries, query_ids, gallery, gallery_ids, protocol, rule, semi_positives, positions)
    for name, value in asdict(found).items():
        assert value == (pytest.approx(expected[name]) if not isinstance(value, str) else expected[name]), name


def test_trapezoid_ap_of_one_match_is_one_at_the_top_and_half_the_reciprocal_rank_below():
    assert trapezoid_ap(np.array([0])) == 1.0
    assert trapezoid_ap(np.array([1])) == 0.25
    assert trapezoid_ap(np.array([4])) == pytest.approx(0.1)


def test_trapezoid_ap_of_two_matches_by_hand():
    # ranks 0 and 2: (1/2) * [(1 + 1)/2 + (1/2 + 2/3)/2] = 0.5 * (1 + 7/12)
    assert trapezoid_ap(np.array([0, 2])) == pytest.approx(0.5 * (1 + 7 / 12))


def test_standard_ap_of_two_matches_by_hand():
    assert standard_ap(np.array([0, 2])) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.kernels
@given(st.lists(st.booleans(), min_size=1, max_size=30).filter(any), st.randoms(use_true_random=False))
def test_standard_ap_agrees_with_scikit_learn(relevant, random):
    similarity = random.sample(range(len(relevant)), len(relevant))
    report = report_on([similarity], [1], [int(flag) for flag in relevant])
    assert report.standard_ap == pytest.approx(average_precision_score(relevant, similarity))


def test_one_percent_is_one_rank_generous_by_rounding_and_exact_by_flooring():
    # Of 951 images the rounding rule counts ranks 0..10, the flooring one the first 9.
    assert [one_percent_rank(n) for n in (40, 120, 951)] == [0, 1, 10]
    assert [one_percent_rank(n, "floor") for n in (100, 199, 200, 951)] == [0, 0, 1, 8]


def test_below_100_images_the_flooring_rule_counts_the_first_alone():
    assert [one_percent_rank(n, "floor") for n in (1, 40, 99)] == [0, 0, 0]


def test_the_rule_of_one_percent_decides_about_rank_2_of_250():
    similarity = [-np.arange(250)]
    found = {
        rule: report_on(similarity, [7], [0, 0, 7] + [0] * 247, one_percent=rule).recall_at_1_percent
        for rule in ("round", "floor")
    }
    assert found == {"round": 1.0, "floor": 0.0}


@pytest.mark.kernels
def test_equal_similarities_go_to_the_lower_row():
    similarity = np.array([0.5, 0.7, 0.5, 0.5], np.float32)
    assert [rank_of(similarity, row) for row in range(4)] == [1, 0, 2, 3]
    assert best_of(similarity, np.array([2, 3])) == 2


def test_the_matching_rows_of_a_query_ascend():
    found = matching_rows(np.array([7, 3, 7]), np.array([7, 3, 9, 7]))
    assert [rows.tolist() for rows in found] == [[0, 3], [1], [0, 3]]


QUERIES = np.array([[1, 0], [0, 1]], np.float32)
GALLERY = np.array([[0.6, 0.8], [1, 0], [0, 1], [0.8, 0.6]], np.float32)


@pytest.mark.kernels
def test_report_by_hand_and_distractors_count_only_in_the_full_protocol():
    # Query 0 (place 10) ranks rows 1, 3, 0, 2; query 1 (place 20) ranks rows 2, 0, 3, 1.
    gallery_ids = np.array([99, 99, 20, 10])
    full = report_retrieval(QUERIES, np.array([10, 20]), GALLERY, gallery_ids, "full")
    matched = report_retrieval(QUERIES, np.array([10, 20]), GALLERY, gallery_ids, "matched")
    assert full.recall_at == {1: 0.5} and full.n_gallery == 4
    assert full.ap == pytest.approx((0.25 + 1) / 2)
    assert full.standard_ap == pytest.approx((0.5 + 1) / 2)
    assert matched.recall_at == {1: 1.0} and matched.n_gallery == 2
    assert (full.hit_rate, full.recall_within, full.within_m) == (None, None, None)


@pytest.mark.kernels
def test_the_hit_rate_lets_semi_positives_alone_outrank_the_match():
    similarity = [
        [0.8, 0.9, 0.1, 0.1, 0.2, 0.3],  # match 0, outranked by its semi-positive 1: a hit at rank 1
        [0.1, 0.8, 0.1, 0.1, 0.9, 0.3],  # match 1, outranked by row 4, a stranger: no hit
        [0.9, 0.9, 0.7, 0.8, 0.2, 0.3],  # match 2, outranked by all its semi-positives: a hit at rank 3
        [0.1, 0.1, 0.1, 0.8, 0.8, 0.3],  # match 3, as similar as the higher row 4: a hit at rank 0
        [0.1, 0.1, 0.1, 0.8, 0.8, 0.3],  # match 4, as similar as the lower row 3, a stranger: no hit
    ]
    semi_positives = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2]])
    report = report_on(similarity, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5], semi_positives=semi_positives)
    assert report.hit_rate == pytest.approx(3 / 5)
    assert report.recall_at == {1: pytest.approx(1 / 5), 5: 1.0}  # a semi-positive is no match


def test_a_semi_positive_that_the_matched_protocol_drops_outranks_nothing():
    # Rows of places 8, 9 (dropped), 1, 2; the numbers of the semi-positives are those of the whole gallery.
    similarity = [[0.9, 0.1, 0.5, 0.6], [0.1, 0.9, 0.7, 0.6]]
    semi_positives = np.array([[0, 0, 3], [0, 1, 1]])
    found = {
        protocol: report_on(similarity, [1, 2], [8, 9, 1, 2], protocol=protocol, semi_positives=semi_positives)
        for protocol in ("full", "matched")
    }
    # Query 0: rows 0 and 3 come before row 2, both semi-positives. Query 1: row 2, a stranger, comes before row 3.
    assert {protocol: report.hit_rate for protocol, report in found.items()} == {"full": 0.5, "matched": 0.5}
    assert found["matched"].n_gallery == 2


def test_a_reference_at_exactly_5_m_is_found_and_one_at_5_01_m_is_not():
    gallery_m = np.array([[0, 0], [3, 4], [3, 4.0125], [90, 0], [0, 90]], float)
    similarity = [[0.5, 0.9, 0.1, 0, 0], [0.5, 0.1, 0.9, 0, 0]]
    positions = GroundPositions(np.zeros((2, 2)), gallery_m)
    report = report_on(similarity, [0, 0], [0, 1, 2, 3, 4], positions=positions)
    assert report.recall_at == {1: 0.0, 5: 1.0}
    assert report.recall_within == {1: 0.5, 5: 1.0}
    assert report.within_m == 5.0


def test_a_query_without_a_reference_near_it_is_not_found_at_all():
    positions = GroundPositions(np.array([[500.0, 0]]), np.zeros((5, 2)))
    report = report_on([[0.9, 0, 0, 0, 0]], [0], [0, 1, 2, 3, 4], positions=positions)
    assert report.recall_at[5] == 1.0
    assert report.recall_within == {1: 0.0, 5: 0.0}


def test_a_query_without_its_place_in_the_gallery_is_refused():
    with pytest.raises(DatasetError, match="0010"):
        report_retrieval(QUERIES, np.array([10, 20]), GALLERY, np.array([1, 2, 20, 20]))


def test_an_embedding_that_is_no_number_is_refused_instead_of_ranked_first():
    broken = QUERIES.copy()
    broken[1] = np.nan
    with pytest.raises(DatasetError, match="1 of 2 embeddings of the queries hold NaN"):
        report_retrieval(broken, np.array([1, 2]), GALLERY, np.array([1, 2, 3, 4]))


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"semi_positives": np.array([[0, 1, 4]] * 2)}, "gallery row 4; the gallery has 4 rows"),
        ({"semi_positives": np.array([[0, 1, 2]])}, "for 1 queries of 2"),
        ({"positions": GroundPositions(np.zeros((2, 2)), np.zeros((3, 2)))}, r"gallery have shape \(3, 2\)"),
        ({"positions": GroundPositions(np.full((2, 2), np.nan), np.zeros((4, 2)))}, "every metre finite"),
    ],
)
def test_what_does_not_fit_the_gallery_is_refused(rules, words):
    with pytest.raises(DatasetError, match=words):
        report_retrieval(QUERIES, np.array([1, 2]), GALLERY, np.array([1, 2, 3, 4]), rules=Rules(**rules))


_FULL_SIZE = """
import json, sys
import numpy as np
from dphr_infer.measure.memory import peak_bytes
from dphr_train.metrics import report_retrieval
from dphr_train.types import GroundPositions, Rules
n_queries, n_gallery = int(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(0)
gallery = rng.standard_normal((n_gallery, 4), dtype=np.float32)
gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
places = np.arange(n_queries) % n_gallery
where = rng.uniform(0, 20_000, (n_gallery, 2))
report = report_retrieval(
    gallery[places], places, gallery, np.arange(n_gallery),
    rules=Rules(positions=GroundPositions(where[places], where)),
)
peak_gib = peak_bytes() / 2**30  # of this program alone: getrusage also counts what forked it
print(json.dumps([report.n_queries, report.n_gallery, report.recall_at[1], peak_gib]))
"""


@pytest.mark.parametrize(("n_queries", "n_gallery"), [(37_855, 951), (10_000, 92_802)])
def test_the_largest_galleries_are_ranked_within_1_gib(n_queries, n_gallery):
    # University-1652's drone views in its satellites, and queries in CVACT's test gallery, with short embeddings.
    # All similarities of the latter at once would be 3.5 GiB.
    command = [sys.executable, "-c", _FULL_SIZE, str(n_queries), str(n_gallery)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    ranked, of, recall_at_1, peak_gib = json.loads(output)
    assert (ranked, of) == (n_queries, n_gallery)
    assert recall_at_1 > 0.99  # every query is its own image; a rounding may put a close neighbour first
    assert peak_gib < 1
