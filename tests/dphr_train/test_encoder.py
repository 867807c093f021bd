import pytest
import torch
from safetensors.torch import save_file

from dphr_infer.errors import CheckpointError, ConfigError
from dphr_train.config import ModelConfig
from dphr_train.encoder import Encoder, GeM, load_pretrained, normalise

TINY = "test_resnet"


def tiny(**options):
    torch.manual_seed(0)
    return Encoder(ModelConfig(name=TINY, weights="random", **options), image_px=32)


def test_gem_by_hand():
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert GeM(p=1.0)(features).item() == pytest.approx(2.5)
    assert GeM(p=3.0)(features).item() == pytest.approx((100 / 4) ** (1 / 3), rel=1e-5)


def test_normalise_by_hand():
    image = torch.tensor([[[[255, 0, 51]]]], dtype=torch.uint8)
    out = normalise(image, (0.5, 0.5, 0.2), (0.5, 0.25, 0.1))
    assert out.shape == (1, 3, 1, 1)
    assert out.flatten().tolist() == pytest.approx([1.0, -2.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("pooling", ["average", "gem"])
@pytest.mark.parametrize("projection", [0, 24])
def test_embeddings_have_unit_length_and_the_stated_dimension(pooling, projection):
    encoder = tiny(pooling=pooling, projection_dim=projection).eval()
    out = encoder(torch.randn(3, 3, 32, 32))
    assert out.shape == (3, encoder.dim)
    assert projection in (0, encoder.dim)
    assert torch.allclose(out.norm(dim=1), torch.ones(3), atol=1e-6)


def test_average_pooling_is_the_networks_own_output():
    encoder = tiny(pooling="average").eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(encoder.features(images), encoder.backbone(images))


def test_the_embedded_weights_fit_tensor_by_tensor_and_recognise_edges():
    encoder = Encoder(ModelConfig(), image_px=64)
    before = encoder.backbone.conv_stem.weight.clone()
    load_pretrained(encoder, "embedded")
    assert encoder.dim == 1280
    assert not torch.equal(before, encoder.backbone.conv_stem.weight)
    # A mapping in the wrong order would put negative means where variances belong.
    buffers = dict(encoder.backbone.named_buffers())
    assert all((buffer >= 0).all() for name, buffer in buffers.items() if name.endswith("running_var"))
    assert all((buffer < 0).any() for name, buffer in buffers.items() if name.endswith("running_mean"))


def test_embedded_weights_of_another_model_are_refused():
    with pytest.raises(ConfigError, match="tf_efficientnet_lite0"):
        load_pretrained(tiny(), "embedded")


def test_an_unknown_model_is_refused_with_near_names():
    with pytest.raises(ConfigError, match="convnext_tiny"):
        Encoder(ModelConfig(name="convnext_tinny", weights="random"), image_px=64)


def test_gem_without_a_feature_map_is_refused():
    with pytest.raises(ConfigError, match="use average"):
        Encoder(ModelConfig(name="test_vit", weights="random", pooling="gem"), image_px=160)


def test_weights_from_a_file_and_their_refusals(tmp_path):
    encoder = tiny()
    state = {name: value.clone() for name, value in encoder.backbone.state_dict().items()}
    save_file({**state, "fc.weight": torch.zeros(2, 2)}, tmp_path / "good.safetensors")
    load_pretrained(encoder, str(tmp_path / "good.safetensors"))

    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "good.safetensors").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_pretrained(encoder, str(tmp_path / "cut.safetensors"))

    first = next(name for name, value in state.items() if value.is_floating_point())
    save_file({**state, first: state[first] * torch.nan}, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match="NaN"):
        load_pretrained(encoder, str(tmp_path / "nan.safetensors"))

    save_file({name: value for name, value in state.items() if name != first}, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match="1 tensors missing"):
        load_pretrained(encoder, str(tmp_path / "less.safetensors"))

    with pytest.raises(CheckpointError, match="do not exist"):
        load_pretrained(encoder, str(tmp_path / "absent.safetensors"))
