import math

import pytest
import torch
from torch.nn import functional as F

from dphr_train.config import DphrConfig
from dphr_train.losses.dphr import DphrLoss, ProgressiveBalance, hardness


def on_circle(*degrees):
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def plain_terms(q, p, ids, config):
    """L_tri and L_wtri as the equations state them: a plain loop over both directions, anchors and negatives."""

    def distance(a, b):
        cosine = float(a @ b)
        return 1 - cosine if config.distance == "cosine" else math.sqrt(max(2 - 2 * cosine, 1e-6))

    def triplet(dp, dn):
        if config.kind == "soft":
            return math.log1p(math.exp(config.gamma * (dp - dn)))
        return max(0.0, config.margin + dp - dn)

    sums = [0.0, 0.0]
    for anchors, others in ((q, p), (p, q)):
        terms, weighted, weights = [], [], []
        for i in range(len(anchors)):
            dp = distance(anchors[i], others[i])
            negatives = [distance(anchors[i], others[k]) for k in range(len(others)) if ids[k] != ids[i]]
            if config.negatives == "hardest":
                negatives = [min(negatives)]
            for dn in negatives:
                h = dp / (dp + dn)
                w = config.weight_min + (config.weight_max - config.weight_min) * h if config.rda else 1.0
                terms.append(triplet(dp, dn))
                weighted.append(w * triplet(dp, dn))
                weights.append(w)
        sums[0] += sum(terms) / len(terms) / 2
        sums[1] += sum(weighted) / (sum(weights) if config.normalise_weights else len(weighted)) / 2
    return sums


def test_two_places_on_a_circle_by_hand():
    # Anchors at 0 and 180 degrees, references at 60 and 180. Chords: d = 2 sin(angle / 2).
    q, p = on_circle(0, 180), on_circle(60, 180)
    config = DphrConfig(margin=0.3, palw=False)
    d_q0p0, d_q0p1, d_q1p0, d_q1p1 = 1.0, 2.0, math.sqrt(3), 1e-3
    assert d_q0p0 - d_q0p1 + 0.3 < 0 and d_q1p1 - d_q1p0 + 0.3 < 0
    # Only when the margin exceeds the gap do terms remain: take 1.5.
    config = DphrConfig(margin=1.5, palw=False)
    forward = [(1.5 + d_q0p0 - d_q0p1, d_q0p0 / (d_q0p0 + d_q0p1)), (max(0, 1.5 + d_q1p1 - d_q1p0), 0)]
    backward = [(1.5 + d_q0p0 - d_q1p0, d_q0p0 / (d_q0p0 + d_q1p0)), (max(0, 1.5 + d_q1p1 - d_q0p1), 0)]
    triplet = (forward[0][0] + backward[0][0]) / 4
    weighted = (forward[0][0] * (1 + forward[0][1]) + backward[0][0] * (1 + backward[0][1])) / 4
    terms = DphrLoss(config)(q, p, torch.tensor([1, 2]))
    assert float(terms.triplet) == pytest.approx(triplet)
    assert float(terms.weighted_triplet) == pytest.approx(weighted)
    assert float(terms.total) == pytest.approx(triplet + weighted)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", ["hinge", "soft"])
@pytest.mark.parametrize("negatives", ["all", "hardest"])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("rda", [False, True])
def test_every_option_equals_the_plain_loop(distance, kind, negatives, normalise, rda):
    generator = torch.Generator().manual_seed(5)
    q, p = (F.normalize(torch.randn(7, 3, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    ids = torch.tensor([4, 5, 6, 7, 8, 9, 4])  # one place twice: its pair is no negative
    config = DphrConfig(
        distance=distance,
        kind=kind,
        negatives=negatives,
        normalise_weights=normalise,
        rda=rda,
        palw=False,
        weight_min=0.5,
        weight_max=3.0,
    )
    terms = DphrLoss(config)(q, p, ids)
    expected = plain_terms(q, p, ids.tolist(), config)
    assert float(terms.triplet) == pytest.approx(expected[0])
    assert float(terms.weighted_triplet) == pytest.approx(expected[1] if rda or normalise else expected[0])


def test_hardness_grows_with_a_nearer_negative_and_ignores_scale():
    positive, negative = torch.tensor([1.0, 1.0]), torch.tensor([3.0, 0.5])
    assert hardness(positive, negative).tolist() == pytest.approx([0.25, 2 / 3])
    assert torch.allclose(hardness(10 * positive, 10 * negative), hardness(positive, negative))


def test_weights_carry_no_gradient():
    # One anchor pair, margin so wide that every hinge is open: with w held fixed the gradient of the total is that of
    # sum (1 + w) * (m + d_p - d_n) / count; a weight that carried gradient would add d_term * dw/dq.
    p = on_circle(60, 180)
    q = on_circle(0, 90).requires_grad_()
    DphrLoss(DphrConfig(margin=5.0, palw=False))(q, p, torch.tensor([1, 2])).total.backward()

    by_hand = on_circle(0, 90).requires_grad_()
    distance = (2 - 2 * by_hand @ p.T).sqrt()
    total = torch.zeros((), dtype=torch.float64)
    for i, k in ((0, 1), (1, 0)):
        for d_n in (distance[i, k], distance[k, i]):
            weight = 1 + float((distance[i, i] / (distance[i, i] + d_n)).detach())
            total = total + (1 + weight) * (5.0 + distance[i, i] - d_n) / 4
    total.backward()
    assert torch.allclose(q.grad, by_hand.grad)


def test_gradients_agree_with_finite_differences():
    generator = torch.Generator().manual_seed(2)
    raw = torch.randn(8, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    config = DphrConfig(kind="soft", rda=False, palw=False)

    def loss(x):
        unit = F.normalize(x, dim=1)
        return DphrLoss(config)(unit[:4], unit[4:], torch.arange(4)).total

    assert torch.autograd.gradcheck(loss, (raw,))


def test_lambda_is_zero_until_the_first_full_window_and_grows_as_the_loss_falls():
    palw = ProgressiveBalance(DphrConfig(window=2, beta=0.5, lambda_max=1.0))
    assert palw.update(1.0) == 0.0
    # The first full window sets the reference: mean 0.9, alpha 0.
    assert palw.update(0.8) == 0.0
    # mean (0.8 + 0.1) / 2 = 0.45, alpha = 1 - 0.45 / 0.9 = 0.5, lambda = 0.5 * 0 + 0.5 * 0.5.
    assert palw.update(0.1) == pytest.approx(0.25)
    # mean 0.1, alpha = 8/9, lambda = 0.5 * 0.25 + 0.5 * 8/9.
    assert palw.update(0.1) == pytest.approx(0.125 + 4 / 9)


def test_lambda_falls_back_to_nothing_when_the_loss_rises():
    palw = ProgressiveBalance(DphrConfig(window=1, beta=0.0))
    palw.update(1.0)
    assert palw.update(0.25) == pytest.approx(0.75)
    assert palw.update(2.0) == 0.0


@pytest.mark.parametrize(("kind", "expected"), [("exponential", math.exp(-0.5)), ("reciprocal", 1 / 1.5)])
def test_other_progress_signals_by_hand(kind, expected):
    palw = ProgressiveBalance(DphrConfig(window=1, beta=0.0, progress=kind))
    assert palw.update(0.5) == pytest.approx(expected)


def test_palw_continues_from_its_state_exactly():
    config = DphrConfig(window=3, beta=0.9)
    losses = [1.0, 0.9, 0.7, 0.4, 0.3, 0.2]
    whole, first, second = (ProgressiveBalance(config) for _ in range(3))
    expected = [whole.update(value) for value in losses]
    for value in losses[:4]:
        first.update(value)
    second.load_state(first.state())
    assert [second.update(value) for value in losses[4:]] == expected[4:]


@pytest.mark.parametrize(
    ("rda", "palw", "balance"),
    [(False, False, 0.0), (True, False, 1.0), (False, True, 0.0), (True, True, 0.0)],
)
def test_the_rows_of_the_ablation(rda, palw, balance):
    q, p = on_circle(0, 90, 200), on_circle(30, 120, 210)
    terms = DphrLoss(DphrConfig(margin=2.0, rda=rda, palw=palw))(q, p, torch.arange(3))
    assert terms.balance == balance
    assert float(terms.total) == pytest.approx(float(terms.triplet) + balance * float(terms.weighted_triplet))
    assert (float(terms.mean_weight) > 1) == rda
