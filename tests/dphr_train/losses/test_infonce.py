import math

import pytest
import torch
from torch.nn import functional as F

from dphr_train.losses.infonce import InfoNce

pytestmark = pytest.mark.kernels


def plain_infonce(queries, references, scale, smoothing):
    """Double loop over rows and columns, label smoothing written out."""

    def cross_entropy(logits, target):
        log_sum = math.log(sum(math.exp(value) for value in logits))
        losses = [log_sum - value for value in logits]
        n = len(logits)
        return sum(((1 - smoothing) * (k == target) + smoothing / n) * losses[k] for k in range(n))

    n = len(queries)
    logits = [[scale * float(q @ p) for p in references] for q in queries]
    rows = sum(cross_entropy(logits[i], i) for i in range(n)) / n
    columns = sum(cross_entropy([logits[i][j] for i in range(n)], j) for j in range(n)) / n
    return (rows + columns) / 2


def test_two_orthogonal_pairs_by_hand():
    # Logits are 2 on the diagonal and 0 elsewhere: each cross entropy is ln(1 + e^-2).
    loss = InfoNce(temperature=0.5, label_smoothing=0.0)
    unit = torch.eye(2)
    assert loss(unit, unit).item() == pytest.approx(math.log(1 + math.exp(-2)), abs=1e-6)


def test_equal_embeddings_give_the_logarithm_of_the_batch():
    same = F.normalize(torch.ones(5, 3), dim=1)
    assert InfoNce()(same, same).item() == pytest.approx(math.log(5), abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_infonce_equals_the_plain_double_loop(smoothing):
    generator = torch.Generator().manual_seed(3)
    q, p = (F.normalize(torch.randn(6, 4, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    loss = InfoNce(temperature=0.07, label_smoothing=smoothing).double()
    assert loss(q, p).item() == pytest.approx(plain_infonce(q, p, 1 / 0.07, smoothing), rel=1e-6)


def test_label_smoothing_by_hand():
    # Two orthogonal pairs, temperature 1, smoothing 0.2: the target is 0.9 and 0.1, each row's losses are
    # ln(1 + e^-1) and 1 + ln(1 + e^-1).
    loss = InfoNce(temperature=1.0, label_smoothing=0.2)
    assert loss(torch.eye(2), torch.eye(2)).item() == pytest.approx(math.log1p(math.exp(-1)) + 0.1, abs=1e-6)


def test_gradients_agree_with_finite_differences_also_for_the_temperature():
    loss = InfoNce(temperature=0.5, label_smoothing=0.1).double()
    raw = torch.randn(8, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64, requires_grad=True)

    def value(x, logit_scale):
        unit = F.normalize(x, dim=1)
        return torch.func.functional_call(loss, {"logit_scale": logit_scale}, (unit[:4], unit[4:]))

    assert torch.autograd.gradcheck(value, (raw, loss.logit_scale))


def test_the_temperature_falls_while_the_pairs_are_told_apart():
    loss = InfoNce(temperature=0.5, label_smoothing=0.0)
    loss(torch.eye(3), torch.eye(3)).backward()
    # dL/ds = exp(s) * (mean negative - positive, by softmax) < 0: a step down the gradient raises s.
    share = 2 * math.exp(-2) / (1 + 2 * math.exp(-2))
    assert loss.logit_scale.grad.item() == pytest.approx(-2 * share, rel=1e-5)


def test_the_temperature_is_learned():
    loss = InfoNce()
    loss(F.normalize(torch.randn(4, 3), dim=1), F.normalize(torch.randn(4, 3), dim=1)).backward()
    assert loss.logit_scale.grad is not None and float(loss.logit_scale.grad) != 0
