import math

import pytest
import torch
from torch.nn import functional as F

from dphr_infer.errors import ConfigError, DatasetError
from dphr_train.config import DphrConfig, LossConfig
from dphr_train.losses.base import PairLoss
from dphr_train.losses.infonce import InfoNce
from dphr_train.objective import FURTHER_LOSSES, Objective, Task, dphr_of

pytestmark = pytest.mark.kernels

PLACES = [40, 7, 12, 7, 900]


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    query, reference = torch.randn(2, 3, 2, 4, generator=generator)
    return query, reference, torch.tensor([900, 7, 40])


def test_without_identity_and_dphr_the_checkpoint_holds_the_temperature_alone():
    bare = LossConfig(dphr=DphrConfig(triplet=False))
    assert list(Objective(bare, Task(PLACES, 2, 4)).state_dict()) == ["infonce.logit_scale"]


def test_the_checkpoint_holds_the_progress_of_palw():
    palw = [f"dphr.palw.{name}" for name in ("recent", "count", "reference", "balance")]
    assert list(Objective(LossConfig(infonce=False), Task(PLACES, 2, 4)).state_dict()) == palw


def test_identity_adds_one_classifier_a_part_over_the_different_places():
    state = Objective(LossConfig(identity=1.0, dphr=DphrConfig(triplet=False)), Task(PLACES, 2, 4)).state_dict()
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
    total, terms = Objective(config, Task(PLACES, 2, 4))(query, reference, places)
    joined = [
        torch.stack([torch.cat([row[0], row[1]]) / torch.cat([row[0], row[1]]).norm() for row in view])
        for view in (query, reference)
    ]
    infonce = InfoNce()(*joined)
    dphr = dphr_of(config.dphr)
    expected = (infonce + dphr(*joined, places)).item()
    assert terms["infonce"] == pytest.approx(infonce.item(), rel=1e-5)
    assert terms["triplet"] == pytest.approx(float(dphr.terms["triplet"]), rel=1e-5)
    assert terms["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-5)
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert terms["loss"] == total.item()
    assert "identity" not in terms


def test_identity_sees_the_parts_as_they_are_and_places_by_their_sorted_number():
    config = LossConfig(infonce=False, identity=0.5, label_smoothing=0.0, dphr=DphrConfig(triplet=False))
    objective = Objective(config, Task(PLACES, 2, 4))
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
    assert terms["identity"] == pytest.approx(expected.item(), rel=1e-5)
    assert total.item() == pytest.approx(0.5 * expected.item(), rel=1e-5)


def test_longer_parts_change_identity_but_neither_infonce_nor_the_triplets():
    objective = Objective(LossConfig(identity=1.0), Task(PLACES, 2, 4))
    with torch.no_grad():
        for classifier in objective.identity.classifiers:
            classifier.weight.normal_()
    query, reference, places = batch()
    _, short = objective(query, reference, places)
    _, long = objective(3 * query, 3 * reference, places)
    assert long["infonce"] == pytest.approx(short["infonce"].item(), rel=1e-5)
    assert long["triplet"] == pytest.approx(short["triplet"].item(), rel=1e-5)
    assert abs(long["identity"] - short["identity"]) > 0.1


def test_a_fresh_identity_term_is_about_the_logarithm_of_the_places():
    _, terms = Objective(LossConfig(identity=1.0), Task(PLACES, 2, 4))(*batch())
    assert terms["identity"] == pytest.approx(2 * 2 * math.log(4), rel=1e-2)


@pytest.mark.parametrize("stranger", [1, 8, 901])
def test_a_place_that_identity_does_not_know_is_named(stranger):
    query, reference, places = batch()
    places[1] = stranger
    with pytest.raises(DatasetError, match=f"place {stranger}, which is none of the 4 places"):
        Objective(LossConfig(identity=1.0), Task(PLACES, 2, 4))(query, reference, places)
    assert Objective(LossConfig(), Task(PLACES, 2, 4))(query, reference, places)[1]["loss"] > 0


def test_the_classifiers_and_the_temperature_learn_and_pass_a_state_dict():
    objective = Objective(LossConfig(identity=1.0), Task(PLACES, 2, 4))
    objective(*batch())[0].backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in objective.parameters())
    other = Objective(LossConfig(identity=1.0), Task(PLACES, 2, 4))
    other.load_state_dict(objective.state_dict())
    assert other(*batch())[1]["identity"] == objective(*batch())[1]["identity"]


def test_a_further_loss_is_one_row_of_the_table(monkeypatch):
    class Pull(PairLoss):
        def forward(self, queries, references, place_ids):
            loss = (queries - references).square().sum(dim=1).mean()
            self.terms = {"pull": loss.detach()}
            return loss

    monkeypatch.setitem(FURTHER_LOSSES, "pull", Pull)
    query, reference, places = batch()
    plain, _ = Objective(LossConfig(), Task(PLACES, 2, 4))(query, reference, places)
    total, terms = Objective(LossConfig(further=("pull",)), Task(PLACES, 2, 4))(query, reference, places)
    q, p = (F.normalize(view.flatten(1), dim=1) for view in (query, reference))
    assert terms["pull.pull"].item() == pytest.approx(2 - 2 * float((q * p).sum(dim=1).mean()), rel=1e-5)
    assert total.item() == pytest.approx(plain.item() + terms["pull.pull"].item(), rel=1e-6)


def test_a_further_loss_keeps_its_terms_apart_from_those_of_dphr():
    config = LossConfig(further=("plain_triplet",), dphr=DphrConfig(margin=0.9))
    _, terms = Objective(config, Task(PLACES, 2, 4))(*batch())
    assert terms["plain_triplet.triplet"] != terms["triplet"]


def test_a_further_loss_that_the_table_lacks_is_refused_with_those_that_it_has():
    with pytest.raises(ConfigError, match=r"'circle', which is no loss of the table; it has plain_triplet"):
        Objective(LossConfig(further=("circle",)), Task(PLACES, 2, 4))
