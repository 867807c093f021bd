from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dphr_train.config import ModelConfig
from dphr_train.encoder import Encoder
from export.graph.fold import fold_batch_norms

pytestmark = pytest.mark.kernels

PIXELS = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_a_folded_encoder_gives_the_same_features_and_its_norms_do_nothing(encoder: Encoder) -> None:
    folded = fold_batch_norms(encoder, 32, 32)
    norms = [module for module in folded.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 10
    assert all(torch.equal(norm.running_var, torch.ones_like(norm.running_var)) for norm in norms)
    with torch.no_grad():
        torch.testing.assert_close(folded.features(PIXELS), encoder.features(PIXELS), rtol=1e-4, atol=1e-5)


def test_folding_leaves_the_given_encoder_alone(encoder: Encoder) -> None:
    before = copy.deepcopy(encoder.state_dict())
    fold_batch_norms(encoder, 32, 32)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_a_convolution_whose_output_is_read_twice_is_not_folded(encoder: Encoder) -> None:
    class ReadTwice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
            nn.init.uniform_(self.norm.weight, 0.2, 3.0)
            nn.init.uniform_(self.norm.bias, -1.0, 1.0)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            features = self.conv(pixels)
            return features + self.norm(features)

        forward_features = forward

    torch.manual_seed(0)
    planted = copy.deepcopy(encoder)
    planted.backbone, planted.head[1] = ReadTwice().eval(), nn.Identity()
    folded = fold_batch_norms(planted, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(folded(PIXELS), planted(PIXELS))


def test_an_encoder_without_batch_norms_passes_through() -> None:
    torch.manual_seed(0)
    encoder = Encoder(ModelConfig(name="test_vit", weights="random", pooling="average"), 32).eval()
    folded = fold_batch_norms(encoder, 32, 32)
    with torch.no_grad():
        assert torch.equal(folded(PIXELS), encoder(PIXELS))
