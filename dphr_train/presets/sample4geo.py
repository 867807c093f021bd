"""Sample4Geo (Deuser, Habel, Oswald: ICCV 2023) on each of its benchmarks, and on SUES-200.

The numbers are those of the paper and of its published training scripts; what is ours is marked. Different from the
original: the resize antialiases, JPEG follows it instead of preceding it (see augment.py), and the nearest places on
the ground come from radians, where the original hands degrees to a function of radians.

The original spreads the 128 pairs over 4 GPUs. On a smaller machine set optim.chunk-size: it lowers the memory and
keeps all 128 pairs in the loss, which a smaller optim.batch-size does not.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dphr_train.config import (
    AugmentConfig,
    DataConfig,
    DatasetName,
    DphrConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    SamplerConfig,
    TrainConfig,
)

CONVNEXT = ModelConfig(
    name="convnext_base.fb_in22k_ft_in1k_384",
    weights="weights/convnext_base.fb_in22k_ft_in1k_384.safetensors",
    pooling="average",  # timm's own: global average and LayerNorm, 1024 values, no projection
)

INFONCE = LossConfig(
    label_smoothing=0.1,
    temperature=0.07,  # the logit scale starts at ln(1 / 0.07)
    dphr=DphrConfig(triplet=False),
)

# Drones fly at any heading: the satellite view turns alone.
DRONE_AUGMENT = AugmentConfig(
    jpeg=0.5,
    colour_jitter=0.5,
    colour_strength=0.15,
    blur_or_sharpen=0.3,
    dropout=0.3,
    flip=0.5,
    rotate_satellite=True,
)
# Panoramas have north at their centre, satellite views at their top: both turn together.
GROUND_AUGMENT = dataclasses.replace(DRONE_AUGMENT, rotate_satellite=False, rotate_pair=0.75)

ADAMW = OptimConfig(
    batch_size=128,
    epochs=1,  # more overfits on University-1652
    learning_rate=1e-3,  # 1e-4 for vision transformers
    weight_decay=0.01,  # torch's default
    warmup=0.1,  # a tenth of the one epoch
    clip_value=100.0,  # by value, not by norm
    precision="fp16",
)
GROUND_ADAMW = dataclasses.replace(ADAMW, epochs=40, warmup=1 / 40)  # warm-up of one epoch

# All ours: Sample4Geo has no recipe for SUES-200. Batches of 128 cannot be: a place comes once in a batch and there are
# 120. At 96 the sampler fills 60 of an epoch's 62 batches (at 120 it breaks off early), and 5 epochs are 300 steps, as
# many as University-1652's 295. Each place is then seen 240 times, there 54 times: expect to overfit, try fewer epochs.
SUES200_ADAMW = dataclasses.replace(ADAMW, batch_size=96, epochs=5)

EXCLUSIVE = SamplerConfig(kind="exclusive")
# Of the 128 nearest places 64 join the batch: by position at first, by similarity from epoch 4 on.
HARD = SamplerConfig(kind="hard", start="gps", refresh_epochs=4, select=64, range=128)

# Twice as wide as the satellite view, in the shape of CVUSA's panoramas of 224 x 1232 px (CVACT's are squeezed into it)
# and of VIGOR's of 1024 x 2048 px.
CVUSA_GROUND_PX = (140, 768)
VIGOR_GROUND_PX = (384, 768)


def _data(dataset: DatasetName, root: str, ground_px: tuple[int, int] | None = None) -> DataConfig:
    """384 px, the size of the pretraining; root and workers are ours. Decoded, the images would fill the memory."""
    return DataConfig(
        dataset=dataset,
        root=Path(root),
        image_px=384,
        ground_px=ground_px,
        interpolation="bilinear",
        cache=False,
        workers=8,
    )


def _drone(data: DataConfig, optim: OptimConfig) -> TrainConfig:
    return TrainConfig(
        device="cuda",
        data=data,
        augment=DRONE_AUGMENT,
        sampler=EXCLUSIVE,
        model=CONVNEXT,
        loss=INFONCE,
        optim=optim,
    )


def _ground(data: DataConfig) -> TrainConfig:
    return TrainConfig(
        device="cuda",
        checkpoint_every=1000,  # ours: about 4 epochs
        data=data,
        augment=GROUND_AUGMENT,
        sampler=HARD,
        model=CONVNEXT,
        loss=INFONCE,
        optim=GROUND_ADAMW,
    )


SAMPLE4GEO: dict[str, TrainConfig] = {
    "sample4geo-university1652": _drone(_data("university1652", "data/University-Release"), ADAMW),
    "sample4geo-cvusa": _ground(_data("cvusa", "data/CVUSA", CVUSA_GROUND_PX)),
    "sample4geo-cvact": _ground(_data("cvact-val", "data/CVACT", CVUSA_GROUND_PX)),
    "sample4geo-vigor-same": _ground(_data("vigor-same", "data/VIGOR", VIGOR_GROUND_PX)),
    "sample4geo-vigor-cross": _ground(_data("vigor-cross", "data/VIGOR", VIGOR_GROUND_PX)),
    # One model a height above the ground, in metres.
    "sample4geo-sues200-150": _drone(_data("sues200-150", "data/SUES-200"), SUES200_ADAMW),
    "sample4geo-sues200-200": _drone(_data("sues200-200", "data/SUES-200"), SUES200_ADAMW),
    "sample4geo-sues200-250": _drone(_data("sues200-250", "data/SUES-200"), SUES200_ADAMW),
    "sample4geo-sues200-300": _drone(_data("sues200-300", "data/SUES-200"), SUES200_ADAMW),
}
