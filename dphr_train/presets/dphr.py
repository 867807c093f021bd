"""DPHR (arXiv 2510.27181) on Sample4Geo, LPN and MCCG, the three trainers that its paper puts it on.

The paper states the structure, L_tri + lambda * L_wtri with weights by hardness and lambda by training progress. Every
number of DPHR here is our reconstruction, and so is the way in which it joins the three: their own losses stay, and
DPHR is added with weight 1.

The length of the run enters twice: L_tri is averaged over a window of a tenth of all steps, so that its reference is
its mean during the warm-up; and lambda looks back over as many steps, 1 / (1 - beta).
"""

from __future__ import annotations

import dataclasses

from dphr_train.config import AugmentConfig, DphrConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig
from dphr_train.presets.sample4geo import EXCLUSIVE, SAMPLE4GEO

# University-1652 takes 295 steps and SUES-200 300: a tenth is 30, and 1 / (1 - 0.97) = 33.
SHORT_RUN = DphrConfig(
    triplet=True,
    rda=True,
    palw=True,
    margin=0.3,
    kind="hinge",
    distance="euclidean",
    negatives="all",
    weight_min=1.0,
    weight_max=2.0,
    lambda_max=1.0,
    beta=0.97,
    window=30,
    progress="relative",
)


def _on_sample4geo(benchmark: str) -> TrainConfig:
    """Sample4Geo's recipe but for the loss: InfoNCE + L_tri + lambda * L_wtri."""
    base = SAMPLE4GEO[f"sample4geo-{benchmark}"]
    return dataclasses.replace(base, loss=dataclasses.replace(base.loss, dphr=SHORT_RUN))


# LPN (Wang et al., TCSVT 2021) and MCCG (Shen et al., TCSVT 2023). Theirs, by their published scripts: backbone and
# weights, 256 px with a bicubic resize, batches of 8 places, cross entropy over the training places for every part,
# parts of 512 values, 120 and 200 epochs. Ours: AdamW with a cosine for their SGD with steps, and so its rate; a mirror
# for both views together; satellite views turned by quarters for any angle up to 90 degrees; no padding and cropping;
# none of MCCG's colour policies and erasing; drone and satellite views only, where LPN trains with street views too.
# LPN's last stage of ResNet-50 has stride 1 and its bottlenecks drop 0.75; here timm's stride 2 and 0.5.
LPN = ModelConfig(
    name="resnet50.tv_in1k",
    weights="weights/resnet50.tv_in1k.safetensors",
    pooling="average",
    head="lpn",
    parts=4,
    part_dim=512,
)
MCCG = ModelConfig(
    name="convnext_tiny.fb_in22k_ft_in1k",
    weights="weights/convnext_tiny.fb_in22k_ft_in1k.safetensors",
    pooling="average",
    head="mccg",
    part_dim=512,
)
PARTS_AUGMENT = AugmentConfig(
    jpeg=0.0,
    colour_jitter=0.0,
    blur_or_sharpen=0.0,
    dropout=0.0,
    flip=0.5,
    rotate_satellite=True,
)
_EPOCH = 701 / 37_854
"""Their epoch shows each training place once, ours each of the drone images."""


def _on_parts(model: ModelConfig, epochs: int, dphr: DphrConfig) -> TrainConfig:
    """Cross entropy + L_tri + lambda * L_wtri, over `epochs` as LPN and MCCG count them."""
    return TrainConfig(
        device="cuda",
        checkpoint_every=1000,
        data=dataclasses.replace(SAMPLE4GEO["sample4geo-university1652"].data, image_px=256, interpolation="bicubic"),
        augment=PARTS_AUGMENT,
        sampler=EXCLUSIVE,
        model=model,
        loss=LossConfig(infonce=False, identity=1.0, label_smoothing=0.0, dphr=dphr),
        optim=OptimConfig(
            batch_size=8,
            epochs=epochs * _EPOCH,
            learning_rate=1e-4,
            weight_decay=0.01,
            warmup=0.1,
            clip_value=100.0,
            precision="fp16",
        ),
    )


DPHR: dict[str, TrainConfig] = {
    "dphr-university1652": _on_sample4geo("university1652"),
    "dphr-sues200-150": _on_sample4geo("sues200-150"),
    "dphr-sues200-200": _on_sample4geo("sues200-200"),
    "dphr-sues200-250": _on_sample4geo("sues200-250"),
    "dphr-sues200-300": _on_sample4geo("sues200-300"),
    # 10,515 steps.
    "dphr-lpn-university1652": _on_parts(LPN, 120, dataclasses.replace(SHORT_RUN, window=1050, beta=0.999)),
    # 17,525 steps.
    "dphr-mccg-university1652": _on_parts(MCCG, 200, dataclasses.replace(SHORT_RUN, window=1750, beta=0.9994)),
}
