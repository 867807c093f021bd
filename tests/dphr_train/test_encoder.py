import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dphr_infer.errors import CheckpointError, ConfigError
from dphr_train.config import ModelConfig
from dphr_train.encoder import Encoder, load_exactly, load_pretrained, normalise

pytestmark = pytest.mark.kernels

TINY = "test_resnet"


def tiny(image_px=32, ground_px=None, **options):
    torch.manual_seed(0)
    return Encoder(ModelConfig(name=TINY, weights="random", **options), image_px, ground_px)


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


@pytest.mark.parametrize(("head", "n_parts", "part_dim"), [("pooled", 1, 96), ("lpn", 2, 5), ("mccg", 3, 5)])
def test_an_embedding_is_the_parts_one_after_the_other_at_unit_length(head, n_parts, part_dim):
    encoder = tiny(image_px=128, head=head, parts=2, part_dim=5).eval()
    images = torch.randn(3, 3, 128, 128)
    parts = encoder.parts(images)
    assert parts.shape == (3, n_parts, part_dim) == (3, encoder.n_parts, encoder.part_dim)
    assert encoder.dim == n_parts * part_dim
    features = torch.cat([parts[:, number] for number in range(n_parts)], dim=1)
    assert torch.equal(encoder.features(images), features)
    torch.testing.assert_close(encoder(images), features / features.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head", ["pooled", "lpn", "mccg"])
def test_parts_are_float32_under_autocast(head, kind):
    encoder = tiny(image_px=64, head=head, parts=1, part_dim=5, projection_dim=7 if head == "pooled" else 0).eval()
    with torch.autocast("cpu", dtype=kind):
        assert encoder.parts(torch.randn(2, 3, 64, 64)).dtype == torch.float32


def test_a_pooled_checkpoint_of_the_first_release_still_loads_by_name():
    encoder = tiny(pooling="gem", projection_dim=24).eval()
    stored = {f"backbone.{name}": value.clone() for name, value in encoder.backbone.state_dict().items()}
    stored["head.0.p"] = torch.tensor(2.0)
    stored["head.1.weight"] = torch.eye(24, 96)
    stored["head.1.bias"] = torch.full((24,), 0.25)
    load_exactly(encoder, stored, "first.safetensors")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        squares = encoder.backbone.forward_features(images).clamp(min=1e-6).square().mean(dim=(2, 3))
        torch.testing.assert_close(encoder.features(images), squares.sqrt()[:, :24] + 0.25)


def test_an_average_pooled_checkpoint_has_the_tensors_of_the_backbone_alone():
    assert all(name.startswith("backbone.") for name in tiny(pooling="average").state_dict())


def test_a_network_that_puts_channels_last_is_pooled_over_its_rows_and_columns():
    encoder = Encoder(ModelConfig(name="test_mambaout", weights="random", pooling="gem"), image_px=64).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = encoder.backbone.forward_features(images)
        assert features.shape == (1, 2, 2, 64)
        cubes = features.clamp(min=1e-6).pow(3).mean(dim=(1, 2)).pow(1 / 3)
        torch.testing.assert_close(encoder.features(images), cubes)


@pytest.mark.parametrize("head", ["pooled", "lpn", "mccg"])
def test_a_convolutional_network_takes_panoramas_of_another_size(head):
    encoder = tiny(image_px=64, ground_px=(64, 160), head=head, parts=1, part_dim=5).eval()
    assert encoder(torch.randn(2, 3, 64, 64)).shape == encoder(torch.randn(2, 3, 64, 160)).shape


def test_a_network_of_one_input_size_refuses_panoramas_of_another():
    config = ModelConfig(name="test_vit3", weights="random", pooling="average")
    expected = r"^test_vit3 takes no images of 64 x 160 px .*convolutional.*out\.$"
    with pytest.raises(ConfigError, match=expected):
        Encoder(config, 64, ground_px=(64, 160))
    assert Encoder(config, 64, ground_px=(64, 64)).dim == Encoder(config, 64).dim


def test_a_transformer_that_resamples_its_positions_takes_panoramas():
    config = ModelConfig(name="test_vit", weights="random", pooling="average")
    encoder = Encoder(config, 64, ground_px=(64, 160)).eval()
    assert encoder(torch.randn(1, 3, 64, 160)).shape == (1, encoder.dim)


def test_a_panorama_too_small_for_the_rings_is_refused_at_the_start():
    with pytest.raises(ConfigError, match="at least 4 x 4 cells, but the network gives 2 x 5"):
        tiny(image_px=128, ground_px=(64, 160), head="lpn", parts=2)


@pytest.mark.parametrize("head", ["lpn", "mccg"])
def test_heads_of_parts_refuse_tokens(head):
    with pytest.raises(ConfigError, match=f"head {head}.*3-d features"):
        Encoder(ModelConfig(name="test_vit", weights="random", head=head, pooling="average"), image_px=64)


def gradients(checkpoint, name, pooling):
    """Gradients of one step by name, and how often the deepest block ran."""
    torch.manual_seed(0)
    config = ModelConfig(name=name, weights="random", pooling=pooling, checkpoint_gradients=checkpoint)
    encoder = Encoder(config, image_px=64).train()
    block = next(
        module for path, module in encoder.backbone.named_modules() if path in ("blocks.0", "stages.0.blocks.0")
    )
    calls = []
    block.register_forward_pre_hook(lambda *_: calls.append(1))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    encoder(images)[:, 0].sum().backward()
    return {path: parameter.grad for path, parameter in encoder.named_parameters()}, len(calls)


@pytest.mark.parametrize(("name", "pooling"), [("test_vit", "average"), ("test_convnext", "gem")])
def test_checkpointing_runs_blocks_twice_and_gives_the_same_gradients(name, pooling):
    kept, once = gradients(False, name, pooling)
    again, twice = gradients(True, name, pooling)
    assert (once, twice) == (1, 2)
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in kept.values())
    for path, gradient in kept.items():
        if gradient is None:
            assert again[path] is None
        else:
            torch.testing.assert_close(again[path], gradient, rtol=1e-5, atol=1e-7)


def test_checkpointing_rests_in_evaluation():
    encoder = Encoder(ModelConfig(name="test_convnext", weights="random", checkpoint_gradients=True), image_px=64)
    assert encoder.backbone.stages[0].grad_checkpointing
    assert not encoder.eval().backbone.stages[0].grad_checkpointing


def test_checkpointing_is_refused_where_the_model_lacks_it(monkeypatch):
    class Plain(nn.Module):
        default_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}  # noqa: RUF012

        def forward_features(self, images):
            return images

        def set_grad_checkpointing(self, enable=True):
            assert not enable, "gradient checkpointing not supported"

    monkeypatch.setattr("dphr_train.encoder._create_backbone", lambda config, image_px: Plain())
    with pytest.raises(ConfigError, match=r"checkpoint-gradients off and set optim.chunk-size"):
        Encoder(ModelConfig(name="plain", weights="random", checkpoint_gradients=True), image_px=8)
    monkeypatch.delattr(Plain, "set_grad_checkpointing")
    with pytest.raises(ConfigError, match="checkpoint-gradients off"):
        Encoder(ModelConfig(name="plain", weights="random", checkpoint_gradients=True), image_px=8)
    assert Encoder(ModelConfig(name="plain", weights="random"), image_px=8).dim == 3


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
    with pytest.raises(ConfigError, match="use average pooling"):
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
