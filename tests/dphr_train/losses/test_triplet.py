import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dphr_train.config import DphrConfig
from dphr_train.losses.triplet import distances, triplet_terms

pytestmark = pytest.mark.kernels


def on_circle(*degrees):
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def random_unit(rows, dim, seed):
    return F.normalize(
        torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1
    )


def test_distances_on_a_circle_by_hand():
    # Chords 2 sin(angle / 2): 60 degrees apart 1, 90 degrees sqrt 2, 180 degrees 2; cosines 1/2, 0, -1.
    one, other = on_circle(0, 0, 0), on_circle(60, 90, 180)
    assert distances(one, other, "euclidean")[0].tolist() == pytest.approx([1.0, math.sqrt(2), 2.0])
    assert distances(one, other, "cosine")[0].tolist() == pytest.approx([0.5, 1.0, 2.0])


def test_the_same_vector_lies_a_thousandth_away_so_that_its_gradient_stays_finite():
    vector = on_circle(30).requires_grad_()
    distance = distances(vector, on_circle(30), "euclidean")
    assert distance.item() == pytest.approx(1e-3)
    distance.sum().backward()
    assert torch.isfinite(vector.grad).all()


def test_three_pairs_on_a_circle_by_hand():
    # Queries at 0, 120, 240 degrees; references 60 degrees further: their own at 60 degrees, the next at 60 behind.
    queries, references = on_circle(0, 120, 240), on_circle(60, 180, 300)
    # Chords of query 0: to reference 0 (60 degrees) 1, to reference 1 (180 degrees) 2, to reference 2 (-60 degrees) 1.
    config = DphrConfig(margin=0.3)
    forward, backward = triplet_terms(queries, references, torch.arange(3), config)
    assert forward.distance[0].tolist() == pytest.approx([1.0, 2.0, 1.0])
    assert forward.positive.flatten().tolist() == pytest.approx([1.0, 1.0, 1.0])
    # m + d_p - d_n: 0.3 + 1 - 2 < 0, so 0; 0.3 + 1 - 1 = 0.3. Both negatives of each anchor count.
    assert forward.values[0].tolist() == pytest.approx([0.3, 0.0, 0.3])
    assert forward.mask.tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    assert forward.mean().item() == pytest.approx(0.15)
    assert backward.mean().item() == pytest.approx(0.15)
    # The hardest negative alone: the one at chord 1.
    hardest, _ = triplet_terms(queries, references, torch.arange(3), DphrConfig(margin=0.3, negatives="hardest"))
    assert hardest.mask.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert hardest.mean().item() == pytest.approx(0.3)
    # Soft, gamma 10: softplus(-10) and softplus(0) = ln 2.
    soft, _ = triplet_terms(queries, references, torch.arange(3), DphrConfig(kind="soft", gamma=10.0))
    assert soft.mean().item() == pytest.approx((math.log1p(math.exp(-10)) + math.log(2)) / 2)


def test_the_references_are_anchors_in_the_second_direction():
    # Query 1 lies on reference 0, so only the direction from the references sees a negative nearer than the positive.
    queries, references = on_circle(0, 40), on_circle(40, 100)
    _, backward = triplet_terms(queries, references, torch.tensor([7, 8]), DphrConfig(margin=0.0))
    chord = 2 * math.sin(math.radians(20))
    assert backward.values[0, 1].item() == pytest.approx(chord - 1e-3)
    assert backward.values[1, 0].item() == 0.0


def test_a_batch_of_one_place_has_no_negative_and_no_loss():
    for negatives in ("all", "hardest"):
        config = DphrConfig(margin=5.0, negatives=negatives)
        for terms in triplet_terms(on_circle(0, 90), on_circle(10, 80), torch.tensor([3, 3]), config):
            assert terms.mean().item() == 0.0


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(2, 6),
    seed=st.integers(0, 999),
    places=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    distance=st.sampled_from(["euclidean", "cosine"]),
    kind=st.sampled_from(["hinge", "soft"]),
    negatives=st.sampled_from(["all", "hardest"]),
)
def test_both_directions_equal_the_plain_double_loop(rows, seed, places, distance, kind, negatives):
    queries, references = random_unit(rows, 3, seed), random_unit(rows, 3, seed + 1000)
    places = places[:rows]
    config = DphrConfig(distance=distance, kind=kind, negatives=negatives, margin=0.3, gamma=4.0)

    def plain(anchors, others):
        values = []
        for i in range(rows):
            cosine = [float(anchors[i] @ others[k]) for k in range(rows)]
            d = [1 - c if distance == "cosine" else math.sqrt(max(2 - 2 * c, 1e-6)) for c in cosine]
            chosen = [k for k in range(rows) if places[k] != places[i]]
            if negatives == "hardest" and chosen:
                chosen = [min(chosen, key=lambda k: d[k])]
            for k in chosen:
                gap = d[i] - d[k]
                values.append(math.log1p(math.exp(4.0 * gap)) if kind == "soft" else max(0.0, 0.3 + gap))
        return sum(values) / max(1, len(values))

    forward, backward = triplet_terms(queries, references, torch.tensor(places), config)
    assert forward.mean().item() == pytest.approx(plain(queries, references), abs=1e-12)
    assert backward.mean().item() == pytest.approx(plain(references, queries), abs=1e-12)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", ["hinge", "soft"])
@pytest.mark.parametrize("negatives", ["all", "hardest"])
def test_gradients_agree_with_finite_differences(distance, kind, negatives):
    raw = torch.randn(8, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64, requires_grad=True)
    config = DphrConfig(distance=distance, kind=kind, negatives=negatives, gamma=3.0)

    def loss(x):
        unit = F.normalize(x, dim=1)
        forward, backward = triplet_terms(unit[:4], unit[4:], torch.arange(4), config)
        return (forward.mean() + backward.mean()) / 2

    unit = F.normalize(raw.detach(), dim=1)
    for terms in triplet_terms(unit[:4], unit[4:], torch.arange(4), config):  # away from the kink and from a tie
        assert ((config.margin + terms.positive - terms.distance).abs() > 1e-3).all()
        assert terms.distance.sort(dim=1).values.diff(dim=1).min() > 1e-3
    assert torch.autograd.gradcheck(loss, (raw,))
