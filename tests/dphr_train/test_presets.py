import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dphr_infer.errors import CheckpointError, ConfigError
from dphr_train.config_json import config_from_json, config_to_json
from dphr_train.encoder import import_timm
from dphr_train.presets.catalogue import PRESETS, preset, require_weights
from dphr_train.samplers.exclusive import exclusive_batches

HEIGHTS = (150, 200, 250, 300)

# The published table: preset -> benchmark, panorama (H, W), epochs, warm-up epochs, pairs a batch.
SAMPLE4GEO_TABLE = {
    "sample4geo-university1652": ("university1652", None, 1, 0.1, 128),
    "sample4geo-cvusa": ("cvusa", (140, 768), 40, 1, 128),
    "sample4geo-cvact": ("cvact-val", (140, 768), 40, 1, 128),
    "sample4geo-vigor-same": ("vigor-same", (384, 768), 40, 1, 128),
    "sample4geo-vigor-cross": ("vigor-cross", (384, 768), 40, 1, 128),
    # Ours: 120 places do not fill a batch of 128.
    "sample4geo-sues200-150": ("sues200-150", None, 5, 0.5, 96),
    "sample4geo-sues200-200": ("sues200-200", None, 5, 0.5, 96),
    "sample4geo-sues200-250": ("sues200-250", None, 5, 0.5, 96),
    "sample4geo-sues200-300": ("sues200-300", None, 5, 0.5, 96),
}
DPHR_ON_SAMPLE4GEO = ("university1652", *(f"sues200-{height}" for height in HEIGHTS))
# Preset -> backbone, head, epochs of 701 places.
PARTS_TABLE = {
    "dphr-lpn-university1652": ("resnet50.tv_in1k", "lpn", 120),
    "dphr-mccg-university1652": ("convnext_tiny.fb_in22k_ft_in1k", "mccg", 200),
}
SUES200_PAIRS = [place for place in range(120) for _ in range(50)]


def test_the_catalogue_holds_these_presets_and_no_other():
    expected = {*SAMPLE4GEO_TABLE, *(f"dphr-{benchmark}" for benchmark in DPHR_ON_SAMPLE4GEO), *PARTS_TABLE}
    assert set(PRESETS) == expected


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_comes_back_from_json_unchanged(name):
    assert config_from_json(json.loads(json.dumps(config_to_json(preset(name))))) == preset(name)


def test_no_two_presets_write_into_one_folder():
    assert {name: config.out for name, config in PRESETS.items()} == {name: Path("runs") / name for name in PRESETS}


@pytest.mark.parametrize("name", SAMPLE4GEO_TABLE)
def test_sample4geo_has_the_numbers_of_the_published_table(name):
    dataset, ground_px, epochs, warmup_epochs, batch = SAMPLE4GEO_TABLE[name]
    config = preset(name)
    assert (config.data.dataset, config.data.image_px, config.data.ground_px) == (dataset, 384, ground_px)
    assert (config.optim.epochs, config.optim.batch_size, config.optim.steps) == (epochs, batch, 0)
    assert config.optim.warmup * epochs == pytest.approx(warmup_epochs)
    assert (config.optim.learning_rate, config.optim.weight_decay) == (1e-3, 0.01)
    assert (config.optim.clip_value, config.optim.precision, config.device) == (100, "fp16", "cuda")
    assert (config.model.name, config.model.pooling) == ("convnext_base.fb_in22k_ft_in1k_384", "average")
    assert (config.model.head, config.model.projection_dim) == ("pooled", 0)
    assert (config.loss.infonce, config.loss.identity, config.loss.dphr.triplet) == (True, 0, False)
    assert (config.loss.label_smoothing, config.loss.temperature) == (0.1, 0.07)


@pytest.mark.parametrize("name", [*SAMPLE4GEO_TABLE, *(f"dphr-{benchmark}" for benchmark in DPHR_ON_SAMPLE4GEO)])
def test_sample4geo_augments_and_samples_as_published(name):
    config = preset(name)
    augment, sampler = config.augment, config.sampler
    ground = config.data.ground_px is not None
    assert (augment.jpeg, augment.colour_jitter, augment.colour_strength) == (0.5, 0.5, 0.15)
    assert (augment.blur_or_sharpen, augment.dropout, augment.flip, augment.zoom) == (0.3, 0.3, 0.5, 0)
    assert (augment.rotate_satellite, augment.rotate_pair) == ((False, 0.75) if ground else (True, 0))
    if ground:
        assert (sampler.kind, sampler.start, sampler.refresh_epochs) == ("hard", "gps", 4)
        assert (sampler.select, sampler.range) == (64, 128)
    else:
        assert sampler.kind == "exclusive"


@pytest.mark.parametrize("benchmark", DPHR_ON_SAMPLE4GEO)
def test_dphr_changes_nothing_of_sample4geo_but_the_triplet_terms(benchmark):
    base, config = preset(f"sample4geo-{benchmark}"), preset(f"dphr-{benchmark}")
    loss = dataclasses.replace(config.loss, dphr=base.loss.dphr)
    assert dataclasses.replace(config, loss=loss, out=base.out) == base
    dphr = config.loss.dphr
    assert dphr.triplet and dphr.rda and dphr.palw
    assert (dphr.margin, dphr.weight_min, dphr.weight_max, dphr.lambda_max) == (0.3, 1, 2, 1)


@pytest.mark.parametrize("name", PARTS_TABLE)
def test_dphr_on_parts_has_the_backbone_and_the_pairs_of_its_paper(name):
    backbone, head, epochs = PARTS_TABLE[name]
    config = preset(name)
    assert (config.model.name, config.model.head, config.model.part_dim) == (backbone, head, 512)
    assert config.model.parts == 4  # LPN's rings; MCCG has no use for it
    assert (config.data.dataset, config.data.image_px, config.data.interpolation) == ("university1652", 256, "bicubic")
    assert (config.optim.batch_size, config.optim.epochs * 37_854) == (8, pytest.approx(epochs * 701))
    assert (config.loss.infonce, config.loss.identity, config.loss.label_smoothing) == (False, 1, 0)
    assert config.loss.dphr.triplet and config.loss.dphr.rda and config.loss.dphr.palw


def _steps(name):
    """Steps of a whole run, from the official counts of pairs."""
    optim = preset(name).optim
    if "sues200" in name:
        return optim.epochs * len(exclusive_batches(SUES200_PAIRS, optim.batch_size, 0, 0))
    return optim.epochs * (37_854 // optim.batch_size)


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("dphr")])
def test_dphr_looks_back_over_a_tenth_of_the_run(name):
    dphr, tenth = preset(name).loss.dphr, _steps(name) / 10
    assert dphr.window == pytest.approx(tenth, rel=0.03)
    assert 1 / (1 - dphr.beta) == pytest.approx(tenth, rel=0.15)


def test_the_batch_of_sues200_nearly_fills_an_epoch():
    batch = preset("sample4geo-sues200-150").optim.batch_size
    for seed in range(3):
        assert len(exclusive_batches(SUES200_PAIRS, batch, seed, 0)) >= 0.95 * (len(SUES200_PAIRS) // batch)


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        ("sample4geo-univ1652", "There is no preset 'sample4geo-univ1652'. Near names: sample4geo-university1652"),
        ("xyz", "There is no preset 'xyz'. Choose one of sample4geo-university1652, sample4geo-cvusa,"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones_or_all(wrong, shown):
    with pytest.raises(ConfigError) as caught:
        preset(wrong)
    assert str(caught.value).startswith(shown) and "\n" not in str(caught.value)


def _with_weights(name, weights):
    config = preset(name)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, weights=str(weights)))


def test_missing_weights_are_named_with_the_command_that_fetches_them(tmp_path):
    path = tmp_path / "my weights" / "convnext.safetensors"
    with pytest.raises(CheckpointError) as caught:
        require_weights(_with_weights("sample4geo-cvusa", path), "sample4geo-cvusa")
    command = (
        f"curl --fail --location --create-dirs --output '{path}' "
        "https://huggingface.co/timm/convnext_base.fb_in22k_ft_in1k_384/resolve/main/model.safetensors"
    )
    message = str(caught.value)
    assert message.startswith("The preset sample4geo-cvusa starts from timm's pretrained convnext_base.")
    assert f"`{command}`" in message and "\n" not in message


def test_weights_that_are_there_or_not_needed_pass(tmp_path):
    path = tmp_path / "convnext.safetensors"
    path.write_bytes(b"")
    for weights in (path, "random"):
        require_weights(_with_weights("sample4geo-cvusa", weights), "sample4geo-cvusa")


def test_timm_has_every_backbone_under_the_address_that_the_command_fetches():
    timm = import_timm()
    for config in PRESETS.values():
        name = config.model.name
        assert timm.models.get_pretrained_cfg(name).hf_hub_id == f"timm/{name}"
        assert config.model.weights == f"weights/{name}.safetensors"


def test_listing_the_presets_loads_no_torch():
    code = "import sys, dphr_train.presets.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
