import pytest
import torch

from dphr_infer.errors import ConfigError
from dphr_train.heads.pooled import GeM, PooledHead

pytestmark = pytest.mark.kernels


def test_gem_by_hand():
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert GeM(p=1.0)(features).item() == pytest.approx(2.5)
    assert GeM(p=3.0)(features).item() == pytest.approx((100 / 4) ** (1 / 3), rel=1e-5)


def test_gem_of_half_precision_features_is_float32():
    assert GeM()(torch.ones(1, 2, 3, 3, dtype=torch.float16)).dtype == torch.float32


def test_average_without_projection_hands_the_networks_output_on_as_one_part():
    features = torch.tensor([[1.0, -2.0, 3.0]])
    assert PooledHead(3, gem=False, projection_dim=0)(features).tolist() == [[[1.0, -2.0, 3.0]]]


def test_the_projection_follows_the_pooling():
    head = PooledHead(2, gem=True, projection_dim=1)
    with torch.no_grad():
        head[0].p.fill_(1.0)
        head[1].weight.copy_(torch.tensor([[10.0, 1.0]]))
        head[1].bias.fill_(0.5)
    features = torch.tensor([[[[1.0, 3.0]], [[4.0, 6.0]]]])  # means 2 and 5
    assert head(features).item() == pytest.approx(10 * 2 + 5 + 0.5)
    assert (head.n_parts, head.part_dim) == (1, 1)


def test_gem_on_tokens_says_what_it_needs():
    with pytest.raises(ConfigError, match=r"needs a feature map \(4-d\), but the network gives 3-d.*average pooling"):
        PooledHead(8, gem=True, projection_dim=0)(torch.zeros(2, 5, 8))
