import math

import pytest
import torch

from dphr_train.losses.identity import PartIdentity

pytestmark = pytest.mark.kernels


@torch.no_grad()
def plain_identity(query_parts, reference_parts, places, loss):
    """A loop over views, parts, rows and places."""
    total = 0.0
    n = loss.classifiers[0].out_features
    for view in (query_parts, reference_parts):
        for part, classifier in enumerate(loss.classifiers):
            for row, place in enumerate(places):
                logits = [
                    float(w @ view[row, part] + b) for w, b in zip(classifier.weight, classifier.bias, strict=True)
                ]
                log_sum = math.log(sum(math.exp(value) for value in logits))
                target = [(1 - loss.label_smoothing) * (k == place) + loss.label_smoothing / n for k in range(n)]
                total += sum(share * (log_sum - value) for share, value in zip(target, logits, strict=True)) / len(
                    places
                )
    return total


def make(parts=3, smoothing=0.0):
    torch.manual_seed(0)
    loss = PartIdentity(place_ids=range(4), parts=parts, part_dim=2, label_smoothing=smoothing).double()
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.normal_()
    return loss


def test_one_part_and_two_places_by_hand():
    loss = PartIdentity(place_ids=range(2), parts=1, part_dim=1)
    with torch.no_grad():
        loss.classifiers[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    # Query 0.5: logits 0.5 and -0.5, place 0: ln(1 + e^-1). Reference 1: logits 1 and -1: ln(1 + e^-2).
    query, reference = torch.tensor([[[0.5]]]), torch.tensor([[[1.0]]])
    value = loss(query, reference, torch.tensor([0])).item()
    assert value == pytest.approx(math.log1p(math.exp(-1)) + math.log1p(math.exp(-2)), rel=1e-6)


def test_fresh_classifiers_cost_about_the_logarithm_of_the_places_for_each_part_and_view():
    loss = PartIdentity(place_ids=range(9), parts=4, part_dim=8)
    parts = torch.randn(5, 4, 8)
    assert loss(parts, parts, torch.arange(5)).item() == pytest.approx(2 * 4 * math.log(9), rel=1e-2)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_identity_equals_the_plain_loop(smoothing):
    loss = make(smoothing=smoothing)
    query, reference = torch.randn(2, 5, 3, 2, dtype=torch.float64)
    places = torch.tensor([0, 3, 1, 1, 2])
    expected = plain_identity(query, reference, places.tolist(), loss)
    assert loss(query, reference, places).item() == pytest.approx(expected)


def test_both_views_pass_the_same_classifiers():
    loss = make()
    query, reference = torch.randn(2, 5, 3, 2, dtype=torch.float64)
    places = torch.tensor([0, 3, 1, 1, 2])
    assert loss(query, reference, places).item() == pytest.approx(loss(reference, query, places).item())
    assert len(list(loss.parameters())) == 3 * 2


def test_a_part_is_classified_by_its_own_classifier_alone():
    loss = make(parts=2)
    query = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        loss.classifiers[1].weight.zero_()
    loss(query, torch.randn(4, 2, 2, dtype=torch.float64), torch.arange(4)).backward()
    assert query.grad[:, 0].abs().min() > 0
    assert query.grad[:, 1].abs().max() == 0


def test_gradients_agree_with_finite_differences():
    loss = make(smoothing=0.1)
    query, reference = torch.randn(2, 3, 3, 2, dtype=torch.float64)
    places = torch.tensor([2, 0, 1])
    inputs = (query.requires_grad_(), reference.requires_grad_(), loss.classifiers[0].weight)

    def value(q, r, weight):
        renamed = {**dict(loss.named_parameters()), "classifiers.0.weight": weight}
        return torch.func.functional_call(loss, renamed, (q, r, places))

    assert torch.autograd.gradcheck(value, inputs)
