import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dphr_train.config import ModelConfig
from dphr_train.heads.build import build_head, reads_feature_map


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["pooled", "lpn", "mccg"]),
    pooling=st.sampled_from(["average", "gem"]),
    channels=st.integers(1, 9),
    parts=st.integers(1, 3),
    part_dim=st.integers(1, 7),
    projection=st.integers(0, 5),
    size=st.tuples(st.integers(6, 9), st.integers(6, 9)),
)
def test_every_head_keeps_the_contract(kind, pooling, channels, parts, part_dim, projection, size):
    options = {"projection_dim": projection} if kind == "pooled" else {"parts": parts, "part_dim": part_dim}
    config = ModelConfig(head=kind, pooling=pooling, **options)
    head = build_head(config, channels).eval()
    features = torch.rand(4, channels, *size) if reads_feature_map(config) else torch.rand(4, channels)
    out = head(features)
    expected = {"pooled": (1, projection or channels), "lpn": (parts, part_dim), "mccg": (3, part_dim)}[kind]
    assert (head.n_parts, head.part_dim) == expected
    assert out.shape == (4, *expected)
    assert out.dtype == torch.float32
    # Each image on its own gives the same parts: nothing mixes the rows of a batch in evaluation.
    torch.testing.assert_close(head(features[2:3]), out[2:3])


@pytest.mark.parametrize("kind", ["lpn", "mccg"])
def test_every_weight_of_a_head_learns(kind):
    torch.manual_seed(0)
    head = build_head(ModelConfig(head=kind, parts=2, part_dim=3), 5).train()
    (head(torch.randn(4, 5, 4, 4)) * torch.randn(4, head.n_parts, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize("kind", ["pooled", "lpn", "mccg"])
def test_a_head_can_be_traced_with_a_free_batch(kind):
    """What an export needs: no branch on values, and a batch that no layer turns into a constant."""
    torch.manual_seed(0)
    head = build_head(ModelConfig(head=kind, parts=2, part_dim=3), 5).eval()
    traced = torch.export.export(
        head, (torch.rand(2, 5, 4, 6),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    ).module()
    for batch in (1, 7):
        features = torch.rand(batch, 5, 4, 6)
        torch.testing.assert_close(traced(features), head(features))
