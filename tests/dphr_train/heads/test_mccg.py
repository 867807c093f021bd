import pytest
import torch
from torch.nn import functional as F

from dphr_infer.errors import ConfigError
from dphr_train.heads.mccg import CrossAttention, MccgHead

pytestmark = pytest.mark.kernels


def full_attention(branch, features, pooled_axis):
    """Rotate, pool, convolve, gate every cell, rotate back, average: as the paper of triplet attention draws it.

    The batch norm is fresh and in evaluation: it divides by sqrt(1 + 1e-5).
    """
    rotated = features.movedim(pooled_axis, 1)  # (B, pooled, C, other)
    pooled = torch.cat([rotated.max(dim=1, keepdim=True).values, rotated.mean(dim=1, keepdim=True)], dim=1)
    gate = torch.sigmoid(F.conv2d(pooled, branch.convolution.weight, padding=3) / (1 + 1e-5) ** 0.5)
    gated = (rotated * gate).movedim(1, pooled_axis)
    assert gated.shape == features.shape
    return gated.mean(dim=(2, 3))


@pytest.mark.parametrize("pooled_axis", [2, 3])
@pytest.mark.parametrize("size", [(4, 4), (3, 9), (1, 2)])
def test_a_branch_equals_the_gated_map_averaged(pooled_axis, size):
    torch.manual_seed(1)
    branch = CrossAttention(pooled_axis).double().eval()
    features = torch.randn(2, 10, *size, dtype=torch.float64)
    torch.testing.assert_close(branch(features), full_attention(branch, features, pooled_axis))


def test_a_gate_that_is_half_open_everywhere_halves_the_mean():
    branch = CrossAttention(2).eval()
    torch.nn.init.zeros_(branch.convolution.weight)
    features = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]], [[0.0, 0.0], [0.0, 4.0]]]])
    assert branch(features).tolist() == [[2.0, 0.5]]


def test_the_parts_are_both_branches_and_then_the_global_mean():
    torch.manual_seed(0)
    head = MccgHead(channels=6, part_dim=4).eval()
    features = torch.randn(2, 6, 3, 5)
    parts = head(features)
    assert (head.n_parts, head.part_dim, parts.shape) == (3, 4, (2, 3, 4))
    pooled = [full_attention(head.branches[0], features, 2), full_attention(head.branches[1], features, 3)]
    pooled.append(features.mean(dim=(2, 3)))
    for number, part in enumerate(pooled):
        torch.testing.assert_close(parts[:, number], head.bottlenecks[number](part))


def test_turning_the_map_swaps_what_the_branches_see():
    branch = CrossAttention(2).eval()
    other = CrossAttention(3).eval()
    other.load_state_dict(branch.state_dict())
    features = torch.randn(2, 6, 3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(branch(features), other(features.transpose(2, 3)))


def test_tokens_are_refused():
    with pytest.raises(ConfigError, match=r"head mccg needs a feature map \(4-d\).*3-d"):
        MccgHead(8, 4)(torch.zeros(2, 5, 8))
