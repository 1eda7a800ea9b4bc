"""No step mixes what lies on the CPU with what lies on a GPU, told without a GPU: see elsewhere.py."""

import pytest
import torch
from elsewhere import THERE, Elsewhere, Operations, here, moved
from test_train_step import RESNET, TINY, batch, tiny

from curate import named
from curate.clip import encoders, models
from curate.clip.model_config import find_config
from curate.train import towers
from curate.train.chunk import Chunk
from curate.train.loader import Batch
from curate.train.step import How, adamw, train_step

pytestmark = pytest.mark.slow

TEXTS = ["a red circle", "a blue square and more", "red"] * 4
OBJECTIVES = ("clip", "siglip", "captioning", "ngrams", "bag-of-words", "copy-detection")


def made(spec, config=None):
    """(model, objective), the same at every call."""
    goal = named.load("train.objectives", spec)
    model = tiny(config=config, **goal.model_options)
    if hasattr(goal, "fit"):
        goal.fit(model, TEXTS, models.tokenizer_of(find_config(TINY)[1]))
    return model.double(), goal.double()


def seen(goal):
    """A batch with as many views as the objective asks for."""
    one, views = batch(8), getattr(goal, "views", 1)
    pixels = one.pixels if views == 1 else torch.stack([one.pixels, one.pixels.flip(-1)], dim=1)
    return Batch(pixels, one.tokens, one.rows, [])


def stepped(model, goal, how):
    """Loss, and the weights after two steps."""
    optimizer = adamw(model, 1e-3, 0.2, goal)
    loss = [train_step(model, goal, optimizer, seen(goal), 1e-3, how, seed) for seed in (3, 4)]
    weights = {name: here(weight.detach()) for name, weight in [*model.named_parameters(), *goal.named_parameters()]}
    return loss, weights


def assert_the_same_there(spec, how, config=None, change=None):
    """A step on the device is the step on the CPU; says how many tensors were moved to take it."""
    results = []
    for there in (False, True):
        model, goal = made(spec, config)
        if change:
            change(model, goal)
        if there:
            for module in (model, goal, *getattr(goal, "teacher", [])):
                moved(module)
        with Operations() if there else torch.enable_grad() as operations:
            results.append(stepped(model, goal, how))
    (losses, weights), (losses_there, weights_there) = results
    assert losses_there == pytest.approx(losses, rel=1e-9)
    for name, weight in weights.items():
        assert (weights_there[name] - weight).abs().max() < 1e-7, name
    return operations.copies


@pytest.mark.parametrize("spec", OBJECTIVES)
def test_a_step_of_every_objective_keeps_to_the_device(spec):
    assert_the_same_there(spec, How(chunk=3, keep=1, clip_norm=0.5))


CHANGES = {
    "patches left out": lambda model, goal: towers.drop_patches(model, 0.5),
    "a locked tower": lambda model, goal: towers.lock(model, "image"),
    "activations again": lambda model, goal: towers.checkpoint_activations(model),
    "a teacher": lambda model, goal: goal.teacher.append(tiny(seed=5).requires_grad_(False).eval()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_and_so_does_one_with(change):
    assert_the_same_there("clip", How(chunk=3, keep=0), change=CHANGES[change])


def test_a_resnet_keeps_to_the_device():
    assert_the_same_there("clip", How(chunk=4, keep=1), config=RESNET)


def test_a_chunk_is_moved_in_few_copies():
    whole, in_four = (assert_the_same_there("clip", How(chunk=chunk)) for chunk in (None, 2))
    assert whole <= 2 * 4  # of each of two steps: pixels, their mean and spread, packed texts, the order of the texts
    assert in_four <= 2 * (1 + 4 * 3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_keep_to_the_device(precision):
    model, one = tiny().eval(), batch(8)
    with torch.no_grad():
        wanted = [
            encoders.encode_image(model, encoders.normalised(one.pixels, model)),
            encoders.encode_text(model, one.tokens),
        ]
    moved(model)
    with Operations(), torch.no_grad():
        image, text = (
            encoders.prepared(tower, precision) for tower in (encoders.image_tower(model), encoders.text_tower(model))
        )
        pixels = encoders.normalised(encoders.moved(one.pixels, THERE), model)
        found = [encoders.encode_image(model, pixels, image), encoders.encode_text(model, one.tokens, text)]
    for mine, other in zip(found, wanted, strict=True):
        assert isinstance(mine, Elsewhere)
        assert (here(mine) - other).abs().max() < (1e-5 if precision == "fp32" else 0.05) * other.abs().max()


@pytest.mark.parametrize("spec", ["captioning", "ngrams", "bag-of-words"])
def test_what_judges_by_words_keeps_to_the_device(spec):
    names = models.tokenizer_of(find_config(TINY)[1])(["red", "a blue square"])
    scores = []
    for there in (False, True):
        model, goal = made(spec)
        one = batch(4)
        if there:
            moved(model.eval()), moved(goal)
        with Operations() if there else torch.enable_grad(), torch.no_grad():
            pixels = encoders.moved(one.pixels, THERE) if there else one.pixels
            chunk = Chunk(Batch(pixels, one.tokens, one.rows, []), slice(0, 4), pixels.device)
            scores.append(here(goal.scores(model.eval(), chunk, names)))
    assert torch.allclose(*scores, atol=1e-4)


def test_the_device_takes_nothing_of_the_cpu():
    with Operations(), pytest.raises(RuntimeError, match="on the CPU"):
        Elsewhere(torch.ones(3)) + torch.ones(3)
