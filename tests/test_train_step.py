"""The step: open_clip's losses in tiles, gradients of a batch in chunks, AdamW, the temperature, what is locked."""

import math
import shutil
import sysconfig
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.loss import ClipLoss, DistillClipLoss, SigLipLoss
from open_clip_train.scheduler import cosine_lr
from torch.utils._python_dispatch import TorchDispatchMode

from curate.clip import models
from curate.clip.encoders import normalised
from curate.clip.model_config import find_config
from curate.errors import CurateError
from curate.train import memory, tiled, towers
from curate.train.loader import Batch
from curate.train.objectives import clip, siglip
from curate.train.step import BadLoss, How, adamw, gradient, learning_rate, train_step
from curate.train.tiled import Teacher, contrastive_loss, sigmoid_loss

HEADERS = Path(sysconfig.get_paths()["include"], "Python.h")
compiles = pytest.mark.skipif(not (shutil.which("g++") and HEADERS.is_file()), reason="no g++, or no headers of Python")
TINY = "ViT-Test-32"
RESNET = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def tiny(seed=0, config=None, **options):
    torch.manual_seed(seed)
    return models.build({**(config or find_config(TINY)[1]), **options})


def batch(n=8, seed=0, size=32):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)
    words = ("red", "a small green", "two blue and one black", "!")
    tokens = models.tokenizer_of(find_config(TINY)[1])([f"{words[i % 4]} number {i * 37}" for i in range(n)])
    return Batch(pixels, tokens, np.arange(n), [])


def features(n, d=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=-1)


def leaves(*values):
    return [value.clone().requires_grad_() for value in values]


def assert_equal(ours, theirs, of=1e-12):
    """Loss and gradients equal, the difference relative to the largest number of each (1e-4 where it is 0 but for
    rounding)."""
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).abs().max() <= of * other.abs().max().clamp(min=1e-4)


@pytest.fixture(params=["one tile", "tiles of 5 rows"])
def tile(request, monkeypatch):
    if request.param != "one tile":
        monkeypatch.setitem(tiled.TILE, "cpu", 33 * 5)


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_losses_and_gradients_equal_open_clips(scale, tile):
    image, text = features(33)
    factor, bias = torch.tensor(scale, dtype=torch.float64), torch.tensor(-10.0, dtype=torch.float64)
    taught = Teacher(*features(33, 24, seed=1), torch.tensor(30.0, dtype=torch.float64))
    for ours, theirs, inputs in (
        (contrastive_loss, ClipLoss(), (image, text, factor)),
        (sigmoid_loss, SigLipLoss(), (image, text, factor, bias)),
        (lambda *x: contrastive_loss(*x, teacher=taught), lambda *x: sum(DistillClipLoss()(*x, *taught)),
         (image, text, factor)),
    ):  # fmt: skip
        results = []
        for loss in (ours, theirs):
            given = leaves(*inputs)
            value = 3 * loss(*given)
            value.backward()
            results.append([value.detach(), *(x.grad for x in given)])
        assert_equal(*results, of=1e-12 if scale < 100 else 1e-11)


def test_a_loss_of_equal_features_at_the_highest_scale_is_finite():
    same = torch.nn.functional.normalize(torch.ones(64, 8), dim=-1)
    for loss in (contrastive_loss, sigmoid_loss):
        given = leaves(same, same, torch.tensor(100.0))
        loss(*given).backward()
        assert all(x.grad.isfinite().all() for x in given)
    assert contrastive_loss(same, same, torch.tensor(5.0)).item() == pytest.approx(math.log(64))


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor has that is made."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return made


@pytest.mark.slow
def test_a_loss_never_holds_the_logits_of_the_batch(monkeypatch):
    monkeypatch.setitem(tiled.TILE, "cpu", 1 << 14)
    image, text = torch.nn.functional.normalize(torch.randn(2, 1024, 8), dim=-1)
    for loss, largest in ((contrastive_loss, 1 << 14), (sigmoid_loss, 1 << 14), (ClipLoss(), 1 << 20)):
        with Largest() as made:
            loss(*leaves(image, text, torch.tensor(10.0))).backward()
        assert made.numbers == largest


def gradients(model, objective, pairs, how=None, seed=3):
    """(loss, gradient of every weight) in training mode."""
    towers.set_training(model)
    model.zero_grad(set_to_none=True)
    objective.zero_grad(set_to_none=True)
    loss = gradient(model, objective, pairs, how or How(), seed)
    every = [*model.named_parameters(), *objective.named_parameters()]
    return [loss, *(parameter.grad.clone() for _, parameter in every if parameter.grad is not None)]


def double(objective, **options):
    return tiny(**objective.model_options, **options).double()


@pytest.mark.parametrize("objective", [clip.Objective(), siglip.Objective()])
def test_the_gradient_of_a_batch_at_once_is_that_of_plain_autograd(objective):
    model, pairs = double(objective), batch(9)
    found = gradients(model, objective, pairs)
    model.zero_grad(set_to_none=True)
    output = model((pairs.pixels.double() / 255 - torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1).double())
                   / torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1).double(), pairs.tokens)  # fmt: skip
    theirs = ClipLoss() if isinstance(objective, clip.Objective) else SigLipLoss()
    loss = theirs(*output)
    loss.backward()
    assert_equal(found, [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)], of=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dropped", [0, 0.5])
@pytest.mark.parametrize("objective", [clip.Objective(), siglip.Objective()])
def test_chunks_of_any_size_give_the_gradient_of_the_batch(objective, dropped):
    model, pairs = double(objective), batch(13)
    towers.drop_patches(model, dropped)
    whole = gradients(model, objective, pairs)
    for chunk, keep in ((1, 0), (4, 0), (4, 2), (5, None), (64, 0)):
        assert_equal(gradients(model, objective, pairs, How(chunk=chunk, keep=keep)), whole)
    if dropped:
        assert not torch.equal(gradients(model, objective, pairs, seed=4)[0], whole[0])


def test_random_numbers_of_a_chunk_are_the_same_when_it_is_encoded_again():
    model, pairs = double(clip.Objective()), batch(12)
    model.visual.ln_pre = torch.nn.Sequential(model.visual.ln_pre, torch.nn.Dropout(0.3))
    assert_equal(*(gradients(model, clip.Objective(), pairs, How(chunk=4, keep=keep)) for keep in (0, None)))


def test_batch_norms_count_every_chunk_once():
    pairs, states = batch(12), []
    for keep in (0, None):
        model = tiny(config=RESNET).double()
        found = gradients(model, clip.Objective(), pairs, How(chunk=4, keep=keep))
        states.append([*found, *(value for name, value in model.state_dict().items() if "running" in name)])
        assert model.visual.bn1.num_batches_tracked == 3
    assert_equal(*states)
    whole = gradients(tiny(config=RESNET).double(), clip.Objective(), pairs)
    assert abs(whole[0] - states[0][0]) > 1e-3  # a batch norm sees its chunk: not the loss of the batch at once


def test_a_resnet_laid_channels_last_has_the_same_gradient():
    plain, other = (tiny(config=RESNET).double() for _ in range(2))
    towers.lay_channels_last(other)
    assert other.visual.layer1[0].conv2.weight.stride(1) == 1
    assert_equal(gradients(other, clip.Objective(), batch()), gradients(plain, clip.Objective(), batch()))


@pytest.mark.slow
@pytest.mark.parametrize("side", towers.SIDES)
@pytest.mark.parametrize("config", [None, RESNET])
def test_a_locked_tower_stays_as_it_is_to_the_bit(side, config):
    model, pairs = tiny(config=config), batch(12)
    towers.lock(model, side)
    mine = {f"{part}": value.clone() for part, value in model.state_dict().items()}
    optimizer = adamw(model, 1e-2, 0.2)
    for seed in range(2):
        train_step(model, clip.Objective(), optimizer, pairs, 1e-2, How(chunk=4, keep=1), seed)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, mine[name])}
    assert changed
    assert all(name.startswith("visual.") != (side == "image") or name == "logit_scale" for name in changed)
    assert {id(p) for p in towers.parameters(model, side)}.isdisjoint(id(p) for p in optimizer.state)


def test_a_locked_tower_is_encoded_once_and_chunks_stay_exact():
    objective, pairs = clip.Objective(), batch(12)
    model = double(objective)
    towers.lock(model, "image")
    whole, calls = gradients(model, objective, pairs), []
    model.visual.conv1.register_forward_hook(lambda *_: calls.append(1))
    model.visual.ln_pre.register_forward_hook(lambda *_: calls.append(1))
    assert_equal(gradients(model, objective, pairs, How(chunk=4, keep=0)), whole)
    assert len(calls) == 3


def test_patches_left_out_are_as_many_as_open_clips_and_none_in_evaluation():
    model = tiny(config={**find_config("ViT-Ti-64")[1]})
    towers.drop_patches(model, 0.7)
    dropout, x = model.visual.patch_dropout, torch.arange(2 * 17 * 3.0).view(2, 17, 3)
    dropout.chance = torch.rand(2, 16)
    kept = dropout.train()(x)
    theirs = open_clip.transformer.PatchDropout(0.7).train()(x)
    assert kept.shape == theirs.shape
    assert torch.equal(kept[:, 0], x[:, 0])
    for row, (left, chance) in enumerate(zip(kept, dropout.chance, strict=True)):
        assert torch.equal(left[1:], x[row, 1 + chance.topk(4).indices])
    assert torch.equal(dropout.eval()(x), x)


def test_checkpointed_activations_give_the_same_gradient():
    model, pairs = double(clip.Objective()), batch(6)
    plain = gradients(model, clip.Objective(), pairs)
    towers.checkpoint_activations(model)
    assert_equal(gradients(model, clip.Objective(), pairs, How(chunk=2, keep=1)), plain)


@pytest.mark.parametrize(("steps", "warmup"), [(100, 10), (50, 0), (1, 0)])
def test_the_learning_rate_is_open_clips_warmup_and_cosine(steps, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = cosine_lr(optimizer, 3e-4, warmup, steps)
    for step in range(steps):
        theirs(step)
        assert learning_rate(step, steps, 3e-4, warmup) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_gains_biases_and_temperature_do_not_decay():
    with torch.device("meta"):
        model = models.build(find_config("ViT-B-32")[1])
    decayed, *groups = adamw(model, 1e-3, 0.2).param_groups
    kept = [parameter for group in groups for parameter in group["params"]]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [decayed["weight_decay"], *(group["weight_decay"] for group in groups)] == [0.2, 0, 0]
    assert sum(p.numel() for p in decayed["params"]) == 151_072_768
    assert sum(p.numel() for p in kept) == 204_545
    free = {names[id(parameter)] for parameter in kept}
    assert "logit_scale" in free
    assert {name for name in names.values() if name.endswith("bias") or ".ln_" in name or "ln_final" in name} <= free
    assert {names[id(p)] for p in decayed["params"]} >= {"token_embedding.weight", "visual.conv1.weight"}


@pytest.mark.parametrize(("start", "end"), [(9.0, math.log(100)), (-3.0, 0.0)])
def test_the_temperature_stays_in_its_bounds(start, end):
    model = tiny()
    with torch.no_grad():
        model.logit_scale.fill_(start)
    train_step(model, clip.Objective(), adamw(model, 1e-3, 0.2), batch(), 1e-3)
    assert model.logit_scale.item() == pytest.approx(end)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_steps_on_one_batch_learn_it(precision):
    model = tiny()
    optimizer, same = adamw(model, 3e-3, 0.2), batch()
    losses = [train_step(model, clip.Objective(), optimizer, same, 3e-3, How(precision)) for _ in range(20)]
    assert losses[0] == pytest.approx(math.log(8), abs=1)
    assert losses[-1] < 0.7 * losses[0]


def test_long_gradients_are_shortened():
    model, short = tiny(), 1e-3
    train_step(model, clip.Objective(), adamw(model, 1e-3, 0.2), batch(), 1e-3, How(clip_norm=short))
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    assert norm.item() == pytest.approx(short, rel=1e-3)


@pytest.mark.parametrize("chunk", [None, 3])
def test_a_bad_loss_changes_no_weight(chunk):
    model = tiny()
    with torch.no_grad():
        model.visual.proj[0, 0] = math.inf
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(BadLoss, match="the loss is nan"):
        train_step(model, clip.Objective(), adamw(model, 1e-3, 0.2), batch(), 1e-3, How(chunk=chunk, keep=0))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_teacher_adds_its_distributions_and_chunks_stay_exact():
    objective, pairs = clip.Objective(), batch(9)
    model, teacher = double(objective), double(objective, seed=5)
    plain = gradients(model, objective, pairs)
    objective.teacher.append(teacher.eval().requires_grad_(False))
    whole = gradients(model, objective, pairs)
    with torch.no_grad():
        mine, theirs = ([*net(normalised(pairs.pixels, net).double(), pairs.tokens)] for net in (model, teacher))
        wanted = sum(DistillClipLoss()(*mine, *theirs))
    assert whole[0].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert abs(whole[0] - plain[0]) > 0.1
    for keep in (0, 1):
        assert_equal(gradients(model, objective, pairs, How(chunk=4, keep=keep)), whole)
    assert not list(objective.parameters())


def test_chunks_follow_from_the_measured_bytes():
    saved = memory.saved_bytes(tiny(), clip.Objective(), batch(12), "fp32")
    locked = tiny()
    towers.lock(locked, "image")
    assert 0 < memory.saved_bytes(locked, clip.Objective(), batch(12), "fp32").sample < 0.8 * saved.sample
    needs = memory.Parts(weights=0, pixels=0, features=0, tiles=0)
    assert memory.plan(needs, saved, 100, memory=200 * saved.sample + 2 * saved.fixed) == (None, None)
    chunk, keep = memory.plan(needs, saved, 100_000, memory=2000 * saved.sample + 2 * saved.fixed)
    assert chunk == 512
    assert (keep + 1) * (chunk * saved.sample + saved.fixed) < 2000 * saved.sample + 2 * saved.fixed
    with pytest.raises(CurateError, match=r"a batch of 100 does not fit in 0 GiB: .*--grad-checkpointing"):
        memory.plan(needs, saved, 100, memory=saved.sample // 2)


def test_measuring_bytes_leaves_the_running_statistics_alone():
    model = tiny(config=RESNET)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    memory.saved_bytes(model, clip.Objective(), batch(12), "fp32")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_took_too_much_is_halved_until_one_pair_is_left():
    plan, seen = (None, None), []
    while plan := memory.smaller(*plan, 1500):
        seen.append(plan)
    assert seen == [(1024, 1), (1024, 0), *((1024 >> half, 0) for half in range(1, 11))]
    assert memory.smaller(256, 40, 32_768) == (256, 20)


def test_shared_out_weights_take_less_of_each_process():
    with torch.device("meta"):
        model = models.build(find_config("ViT-L-14")[1])
    sizes = [memory.parts(model, clip.Objective(), 64, 512, 1, 768, "cuda", shares).weights for shares in (1, 2, 8)]
    weights = sum(weight.numel() for weight in model.parameters())
    assert sizes[0] == memory.BYTES_OF_A_WEIGHT * weights
    assert sizes[0] / 8 < sizes[2] < 0.4 * sizes[0] < sizes[1] < 0.8 * sizes[0]


@compiles
@pytest.mark.slow
@pytest.mark.gpu  # compiling takes most of a minute of CPU: make gpu-check runs it, GPU or not
def test_a_compiled_image_tower_gives_the_same_gradient():
    model, pairs = tiny(), batch(8)
    plain, names = gradients(model, clip.Objective(), pairs), list(model.state_dict())
    towers.compile_image_tower(model)
    assert_equal(gradients(model, clip.Objective(), pairs), plain, of=1e-4)
    assert list(model.state_dict()) == names
