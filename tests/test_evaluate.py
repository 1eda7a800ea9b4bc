"""Evaluation: the numbers are those of a plain computation and of open_clip's own code, and stand beside chance."""

import io
import json

import numpy as np
import open_clip
import pytest
import torch
from conftest import COLOURS, SHAPES, draw, encoded, pair
from PIL import Image

from curate.clip import models
from curate.errors import CurateError
from curate.evaluate import run
from curate.evaluate.interval import wilson
from curate.evaluate.retrieval import ranks, recalls
from curate.evaluate.zero_shot import accuracy, classifier, ranks_of
from curate.files import Folder
from curate.shard import tar_bytes

TINY = "ViT-Test-32"
NAMES = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]


def unit(rng, *shape):
    drawn = rng.standard_normal(shape).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


@pytest.fixture
def benchmark(tmp_path):
    """CLIP_benchmark's layout: 36 images of 18 classes, two texts each."""
    folder, files = Folder(str(tmp_path / "shapes")), []
    for i in range(36):
        colour, shape = NAMES[i % 18].split()
        image = encoded(draw(colour, shape, i, 32), "PNG")
        texts = f"a {colour} {shape}, number {i}\n{shape} {i}\n"
        files += [(f"s{i:03d}.png", image), (f"s{i:03d}.cls", str(i % 18).encode()), (f"s{i:03d}.txt", texts.encode())]
    folder.write_bytes("test/0.tar", tar_bytes(files))
    folder.write_bytes("test/nshards.txt", b"1\n")
    folder.write_bytes("classnames.txt", "\n".join(NAMES).encode())
    folder.write_bytes("zeroshot_classification_templates.txt", b"a photo of a {c}\n{c}\n")
    return str(tmp_path / "shapes")


@pytest.mark.parametrize(
    ("successes", "trials", "interval"),
    [
        (0, 10, (0.0, 0.27753279986288926)),
        (5, 10, (0.236593090512564, 0.7634069094874361)),
        (10, 10, (0.7224672001371109, 1.0)),
        (81, 263, (0.2552885198782742, 0.36620957698280004)),
        (1, 1, (0.20654931437723745, 1.0)),
    ],
)
def test_intervals_are_wilsons(successes, trials, interval):
    """As scipy.stats.binomtest has them."""
    assert wilson(successes, trials) == pytest.approx(interval, abs=1e-12)


def test_ranks_count_the_better_columns_and_the_first_of_equals_wins():
    scores = np.array([[3, 1, 2], [1, 1, 1], [0, 5, 5]])
    assert ranks_of(scores, np.array([0, 1, 2])).tolist() == [0, 1, 1]


def test_zero_shot_counts_by_image_and_by_class():
    classes = np.eye(4, dtype=np.float32)
    images = classes[[0, 0, 0, 1, 2, 2]]
    found = accuracy(images @ classes.T, np.array([0, 0, 0, 1, 2, 3]))
    assert found["top1"]["value"] == pytest.approx(5 / 6, abs=1e-6)
    assert found["top5"]["value"] == 1
    assert found["mean_per_class_recall"] == 0.75
    assert found["chance"] == 0.25
    assert found["majority"] == 0.5


def test_retrieval_equals_a_plain_sort():
    rng = np.random.default_rng(0)
    owner = np.sort(np.concatenate([np.arange(50), rng.integers(0, 50, 70)]))
    images, texts = unit(rng, 50, 8), unit(rng, 120, 8)
    scores = images @ texts.T
    of_image = [min(np.flatnonzero(owner[np.argsort(-scores[i])] == i)) for i in range(50)]
    of_text = [int(np.flatnonzero(np.argsort(-scores[:, t]) == owner[t])[0]) for t in range(120)]
    found = ranks(images, texts, owner)
    assert found[0].tolist() == of_image
    assert found[1].tolist() == of_text
    numbers = recalls(images, texts, owner)
    for way, places in (("image_to_text", of_image), ("text_to_image", of_text)):
        for k in (1, 5, 10):
            assert numbers[way][f"recall@{k}"]["value"] == pytest.approx(np.mean(np.array(places) < k), abs=1e-6)


def test_retrieval_does_not_depend_on_the_chunks(monkeypatch):
    rng = np.random.default_rng(1)
    images, texts, owner = unit(rng, 40, 8), unit(rng, 80, 8), np.arange(80) % 40
    whole = ranks(images, texts, owner)
    monkeypatch.setattr("curate.evaluate.retrieval.CHUNK", 7)
    for ours, theirs in zip(ranks(images, texts, owner), whole, strict=True):
        assert (ours == theirs).all()


def test_chance_is_what_random_features_reach():
    rng = np.random.default_rng(2)
    owner = np.arange(3000) % 1000
    found = recalls(unit(rng, 1000, 64), unit(rng, 3000, 64), owner)
    for way in ("image_to_text", "text_to_image"):
        for k in (1, 5, 10):
            low, high = found[way][f"recall@{k}"]["interval95"]
            assert low * 0.7 < found[way]["chance"][f"recall@{k}"] < high * 1.3
    assert found["text_to_image"]["chance"]["recall@10"] == pytest.approx(0.01)


def test_identical_features_earn_nothing():
    same = np.ones((20, 4), np.float32) / 2
    found = recalls(same, same, np.arange(20))
    assert found["image_to_text"]["recall@5"]["value"] == found["text_to_image"]["recall@5"]["value"] == 0


def test_the_classifier_is_open_clips(model):
    clip, templates = models.load(None, model, "cpu"), ["a photo of a {c}.", "{c}", "many {c}s"]
    functions = [lambda name, template=template: template.replace("{c}", name) for template in templates]
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    theirs = open_clip.build_zero_shot_classifier(clip.model, tokenizer, NAMES, functions)
    np.testing.assert_allclose(classifier(clip, NAMES, templates), theirs.T.numpy(), atol=1e-6)


def test_eval_equals_open_clips_own_zero_shot_code(model, benchmark, tmp_path):
    summary, numbers, failures = run(model, [benchmark], str(tmp_path / "out"), device="cpu", batch_size=10)
    found = json.loads((tmp_path / "out/shapes.json").read_text())
    assert found == numbers["benchmarks"]["shapes"]
    clip = models.load(None, model, "cpu")
    functions = [lambda name: f"a photo of a {name}", lambda name: name]
    tokenizer, transform = open_clip.SimpleTokenizer(context_length=16), open_clip.image_transform(32, is_train=False)
    classes = open_clip.build_zero_shot_classifier(clip.model, tokenizer, NAMES, functions)
    pixels = torch.stack([transform(draw(*NAMES[i % 18].split(), i, 32)) for i in range(36)])
    with torch.no_grad():
        logits = 100 * clip.model.encode_image(pixels, normalize=True) @ classes
    right = logits.topk(5).indices == (torch.arange(36) % 18)[:, None]
    assert found["zero_shot"]["top1"]["value"] == pytest.approx(right[:, 0].float().mean().item(), abs=1e-6)
    assert found["zero_shot"]["top5"]["value"] == pytest.approx(right.any(dim=1).float().mean().item(), abs=1e-6)
    assert found["retrieval"]["texts"] == 72
    assert "zero-shot top-1" in summary
    assert "chance 5.6% of 18 classes" in summary
    assert failures == {}


def test_the_prediction_of_every_image_stands_beside_the_numbers(model, benchmark, tmp_path):
    _, numbers, _ = run(model, [benchmark], out=str(tmp_path / "out"))
    rows = Folder(str(tmp_path / "out")).read_table("shapes-predictions.parquet").to_pylist()
    assert [row["key"] for row in rows] == [f"s{i:03d}" for i in range(36)]
    assert [row["label"] for row in rows] == [i % 18 for i in range(36)]
    assert all(row["correct"] == (row["label"] == row["prediction"]) for row in rows)
    top1 = numbers["benchmarks"]["shapes"]["zero_shot"]["top1"]["value"]
    assert sum(row["correct"] for row in rows) / 36 == pytest.approx(top1, abs=1e-6)


def test_an_image_folder_gets_zero_shot_and_a_dataset_retrieval(model, dataset, tmp_path):
    for colour in ("red", "blue"):
        (tmp_path / "colours" / colour).mkdir(parents=True)
        for i in range(3):
            draw(colour, "circle", i).save(tmp_path / f"colours/{colour}/{i}.png")
    (tmp_path / "colours/red/broken.png").write_bytes(b"no image")
    summary, numbers, _ = run(model, [str(tmp_path / "colours"), dataset.url], device="cpu")
    colours, pairs = numbers["benchmarks"]["colours"], numbers["benchmarks"]["dataset"]
    assert colours["undecodable"] == ["red/broken.png"]
    assert colours["zero_shot"]["images"] == 6
    assert "6 images, 1 could not be decoded" in summary
    assert "retrieval" not in colours
    assert "zero_shot" not in pairs
    assert pairs["retrieval"]["texts"] == 60
    assert Folder(model).exists("eval/colours.json")


def test_a_damaged_benchmark_is_named_and_the_others_go_on(model, make_dataset, benchmark, tmp_path):
    broken = make_dataset([pair(i) for i in range(40)], url=str(tmp_path / "broken"))
    broken.folder.write_bytes("shards/00001.tar", broken.folder.read_bytes("shards/00001.tar")[:5000])
    _, numbers, failures = run(model, [broken.url, benchmark], str(tmp_path / "out"), device="cpu")
    assert list(numbers["benchmarks"]) == ["shapes"]
    assert "truncated" in failures["broken"]


def unlabelled(folder):
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")


def wrong_label(folder):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    Folder(str(folder)).write_bytes("test/0.tar", tar_bytes([("a.png", buffer.getvalue()), ("a.cls", b"7")]))
    (folder / "classnames.txt").write_text("one\ntwo\n")


def no_names(folder):
    wrong_label(folder)
    (folder / "classnames.txt").unlink()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (unlabelled, "has images but no labels or texts"),
        (wrong_label, "has the label 7 but only 2 lines in classnames.txt"),
        (no_names, r"has images but no class names \(classnames.txt\)"),
        (lambda folder: None, "is not a benchmark"),
    ],
)
def test_what_is_no_benchmark_is_one_line(model, tmp_path, make, message):
    (tmp_path / "set").mkdir()
    make(tmp_path / "set")
    with pytest.raises(CurateError, match=message):
        run(model, [str(tmp_path / "set")], str(tmp_path / "out"), device="cpu")


def test_two_benchmarks_of_one_name_are_refused(model, benchmark):
    with pytest.raises(CurateError, match="two benchmarks are called 'shapes'"):
        run(model, [benchmark, benchmark + "/"], device="cpu")
