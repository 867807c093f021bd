"""DPHR beside InfoNCE in a training loop of your own: a linear encoder on generated pairs, a second on a CPU.

Run: python examples/own_loop.py
"""

import torch
from torch import nn
from torch.nn import functional as F

from dphr_train.losses import DphrLoss, InfoNce

PLACES, BATCH, STEPS = 256, 32, 60


def main() -> None:
    torch.manual_seed(0)
    scenes = torch.randn(PLACES, 64)  # what lies at each place; the two views see it through noise
    encoder = nn.Linear(64, 16)
    infonce, dphr = InfoNce(), DphrLoss(window=10, beta=0.9)
    parameters = [*encoder.parameters(), *infonce.parameters()]  # InfoNCE learns its temperature
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for step in range(STEPS):
        place_ids = torch.randperm(PLACES)[:BATCH]  # each place once per batch
        views = (scenes[place_ids] + 0.7 * torch.randn(BATCH, 64) for _ in range(2))
        queries, references = (F.normalize(encoder(view), dim=1) for view in views)
        loss = infonce(queries, references, place_ids) + dphr(queries, references, place_ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 9:
            terms = {**infonce.terms, **dphr.terms, "loss": loss.detach()}
            print(f"step {step + 1}: " + ", ".join(f"{name} {value:.3f}" for name, value in terms.items()))
    # A checkpoint of yours holds encoder, optimizer, infonce and dphr: each has its state_dict().


if __name__ == "__main__":
    main()
