import math

import pytest
import torch
from torch.nn import functional as F

from dphr_infer.errors import DatasetError
from dphr_train.config import DphrConfig, LossConfig
from dphr_train.losses.dphr import DphrLoss
from dphr_train.losses.infonce import SymmetricInfoNCE
from dphr_train.objective import Objective

pytestmark = pytest.mark.kernels

PLACES = [40, 7, 12, 7, 900]


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    query, reference = torch.randn(2, 3, 2, 4, generator=generator)
    return query, reference, torch.tensor([900, 7, 40])


def test_without_identity_the_checkpoint_holds_the_temperature_alone():
    assert list(Objective(LossConfig(), PLACES, 2, 4).state_dict()) == ["infonce.logit_scale"]
    assert list(Objective(LossConfig(infonce=False), PLACES, 2, 4).state_dict()) == []


def test_identity_adds_one_classifier_a_part_over_the_different_places():
    state = Objective(LossConfig(identity=1.0), PLACES, 2, 4).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "infonce.logit_scale": (),
        "identity.classifiers.0.weight": (4, 4),
        "identity.classifiers.0.bias": (4,),
        "identity.classifiers.1.weight": (4, 4),
        "identity.classifiers.1.bias": (4,),
    }


def test_infonce_and_dphr_see_the_joined_parts_at_unit_length():
    config = LossConfig(dphr=DphrConfig(palw=False, margin=1.0))
    query, reference, places = batch()
    total, terms = Objective(config, PLACES, 2, 4)(query, reference, places)
    joined = [
        torch.stack([torch.cat([row[0], row[1]]) / torch.cat([row[0], row[1]]).norm() for row in view])
        for view in (query, reference)
    ]
    infonce = SymmetricInfoNCE()(*joined)
    dphr = DphrLoss(config.dphr)(*joined, places)
    assert terms["infonce"] == pytest.approx(float(infonce), rel=1e-5)
    assert terms["triplet"] == pytest.approx(float(dphr.triplet), rel=1e-5)
    assert terms["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-5)
    assert total.item() == pytest.approx(float(infonce + dphr.total), rel=1e-5)
    assert terms["loss"] == total.item()
    assert "identity" not in terms


def test_identity_sees_the_parts_as_they_are_and_places_by_their_sorted_number():
    config = LossConfig(infonce=False, identity=0.5, label_smoothing=0.0, dphr=DphrConfig(triplet=False))
    objective = Objective(config, PLACES, 2, 4)
    with torch.no_grad():
        for classifier in objective.identity.classifiers:
            classifier.weight.normal_()
    query, reference, places = batch()
    numbers = torch.tensor([3, 0, 2])  # of 900, 7 and 40 among 7, 12, 40, 900
    expected = sum(
        F.cross_entropy(view[:, part] @ classifier.weight.T, numbers)
        for part, classifier in enumerate(objective.identity.classifiers)
        for view in (query, reference)
    )
    total, terms = objective(query, reference, places)
    assert set(terms) == {"identity", "loss"}
    assert terms["identity"] == pytest.approx(float(expected), rel=1e-5)
    assert total.item() == pytest.approx(0.5 * float(expected), rel=1e-5)


def test_longer_parts_change_identity_but_neither_infonce_nor_the_triplets():
    objective = Objective(LossConfig(identity=1.0), PLACES, 2, 4)
    with torch.no_grad():
        for classifier in objective.identity.classifiers:
            classifier.weight.normal_()
    query, reference, places = batch()
    _, short = objective(query, reference, places)
    _, long = objective(3 * query, 3 * reference, places)
    assert long["infonce"] == pytest.approx(short["infonce"], rel=1e-5)
    assert long["triplet"] == pytest.approx(short["triplet"], rel=1e-5)
    assert abs(long["identity"] - short["identity"]) > 0.1


def test_a_fresh_identity_term_is_about_the_logarithm_of_the_places():
    _, terms = Objective(LossConfig(identity=1.0), PLACES, 2, 4)(*batch())
    assert terms["identity"] == pytest.approx(2 * 2 * math.log(4), rel=1e-2)


@pytest.mark.parametrize("stranger", [1, 8, 901])
def test_a_place_that_identity_does_not_know_is_named(stranger):
    query, reference, places = batch()
    places[1] = stranger
    with pytest.raises(DatasetError, match=f"place {stranger}, which is none of the 4 places"):
        Objective(LossConfig(identity=1.0), PLACES, 2, 4)(query, reference, places)
    assert Objective(LossConfig(), PLACES, 2, 4)(query, reference, places)[1]["loss"] > 0


def test_the_classifiers_and_the_temperature_learn_and_pass_a_state_dict():
    objective = Objective(LossConfig(identity=1.0), PLACES, 2, 4)
    objective(*batch())[0].backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in objective.parameters())
    other = Objective(LossConfig(identity=1.0), PLACES, 2, 4)
    other.load_state_dict(objective.state_dict())
    assert other(*batch())[1]["identity"] == objective(*batch())[1]["identity"]
