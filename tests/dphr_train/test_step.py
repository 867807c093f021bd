import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dphr_train.step
from dphr_infer.errors import ConfigError
from dphr_train.config import DphrConfig, LossConfig, ModelConfig, OptimConfig
from dphr_train.distributed import World
from dphr_train.encoder import Encoder, normalise
from dphr_train.objective import Objective, Task
from dphr_train.step import PairStep

PAIRS = 5
LOSS = LossConfig(dphr=DphrConfig(window=2, beta=0.5))
CONVNEXT = ModelConfig("test_convnext", "random")
VIT = ModelConfig("test_vit", "random", pooling="average")
RESNET = ModelConfig("test_resnet", "random")


class Smooth(nn.Module):
    """A double-precision network whose rows do not know each other; two parts of length 5, after dropout."""

    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    n_parts, part_dim = 2, 5

    def __init__(self, dropout=0.0):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.drop = nn.Dropout(dropout)
        self.project = nn.Linear(8, 10)
        self.double()

    def parts(self, images):
        pooled = torch.tanh(self.conv(images.double())).mean(dim=(2, 3))
        return self.project(self.drop(pooled)).view(-1, 2, 5)


def make(model, loss=LOSS, px=32):
    """The same network and loss each time."""
    torch.manual_seed(1)
    encoder = Encoder(model, px) if isinstance(model, ModelConfig) else Smooth(model)
    objective = Objective(loss, Task([0, 1, 2, 3, 9], encoder.n_parts, encoder.part_dim))
    return encoder, objective if isinstance(model, ModelConfig) else objective.double()


def make_step(encoder, objective, chunk_size=0, precision="fp32", scaler=None):
    config = OptimConfig(batch_size=PAIRS, chunk_size=chunk_size, precision=precision)
    return PairStep(encoder, objective, config, World(), scaler or torch.amp.GradScaler("cpu", enabled=False))


def batch_of(query_px=(32, 32), reference_px=(32, 32), seed=0):
    random = torch.Generator().manual_seed(seed)
    queries, references = (
        torch.randint(0, 256, (PAIRS, *px, 3), generator=random, dtype=torch.uint8) for px in (query_px, reference_px)
    )
    return queries, references, torch.tensor([9, 2, 0, 2, 1])


def gradients(encoder, objective):
    named = [*encoder.named_parameters(), *objective.named_parameters(prefix="loss")]
    return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}


def differing(found, expected, rtol=1e-9, atol=1e-12):
    assert found.keys() == expected.keys() and "loss.infonce.logit_scale" in found
    return [name for name in found if not torch.allclose(found[name], expected[name], rtol=rtol, atol=atol)]


def plain_gradients(encoder, objective, batch, rows=None, seed=None):
    """The textbook: embed both views (by runs of rows, if asked), lose, differentiate."""
    if seed is not None:
        torch.manual_seed(seed)
    queries, references, places = batch
    both = []
    for run in rows or [slice(None)]:
        views = [normalise(view[run], encoder.mean, encoder.std) for view in (queries, references)]
        if views[0].shape == views[1].shape:
            both.append(encoder.parts(torch.cat(views)).chunk(2))
        else:
            both.append([encoder.parts(view) for view in views])
    total, terms = objective(*(torch.cat(view) for view in zip(*both, strict=True)), places)
    total.backward()
    return gradients(encoder, objective), {name: value.item() for name, value in terms.items()}


@pytest.mark.kernels
@pytest.mark.parametrize("reference_px", [(32, 32), (16, 40)])
@pytest.mark.parametrize("chunk_size", [0, 1, 2, 3, PAIRS, PAIRS + 2])
def test_any_chunk_size_gives_the_whole_batchs_gradient(chunk_size, reference_px):
    batch = batch_of(reference_px=reference_px)
    expected, plain_terms = plain_gradients(*make(0.0), batch)
    encoder, objective = make(0.0)
    terms = make_step(encoder, objective, chunk_size).backward(batch)
    assert terms == pytest.approx(plain_terms, rel=1e-9)
    assert differing(gradients(encoder, objective), expected) == []


@pytest.mark.parametrize("model", [CONVNEXT, VIT], ids=lambda model: model.name)
@pytest.mark.parametrize("chunk_size", [0, 1, 2])
def test_chunks_of_a_network_with_layer_normalisation_are_exact(chunk_size, model):
    expected, plain_terms = plain_gradients(*make(model), batch_of())
    encoder, objective = make(model)
    terms = make_step(encoder, objective, chunk_size).backward(batch_of())
    assert terms == pytest.approx(plain_terms, rel=1e-4)
    assert differing(gradients(encoder, objective), expected, rtol=1e-3, atol=1e-5) == []


@pytest.mark.parametrize("dropped", [0.4, ModelConfig("test_convnext", "random", drop_path=0.4)], ids=["unit", "path"])
def test_chunks_draw_what_a_plain_loop_over_them_draws(dropped):
    runs = [slice(0, 2), slice(2, 4), slice(4, 5)]
    expected, plain_terms = plain_gradients(*make(dropped), batch_of(), runs, seed=8)
    after_plain = torch.rand(1)
    encoder, objective = make(dropped)
    torch.manual_seed(8)
    terms = make_step(encoder, objective, chunk_size=2).backward(batch_of())
    assert torch.equal(torch.rand(1), after_plain)
    assert terms == pytest.approx(plain_terms, rel=1e-5)
    assert differing(gradients(encoder, objective), expected, rtol=1e-3, atol=1e-6) == []


def test_without_the_first_passs_random_numbers_the_gradient_is_another(monkeypatch):
    runs = [slice(0, 2), slice(2, 4), slice(4, 5)]
    expected, _ = plain_gradients(*make(0.4), batch_of(), runs, seed=8)
    monkeypatch.setattr(dphr_train.step, "set_random_state", lambda state, device: None)
    encoder, objective = make(0.4)
    torch.manual_seed(8)
    make_step(encoder, objective, chunk_size=2).backward(batch_of())
    assert {"conv.weight", "project.weight"} <= set(differing(gradients(encoder, objective), expected, rtol=1e-2))


@pytest.mark.parametrize("checkpoint_gradients", [False, True])
@pytest.mark.parametrize("chunk_size", [0, 2])
def test_running_statistics_move_once_for_each_run_of_rows(chunk_size, checkpoint_gradients):
    encoder, objective = make(dataclasses.replace(RESNET, checkpoint_gradients=checkpoint_gradients))
    reference, _ = make(RESNET)
    make_step(encoder, objective, chunk_size).backward(batch_of())
    with torch.no_grad():
        for run in [slice(0, 2), slice(2, 4), slice(4, 5)] if chunk_size else [slice(None)]:
            both = torch.cat([view[run] for view in batch_of()[:2]])
            reference.parts(normalise(both, encoder.mean, encoder.std))
    found, expected = dict(encoder.named_buffers()), dict(reference.named_buffers())
    assert [name for name in found if not torch.allclose(found[name], expected[name])] == []
    counts = {int(value) for name, value in found.items() if name.endswith("num_batches_tracked")}
    assert counts == {3 if chunk_size else 1}


def test_chunks_of_batch_normalisation_take_the_gradient_with_the_chunks_statistics():
    runs = [slice(0, 2), slice(2, 4), slice(4, 5)]
    expected, _ = plain_gradients(*make(RESNET), batch_of(), runs)
    encoder, objective = make(RESNET)
    make_step(encoder, objective, chunk_size=2).backward(batch_of())
    assert differing(gradients(encoder, objective), expected, rtol=1e-3, atol=1e-5) == []
    whole, _ = plain_gradients(*make(RESNET), batch_of())
    assert len(differing(whole, expected, rtol=1e-3, atol=1e-5)) > len(whole) / 2


@pytest.mark.parametrize("chunk_size", [0, 2])
def test_the_loss_meets_each_batch_once(chunk_size):
    encoder, objective = make(0.0)
    step = make_step(encoder, objective, chunk_size)
    losses = [step.backward(batch_of(seed=seed))["triplet"] for seed in range(3)]
    assert objective.dphr.palw.recent.tolist() == pytest.approx(losses[1:])


def test_what_was_in_grad_before_is_dropped():
    encoder, objective = make(0.0, LossConfig(dphr=DphrConfig(triplet=False)))  # without PALW's memory of earlier steps
    step = make_step(encoder, objective, chunk_size=2)
    step.backward(batch_of())
    once = gradients(encoder, objective)
    step.backward(batch_of())
    assert differing(gradients(encoder, objective), once) == []


class TimesEight:
    """A scaler whose factor is known."""

    def scale(self, loss):
        return 8 * loss


@pytest.mark.parametrize("chunk_size", [0, 2])
def test_the_scaler_multiplies_every_gradient_once(chunk_size):
    expected, _ = plain_gradients(*make(0.0), batch_of())
    encoder, objective = make(0.0)
    make_step(encoder, objective, chunk_size, scaler=TimesEight()).backward(batch_of())
    eightfold = {name: 8 * value for name, value in expected.items()}
    assert differing(gradients(encoder, objective), eightfold) == []


@pytest.mark.parametrize("chunk_size", [0, 2])
def test_bf16_comes_near_the_gradient_of_fp32(chunk_size):
    expected, _ = plain_gradients(*make(CONVNEXT), batch_of())
    encoder, objective = make(CONVNEXT)
    make_step(encoder, objective, chunk_size, "bf16").backward(batch_of())
    found = gradients(encoder, objective)
    assert all(value.dtype == torch.float32 for value in found.values())
    joined = [torch.cat([values[name].flatten() for name in expected]) for values in (found, expected)]
    assert 0.98 < F.cosine_similarity(*joined, dim=0) < 0.9999999


def test_a_batch_normalised_together_is_queries_then_references():
    seen = []
    encoder, objective = make(0.0)
    parts = encoder.parts
    encoder.parts = lambda images: seen.append(images) or parts(images)
    batch = batch_of()
    make_step(encoder, objective).backward(batch)
    (images,) = seen
    assert torch.equal(images, normalise(torch.cat(batch[:2]), encoder.mean, encoder.std))


def test_one_pair_of_two_sizes_under_batch_normalisation_is_refused():
    step = make_step(*make(RESNET), chunk_size=1)
    with pytest.raises(ConfigError, match=r"only 1 pair passes it at a time; .* optim\.chunk-size"):
        step.backward(batch_of(reference_px=(48, 48)))
