import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dphr_infer.errors import ConfigError
from dphr_train.heads.lpn import LpnHead, ring_means

pytestmark = pytest.mark.kernels


def plain_ring(row, column, height, width, parts):
    """The ring of a cell, from the centre outwards: the first square around the middle that holds it."""
    for ring in range(1, parts):
        half_height, half_width = ring * (height // (2 * parts)), ring * (width // (2 * parts))
        in_rows = height // 2 - half_height <= row < height // 2 + half_height
        in_columns = width // 2 - half_width <= column < width // 2 + half_width
        if in_rows and in_columns:
            return ring - 1
    return parts - 1


def test_two_rings_of_a_4_by_4_map_by_hand():
    features = torch.tensor([[1.0, 1, 1, 1], [1, 5, 6, 1], [1, 7, 8, 1], [1, 1, 1, 13]])[None, None]
    inner, outer = ring_means(features, 2)
    assert inner.item() == pytest.approx(26 / 4)
    assert outer.item() == pytest.approx(24 / 12)


@settings(max_examples=60, deadline=None)
@given(parts=st.integers(1, 4), extra=st.tuples(st.integers(0, 7), st.integers(0, 7)), seed=st.integers(0, 99))
def test_ring_means_equal_the_plain_loop_on_maps_of_any_shape(parts, extra, seed):
    height, width = 2 * parts + extra[0], 2 * parts + extra[1]
    features = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    cells = [[] for _ in range(parts)]
    for row in range(height):
        for column in range(width):
            cells[plain_ring(row, column, height, width, parts)].append(features[:, :, row, column])
    for mean, ring in zip(ring_means(features, parts), cells, strict=True):
        torch.testing.assert_close(mean, torch.stack(ring).mean(dim=0))


def test_a_square_map_turned_by_a_quarter_has_the_same_rings():
    features = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for one, other in zip(ring_means(features, 4), ring_means(features.rot90(1, (2, 3)), 4), strict=True):
        torch.testing.assert_close(one, other)


def test_every_ring_has_a_bottleneck_of_its_own():
    torch.manual_seed(0)
    head = LpnHead(channels=3, parts=2, part_dim=5).eval()
    features = torch.randn(2, 3, 6, 6)
    before = head(features)
    assert before.shape == (2, 2, 5)
    for number, mean in enumerate(ring_means(features, 2)):
        linear = head.bottlenecks[number][0]
        # In evaluation a fresh batch norm divides by sqrt(1 + 1e-5) and dropout does nothing.
        expected = (mean @ linear.weight.T + linear.bias) / (1 + 1e-5) ** 0.5
        torch.testing.assert_close(before[:, number], expected)
    with torch.no_grad():
        head.bottlenecks[1][0].bias += 1.0
    after = head(features)
    assert torch.equal(after[:, 0], before[:, 0])
    assert not torch.allclose(after[:, 1], before[:, 1])


def test_half_of_a_part_is_dropped_in_training():
    torch.manual_seed(0)
    head = LpnHead(channels=3, parts=1, part_dim=1000).train()
    share = (head(torch.randn(4, 3, 4, 4)) == 0).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("shape", "found"), [((2, 3, 7, 9), "7 x 9"), ((2, 3, 9, 7), "9 x 7")])
def test_a_map_smaller_than_the_rings_is_refused_with_both_sizes(shape, found):
    with pytest.raises(ConfigError, match=f"model.parts 4 needs a feature map of at least 8 x 8.*gives {found}"):
        ring_means(torch.zeros(shape), 4)


def test_tokens_are_refused():
    with pytest.raises(ConfigError, match="3-d features"):
        ring_means(torch.zeros(2, 5, 8), 1)
