import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from dphr_infer.errors import DatasetError
from dphr_infer.metrics import one_percent_rank, ranks_of_matches, report_retrieval, standard_ap, trapezoid_ap


def test_trapezoid_ap_of_one_match_is_one_at_the_top_and_half_the_reciprocal_rank_below():
    assert trapezoid_ap(np.array([0])) == 1.0
    assert trapezoid_ap(np.array([1])) == 0.25
    assert trapezoid_ap(np.array([4])) == pytest.approx(0.1)


def test_trapezoid_ap_of_two_matches_by_hand():
    # ranks 0 and 2: (1/2) * [(1 + 1)/2 + (1/2 + 2/3)/2] = 0.5 * (1 + 7/12)
    assert trapezoid_ap(np.array([0, 2])) == pytest.approx(0.5 * (1 + 7 / 12))


def test_standard_ap_of_two_matches_by_hand():
    assert standard_ap(np.array([0, 2])) == pytest.approx((1 + 2 / 3) / 2)


def test_one_percent_is_one_rank_generous():
    assert one_percent_rank(120) == 1
    assert one_percent_rank(951) == 10
    assert one_percent_rank(40) == 0


def test_equal_similarities_go_to_the_lower_row():
    similarity = np.array([[0.5, 0.5, 0.5]], np.float32)
    assert ranks_of_matches(similarity, np.array([7]), np.array([1, 7, 7]))[0].tolist() == [1, 2]


QUERIES = np.array([[1, 0], [0, 1]], np.float32)
GALLERY = np.array([[0.6, 0.8], [1, 0], [0, 1], [0.8, 0.6]], np.float32)


def test_report_by_hand_and_distractors_count_only_in_the_full_protocol():
    # Query 0 (place 10) ranks rows 1, 3, 0, 2; query 1 (place 20) ranks rows 2, 0, 3, 1.
    gallery_ids = np.array([99, 99, 20, 10])
    full = report_retrieval(QUERIES, np.array([10, 20]), GALLERY, gallery_ids, "full")
    matched = report_retrieval(QUERIES, np.array([10, 20]), GALLERY, gallery_ids, "matched")
    assert full.recall_at == {1: 0.5} and full.n_gallery == 4
    assert full.ap == pytest.approx((0.25 + 1) / 2)
    assert full.standard_ap == pytest.approx((0.5 + 1) / 2)
    assert matched.recall_at == {1: 1.0} and matched.n_gallery == 2


def test_a_query_without_its_place_in_the_gallery_is_refused():
    with pytest.raises(DatasetError, match="0010"):
        report_retrieval(QUERIES, np.array([10, 20]), GALLERY, np.array([1, 2, 20, 20]))


@given(st.lists(st.booleans(), min_size=1, max_size=30).filter(any), st.randoms(use_true_random=False))
def test_standard_ap_agrees_with_scikit_learn(relevant, random):
    similarity = np.array(random.sample(range(len(relevant)), len(relevant)), np.float32)
    ranks = ranks_of_matches(similarity[None], np.array([1]), np.array(relevant, np.int64))[0]
    assert standard_ap(ranks) == pytest.approx(average_precision_score(relevant, similarity))
