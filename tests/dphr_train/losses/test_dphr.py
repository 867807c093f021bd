import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dphr_infer.errors import ConfigError
from dphr_train.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from dphr_train.config import DphrConfig, LossConfig, TrainConfig
from dphr_train.losses.dphr import DphrLoss, ProgressiveBalance, hardness, rda_weights
from dphr_train.losses.triplet import triplet_terms
from dphr_train.objective import Objective, Task, dphr_of

pytestmark = pytest.mark.kernels


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
    loss = dphr_of(config)
    assert float(loss(q, p, torch.tensor([1, 2]))) == pytest.approx(triplet + weighted)
    assert float(loss.terms["triplet"]) == pytest.approx(triplet)
    assert float(loss.terms["weighted_triplet"]) == pytest.approx(weighted)


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
    loss = dphr_of(config)
    loss(q, p, ids)
    expected = plain_terms(q, p, ids.tolist(), config)
    assert float(loss.terms["triplet"]) == pytest.approx(expected[0])
    assert float(loss.terms["weighted_triplet"]) == pytest.approx(expected[1] if rda or normalise else expected[0])


def test_hardness_grows_with_a_nearer_negative_and_ignores_scale():
    positive, negative = torch.tensor([1.0, 1.0]), torch.tensor([3.0, 0.5])
    assert hardness(positive, negative).tolist() == pytest.approx([0.25, 2 / 3])
    assert torch.allclose(hardness(10 * positive, 10 * negative), hardness(positive, negative))


@settings(max_examples=60, deadline=None)
@given(positive=st.floats(1e-3, 2), negative=st.floats(1e-3, 2), scale=st.floats(1e-3, 1e3), nearer=st.floats(0.1, 0.9))
def test_hardness_lies_between_0_and_1_keeps_its_value_under_scaling_and_grows(positive, negative, scale, nearer):
    d_p, d_n = torch.tensor([positive, negative], dtype=torch.float64)
    h = hardness(d_p, d_n)
    assert 0 < h < 1
    assert float(hardness(scale * d_p, scale * d_n)) == pytest.approx(float(h))
    assert hardness(d_p, nearer * d_n) > h


def test_weights_by_hand():
    # Chords: query 0 to its own reference 1, to the other 2: h = 1/3, and w = 0.5 + 2.5 / 3.
    config = DphrConfig(weight_min=0.5, weight_max=3.0)
    forward, _ = triplet_terms(on_circle(0, 90), on_circle(60, 180), torch.tensor([1, 2]), config)
    weights = rda_weights(forward, config)
    assert float(weights[0, 1]) == pytest.approx(0.5 + 2.5 / 3)
    # Query 1 at 90 degrees: its own at 180 degrees, sqrt 2; the other at 60 degrees, 2 sin 15.
    own, other = math.sqrt(2), 2 * math.sin(math.radians(15))
    assert float(weights[1, 0]) == pytest.approx(0.5 + 2.5 * own / (own + other))


# Total, L_tri and L_wtri of `wave_batch`, as the first release computed them.
PINNED = [
    ({}, 0.482764335258973, 0.16026169311228097, 0.322502642146692),
    ({"kind": "soft"}, 2.602501698620972, 0.842407833598364, 1.7600938650226077),
    ({"distance": "cosine"}, 0.5154207866121086, 0.16059246683696785, 0.35482831977514073),
    ({"negatives": "hardest"}, 1.5148779441350384, 0.4901801142082626, 1.0246978299267757),
    ({"normalise_weights": True}, 0.3763167463805836, 0.16026169311228097, 0.21605505326830263),
    (
        {"distance": "cosine", "kind": "soft", "negatives": "hardest", "normalise_weights": True},
        6.428350083274488,
        2.8016224885097434,
        3.626727594764744,
    ),
    ({"rda": False, "palw": True, "window": 1, "progress": "reciprocal", "beta": 0.0}, None, 0.16026169311228097, None),
]


def wave_batch():
    wave = torch.arange(24, dtype=torch.float64).reshape(6, 4)
    queries = F.normalize(torch.sin(1 + 5 * wave), dim=1)
    return queries, F.normalize(queries + 1.2 * torch.cos(7 * wave), dim=1), torch.tensor([1, 2, 3, 4, 5, 2])


@pytest.mark.parametrize(("options", "total", "triplet", "weighted"), PINNED)
def test_the_loss_of_a_fixed_batch_stays_what_it_was(options, total, triplet, weighted):
    loss = DphrLoss(**{"palw": False, "weight_min": 0.5, "weight_max": 3.0, **options})
    found = loss(*wave_batch())
    if total is None:  # weights of 1, and lambda = 1 / (1 + L_tri) at once
        weighted, total = triplet, triplet + triplet / (1 + triplet)
    expected = pytest.approx([total, triplet, weighted], rel=1e-13)
    assert [float(found), float(loss.terms["triplet"]), float(loss.terms["weighted_triplet"])] == expected


def test_the_second_step_of_a_fixed_batch_stays_what_it_was():
    loss = DphrLoss(window=1, beta=0.5)
    queries, references, places = wave_batch()
    loss(queries, references, places)
    assert loss.terms["lambda"] == 0.0
    total = loss(queries, F.normalize(references + 0.5 * queries, dim=1), places)
    values = [float(total), *(float(loss.terms[name]) for name in ("triplet", "weighted_triplet", "lambda"))]
    assert values == pytest.approx(
        [0.1075542507375915, 0.07617833371540944, 0.11960410766157911, 0.2623314335571192], rel=1e-13
    )


@pytest.mark.parametrize("kind", ["hinge", "soft"])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_gradient_of_the_whole_loss_is_that_of_a_loop_with_constant_weights(kind, distance):
    loss = DphrLoss(kind=kind, distance=distance, margin=0.8, gamma=2.0, window=1, beta=0.0, weight_max=4.0)
    queries, references, _ = wave_batch()
    easy = F.normalize(references + 0.5 * queries, dim=1)
    places = torch.arange(6)
    loss(queries, references, places)
    q = queries.clone().requires_grad_()
    found = loss(q, easy, places)
    balance = loss.terms["lambda"].item()
    assert balance > 0.1
    found.backward()

    by_hand = queries.clone().requires_grad_()
    cosine = by_hand @ easy.T
    d = 1 - cosine if distance == "cosine" else (2 - 2 * cosine).sqrt()
    values = []
    for table in (d, d.T):
        for i in range(6):
            for k in range(6):
                if i != k:
                    gap = table[i, i] - table[i, k]
                    term = torch.log1p(torch.exp(2.0 * gap)) if kind == "soft" else torch.clamp(0.8 + gap, min=0)
                    own, other = table[i, i].item(), table[i, k].item()
                    constant = 1 + 3 * own / (own + other)
                    values.append(term * (1 + balance * constant))
    total = torch.stack(values).sum() / 60
    assert total.item() == pytest.approx(found.item())
    total.backward()
    torch.testing.assert_close(q.grad, by_hand.grad)


def test_weights_carry_no_gradient():
    # One anchor pair, margin so wide that every hinge is open: with w held fixed the gradient of the total is that of
    # sum (1 + w) * (m + d_p - d_n) / count; a weight that carried gradient would add d_term * dw/dq.
    p = on_circle(60, 180)
    q = on_circle(0, 90).requires_grad_()
    DphrLoss(margin=5.0, palw=False)(q, p, torch.tensor([1, 2])).backward()

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

    def loss(x):
        unit = F.normalize(x, dim=1)
        return DphrLoss(kind="soft", rda=False, palw=False)(unit[:4], unit[4:], torch.arange(4))

    assert torch.autograd.gradcheck(loss, (raw,))


class Balance(ProgressiveBalance):
    """PALW in floats."""

    def update(self, value):
        return super().update(torch.tensor(value, dtype=torch.float64)).item()


def test_lambda_is_zero_until_the_first_full_window_and_grows_as_the_loss_falls():
    palw = Balance(DphrConfig(window=2, beta=0.5, lambda_max=1.0))
    assert palw.update(1.0) == 0.0
    # The first full window sets the reference: mean 0.9, alpha 0.
    assert palw.update(0.8) == 0.0
    # mean (0.8 + 0.1) / 2 = 0.45, alpha = 1 - 0.45 / 0.9 = 0.5, lambda = 0.5 * 0 + 0.5 * 0.5.
    assert palw.update(0.1) == pytest.approx(0.25)
    # mean 0.1, alpha = 8/9, lambda = 0.5 * 0.25 + 0.5 * 8/9.
    assert palw.update(0.1) == pytest.approx(0.125 + 4 / 9)


def test_lambda_falls_back_to_nothing_when_the_loss_rises():
    palw = Balance(DphrConfig(window=1, beta=0.0))
    palw.update(1.0)
    assert palw.update(0.25) == pytest.approx(0.75)
    assert palw.update(2.0) == 0.0


@pytest.mark.parametrize(("kind", "expected"), [("exponential", math.exp(-0.5)), ("reciprocal", 1 / 1.5)])
def test_other_progress_signals_by_hand(kind, expected):
    palw = Balance(DphrConfig(window=1, beta=0.0, progress=kind))
    assert palw.update(0.5) == pytest.approx(expected)


def test_palw_continues_from_its_state_exactly():
    config = DphrConfig(window=3, beta=0.9)
    losses = [1.0, 0.9, 0.7, 0.4, 0.3, 0.2]
    whole, first, second = (Balance(config) for _ in range(3))
    expected = [whole.update(value) for value in losses]
    for value in losses[:4]:
        first.update(value)
    second.load_state_dict(first.state_dict())
    assert [second.update(value) for value in losses[4:]] == expected[4:]


def test_lambda_stays_small_at_the_start_and_grows_while_the_triplet_loss_falls():
    config = DphrConfig(window=20, beta=0.97)
    palw = Balance(config)
    balances = [palw.update(0.3 * math.exp(-step / 80)) for step in range(300)]
    assert balances[:20] == [0.0] * 20
    assert max(balances[:40]) < 0.1
    assert all(later > earlier for earlier, later in itertools.pairwise(balances[19:]))
    assert 0.8 < balances[-1] < config.lambda_max


def test_the_state_of_palw_passes_a_checkpoint_and_the_run_continues_exactly(tmp_path):
    config = LossConfig(infonce=False, dphr=DphrConfig(window=3, beta=0.5))
    queries, references, places = (value[:, None] if value.ndim == 2 else value for value in wave_batch())
    batches = [F.normalize(references + step * 0.1 * queries, dim=2) for step in range(8)]
    whole, first, second = (Objective(config, Task([1], 1, 4)) for _ in range(3))
    expected = [float(whole(queries, batch, places)[0]) for batch in batches]
    for batch in batches[:5]:
        first(queries, batch, places)
    assert first.dphr.palw.balance > 0
    path = tmp_path / "last.safetensors"
    tensors = {"encoder": {"weight": torch.zeros(1)}, "objective": first.state_dict()}
    write_checkpoint(path, Checkpoint(TrainConfig(), step=5, epoch=0, offset=5, processes=1, **tensors))
    second.load_state_dict(read_checkpoint(path).objective)
    assert [float(second(queries, batch, places)[0]) for batch in batches[5:]] == expected[5:]


@pytest.mark.parametrize(
    ("rda", "palw", "balance"),
    [(False, False, 0.0), (True, False, 1.0), (False, True, 0.0), (True, True, 0.0)],
)
def test_the_rows_of_the_ablation(rda, palw, balance):
    q, p = on_circle(0, 90, 200), on_circle(30, 120, 210)
    loss = DphrLoss(margin=2.0, rda=rda, palw=palw)
    total = float(loss(q, p, torch.arange(3)))
    terms = {name: float(value) for name, value in loss.terms.items()}
    assert terms["lambda"] == balance
    assert total == pytest.approx(terms["triplet"] + balance * terms["weighted_triplet"])
    assert (terms["mean_weight"] > 1) == rda


@pytest.mark.parametrize("negatives", ["all", "hardest"])
@pytest.mark.parametrize("progress", ["relative", "exponential", "reciprocal"])
def test_no_step_waits_for_the_device(negatives, progress):
    # Tensors on "meta" have shapes but no values: whatever reads one, as a device is read, raises.
    loss = DphrLoss(window=2, negatives=negatives, progress=progress).to("meta")
    queries, references = (torch.empty(4, 3, device="meta", requires_grad=True) for _ in range(2))
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(queries.detach().sum())
    for _ in range(3):
        loss(queries, references, torch.empty(4, dtype=torch.int64, device="meta")).backward()
    assert queries.grad.shape == (4, 3) and all(value.device.type == "meta" for value in loss.terms.values())


def test_evaluation_mode_leaves_the_progress_where_it_is():
    loss = DphrLoss(window=1, beta=0.5, progress="reciprocal")
    loss(*wave_batch())
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss.eval()
    loss(*wave_batch())
    assert loss.terms["lambda"] == before["palw.balance"] > 0
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


def test_two_losses_may_wait_for_one_backward_pass():
    queries, references, places = wave_batch()
    q = queries.clone().requires_grad_()
    loss = DphrLoss(window=1, beta=0.5, progress="reciprocal")
    (loss(q, references, places) + loss(q, references, places)).backward()
    assert torch.isfinite(q.grad).all()


def test_a_value_that_is_not_finite_counts_as_no_progress_and_is_forgotten():
    palw = Balance(DphrConfig(window=1, beta=0.0))
    assert palw.update(1.0) == 0.0
    assert palw.update(math.nan) == 0.0
    assert palw.update(0.25) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "hing"}, "kind is 'hing'; choose one of hinge, soft"),
        ({"negatives": "hard"}, "negatives is 'hard'; choose one of all, hardest"),
        ({"weight_min": 3.0}, r"weight-min 3\.0 lies above weight-max 2\.0"),
    ],
)
def test_an_option_out_of_its_range_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DphrLoss(**options)


@pytest.mark.parametrize("shape", [(4,), (3, 2), (4, 1, 2)])
def test_what_is_no_batch_of_pairs_is_refused_with_the_shapes(shape):
    queries, places = torch.zeros(4, 2), torch.arange(4)
    with pytest.raises(ConfigError, match=r"of one shape \(B, D\), got queries \(4, 2\)"):
        DphrLoss()(queries, torch.zeros(shape), places)
    with pytest.raises(ConfigError, match=r"expected place_ids \(B,\), got \(1,\)"):
        DphrLoss()(queries, queries, places[:1])
