"""Copy detection: copies that follow from a number, two of every image, strangers apart; its run as an embedding."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import encoded, pair
from test_dedup_rules import dropped, scene, uid

from curate.cli import main
from curate.clip import models
from curate.clip.model_config import find_config
from curate.dataset import Dataset
from curate.dedup import run as dedup
from curate.train import index, sources, tiled
from curate.train.copies import CHANGES, COPY
from curate.train.loader import Batch, Loader
from curate.train.objectives.copy_detection import Objective, entropy_loss, nearest_strangers
from curate.train.ranks import ALONE
from curate.train.step import How, gradient

DETECTOR = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def unit(n: int, d: int = 8, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=-1)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (40, 7), (200, 300), (900, 31)])
def test_copies_follow_from_one_number_whatever_the_shape(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    before = image.copy()
    for at in range(40):
        draw = np.array([at / 40])
        first, again = COPY.cut(image, 32, draw), COPY.cut(image, 32, draw)
        assert (first.shape, first.dtype) == ((3, 32, 32), torch.uint8)
        assert torch.equal(first, again)
    assert np.array_equal(image, before)  # nothing is drawn on the image itself


@pytest.mark.parametrize("change", [change for _, change in CHANGES])
def test_every_change_gives_a_picture_and_changes_something(change):
    image = np.asarray(scene(3))
    found = [change(image, np.random.default_rng(seed)) for seed in range(8)]
    assert all(each.ndim == 3 and each.shape[2] == 3 and each.dtype == np.uint8 for each in found)
    assert any(each.shape != image.shape or not np.array_equal(each, image) for each in found)


def test_strangers_are_never_the_other_view_of_an_image(monkeypatch):
    first, second = unit(9)
    views = torch.cat([first, first + 1e-6 * second])
    monkeypatch.setitem(tiled.TILE, "cpu", 18 * 4)  # tiles of four rows
    found = nearest_strangers(views, 9)
    likeness = views @ views.T
    for at in range(18):
        strangers = [other for other in range(18) if other % 9 != at % 9]
        assert found[at] == max(strangers, key=lambda other: likeness[at, other])


def test_entropy_is_minus_the_mean_logarithm_of_the_distance_to_the_nearest_stranger():
    first, second = unit(7)
    views = torch.cat([first, second])
    gaps = torch.cdist(views, views)
    for at in range(14):
        gaps[at, at] = gaps[at, (at + 7) % 14] = torch.inf
    assert entropy_loss(first, second, ALONE) == pytest.approx(-gaps.min(1).values.log().mean().item())


def test_entropy_pushes_strangers_apart_and_survives_equal_images():
    first = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1, 0.0], [1.0, -0.1, 0.0], [1.0, 0.1, 0.0]]), dim=1)
    views = first.clone().requires_grad_()
    entropy_loss(views, first, ALONE).backward()
    assert torch.isfinite(views.grad).all()
    after = first - 0.01 * views.grad
    assert (after[0] - after[1]).norm() > (first[0] - first[1]).norm()


class Part:
    """One of two processes, of which the other has said already what it holds."""

    size = 2

    def __init__(self, rank: int, others: list[torch.Tensor]):
        self.rank, self.others = rank, iter(others)

    def gather(self, mine: torch.Tensor) -> torch.Tensor:
        other = next(self.others)
        return torch.cat([mine, other] if self.rank == 0 else [other, mine])


def test_parts_of_the_entropy_gradient_add_up_to_that_of_one_process():
    first, second = unit(10)
    whole = [first.clone().requires_grad_(), second.clone().requires_grad_()]
    alone = entropy_loss(*whole, ALONE)
    alone.backward()
    for rank, own, other in ((0, slice(0, 5), slice(5, 10)), (1, slice(5, 10), slice(0, 5))):
        part = [first[own].clone().requires_grad_(), second[own].clone().requires_grad_()]
        loss = entropy_loss(*part, Part(rank, [first[other], second[other]]))
        loss.backward()
        assert loss.item() == pytest.approx(alone.item(), abs=1e-12)
        for mine, of_all in zip(part, whole, strict=True):
            assert torch.allclose(mine.grad, of_all.grad[own], rtol=0, atol=1e-12)


def test_chunks_give_the_gradient_of_the_whole_batch():
    torch.manual_seed(0)
    config = {**find_config("ViT-Test-32")[1], **Objective.model_options}
    model = models.build(config).double()
    pixels = torch.randint(0, 256, (6, 2, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    batch = Batch(pixels, torch.zeros(6, 16, dtype=torch.long), np.arange(6), [])
    found = []
    for how in (How(), How(chunk=2, keep=1)):
        model.zero_grad()
        gradient(model, Objective(), batch, how, 0)
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert model.token_embedding.weight.grad is None  # no text has a part in it
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(*found, strict=True))


def test_both_views_of_a_sample_follow_from_the_seed_and_its_place(make_dataset, tmp_path):
    dataset = make_dataset([{**pair(at), "caption": ""} for at in range(12)])
    pairs = index.build(sources.of([dataset.url], None), dataset.folder, captions=False)
    loaders = [Loader(pairs, models.tokenizer_of(DETECTOR), 32, size, 3, workers, COPY, 2)
               for size, workers in ((6, 1), (4, 3))]  # fmt: skip
    sixes, fours = (
        [batch.pixels.clone() for batch in loader.batches(0, 12 // loader.batch_size)] for loader in loaders
    )
    assert sixes[0].shape == (6, 2, 3, 32, 32)
    assert torch.equal(torch.cat(sixes), torch.cat(fours))
    assert not torch.equal(sixes[0][:, 0], sixes[0][:, 1])


@pytest.mark.slow
def test_a_run_without_texts_becomes_an_embedding_that_dedup_compares(make_dataset, tmp_path):
    pictures = [scene(index) for index in range(20)]
    rows = [{**pair(at), "caption": "", "image": encoded(picture)} for at, picture in enumerate(pictures)]
    copy = {**pair(20), "caption": "", "image": encoded(pictures[3], "PNG"), "width": 200, "height": 200}
    dataset = make_dataset([*rows, copy])
    (tmp_path / "detector.json").write_text(json.dumps(DETECTOR))
    run, config = str(tmp_path / "run"), str(tmp_path / "detector.json")
    options = ["--objective", "copy-detection", "--batch-size", "10", "--epochs", "8", "--lr", "2e-3", "--workers", "1"]
    result = CliRunner().invoke(main, ["train-clip", dataset.url, "--out", run, "--model", config, *options])
    assert result.exit_code == 0, result.output
    log = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert np.mean(log[-4:]) < np.mean(log[:4])
    assert models.load(None, run).model.visual.preprocess_cfg["resize_mode"] == "squash"
    done = dedup(Dataset.open(dataset.url), [f"embedding(pretrained={run})"], {"embedding": 0.999},
                 engine="local(workers=1)")  # fmt: skip
    assert dropped(done)[uid(rows[3])]["keeper"] == uid(copy)
