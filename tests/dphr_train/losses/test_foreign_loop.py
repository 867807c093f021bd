"""The losses in a training loop that is none of ours: a linear encoder, SGD, state saved and restored half-way."""

import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dphr_train.losses import DphrLoss, InfoNce, TripletLoss

STEPS, HALF = 12, 5


def batch(step):
    random = torch.Generator().manual_seed(step)
    scenes = torch.randn(8, 6, generator=random)
    views = [scenes + 0.5 * torch.randn(8, 6, generator=random) for _ in range(2)]
    return *views, torch.randperm(100, generator=random)[:8]


class Loop:
    """Encoder, losses and optimizer of somebody else."""

    def __init__(self, losses):
        torch.manual_seed(1)
        self.encoder, self.losses = nn.Linear(6, 4), nn.ModuleList(losses())
        parameters = [*self.encoder.parameters(), *self.losses.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=0.3, momentum=0.9)

    def train(self, steps):
        """The total of each step, and its terms."""
        found = []
        for step in steps:
            queries, references, place_ids = batch(step)
            views = [F.normalize(self.encoder(view), dim=1) for view in (queries, references)]
            total = sum(loss(*views, place_ids) for loss in self.losses)
            self.optimizer.zero_grad()
            total.backward()
            self.optimizer.step()
            found.append((total.item(), {name: v.item() for loss in self.losses for name, v in loss.terms.items()}))
        return found

    def parts(self):
        return self.encoder, self.losses, self.optimizer


CASES = {
    "dphr": lambda: [DphrLoss(window=3, beta=0.5)],
    "dphr on the hardest, soft": lambda: [DphrLoss(window=2, beta=0.5, kind="soft", negatives="hardest")],
    "infonce and dphr": lambda: [InfoNce(), DphrLoss(window=3, beta=0.5, progress="exponential")],
    "triplet": lambda: [TripletLoss(distance="cosine")],
}


@pytest.mark.parametrize("name", CASES)
def test_a_loop_that_is_saved_and_restored_half_way_continues_exactly(name):
    expected = Loop(CASES[name]).train(range(STEPS))
    first, file = Loop(CASES[name]), io.BytesIO()
    assert first.train(range(HALF)) == expected[:HALF]
    torch.save([part.state_dict() for part in first.parts()], file)
    file.seek(0)
    second = Loop(CASES[name])
    for part, state in zip(second.parts(), torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert second.train(range(HALF, STEPS)) == expected[HALF:]


def test_without_the_state_of_palw_the_second_half_is_another():
    losses = CASES["dphr"]
    expected = Loop(losses).train(range(STEPS))
    loop = Loop(losses)
    loop.train(range(HALF))
    loop.losses[0].load_state_dict(DphrLoss(window=3, beta=0.5).state_dict())
    assert loop.train(range(HALF, STEPS)) != expected[HALF:]


def test_lambda_grows_in_a_loop_that_learns():
    terms = [terms["lambda"] for _, terms in Loop(CASES["dphr"]).train(range(60))]
    assert terms[:2] == [0.0, 0.0] and max(terms) > 0.1


def test_a_triplet_loss_is_dphr_without_weights():
    queries, references, place_ids = batch(0)
    views = [F.normalize(view, dim=1) for view in (queries, references)]
    plain, without = TripletLoss(), DphrLoss(rda=False, palw=False)
    assert plain(*views, place_ids) == without(*views, place_ids) == plain.terms["triplet"]
    assert list(without.terms) == ["triplet", "weighted_triplet", "lambda", "alpha", "mean_weight"]
    assert [loss.state_dict() for loss in (plain, TripletLoss(margin=0.7))] == [{}, {}]
