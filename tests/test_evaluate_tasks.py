"""Every task of curate eval on real files: what is read, what is kept for the next task, what is refused."""

import csv
import io
import json

import numpy as np
import open_clip
import pytest
import torch
from click.testing import CliRunner
from conftest import COLOURS, SHAPES, draw, encoded
from PIL import Image

from curate.benchmark import open_benchmark
from curate.cli import main
from curate.clip import models
from curate.clip.models import ClipModel
from curate.errors import CurateError
from curate.evaluate import run
from curate.files import Folder
from curate.shard import tar_bytes

TINY = "ViT-Test-32"
NAMES = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]


SENTENCES = "zeroshot_classification_templates"


def image_of(label, seed, side=48):
    return draw(COLOURS[label], SHAPES[seed % 3], seed, side)


def write_split(folder, split, each, colours=6, first=0, names=None):
    """CLIP_benchmark's layout: `each` pictures of the first colours."""
    files = []
    for at in range(each * colours):
        picture = image_of(at % colours, first + at)
        files += [(f"s{at:04d}.webp", encoded(picture, "WEBP")), (f"s{at:04d}.cls", str(at % colours).encode())]
    folder.write_bytes(f"{split}/0.tar", tar_bytes(files))
    folder.write_bytes(f"{split}/nshards.txt", b"1\n")
    folder.write_bytes("classnames.txt", "\n".join(names or COLOURS[:colours]).encode())


@pytest.fixture
def colours(tmp_path):
    folder = Folder(str(tmp_path / "colours"))
    write_split(folder, "train", 20)
    write_split(folder, "test", 10, first=1000)
    return folder.url


def numbers_of(model, *benchmarks, **options):
    _, found, failures = run(model, list(benchmarks), device="cpu", **options)
    assert failures == {}
    return found["benchmarks"]


@pytest.mark.slow
def test_zero_shot_is_open_clips_own_to_the_last_image(model, tmp_path):
    """Pictures that have to be resized, through open_clip's transform, model and classifier; top-1 and top-5 counted as
    open_clip_train's accuracy does, which itself fails under numpy 2.4 (float of an array of one number)."""
    folder = Folder(str(tmp_path / "shapes"))
    pictures = [draw(*NAMES[at % 18].split(), at, 80) for at in range(180)]
    files = [(f"{at:03d}.{kind}", content) for at, picture in enumerate(pictures)
             for kind, content in (("png", encoded(picture, "PNG")), ("cls", str(at % 18).encode()))]  # fmt: skip
    folder.write_bytes("test/0.tar", tar_bytes(files))
    folder.write_bytes("classnames.txt", "\n".join(NAMES).encode())
    folder.write_bytes("zeroshot_classification_templates.txt", b"a photo of a {c}\n{c}\n")
    found = numbers_of(model, folder.url, out=str(tmp_path / "out"))["shapes"]["zero_shot"]
    clip = models.load(None, model, "cpu").model
    tokenizer, transform = open_clip.SimpleTokenizer(context_length=16), open_clip.image_transform(32, is_train=False)
    templates = [lambda name: f"a photo of a {name}", lambda name: name]
    classes = open_clip.build_zero_shot_classifier(clip, tokenizer, NAMES, templates)
    pixels, labels = torch.stack([transform(picture) for picture in pictures]), torch.arange(180) % 18
    with torch.inference_mode():
        logits = 100.0 * clip(pixels)[0] @ classes
    correct = logits.topk(5, 1, True, True)[1].t().eq(labels.view(1, -1).expand(5, -1))
    top1, top5 = (int(correct[:k].sum()) for k in (1, 5))
    assert (found["images"], round(180 * found["top1"]["value"]), round(180 * found["top5"]["value"])) == (
        180,
        top1,
        top5,
    )
    predictions = Folder(str(tmp_path / "out")).read_table("shapes-predictions.parquet")
    assert predictions["prediction"].to_pylist() == logits.argmax(dim=1).tolist()
    assert 0 < top1 < top5 < 180


@pytest.mark.slow
def test_a_second_task_encodes_nothing_again_and_other_files_do(model, colours, tmp_path, monkeypatch):
    out = {"out": str(tmp_path / "out")}
    encode, seen = ClipModel.encode_images, []
    monkeypatch.setattr(
        ClipModel, "encode_images", lambda self, images: (seen.append(len(images)), encode(self, images))[1]
    )
    first = numbers_of(model, colours, **out)["colours"]
    assert sum(seen) == 60
    seen.clear()
    again = numbers_of(model, colours, tasks_asked=["zero-shot", "linear-probe"], **out)["colours"]
    assert again["zero_shot"] == first["zero_shot"]
    assert sum(seen) == 120, "only the training images are new"
    seen.clear()
    kept = numbers_of(model, colours, tasks_asked=["few-shot"], shots=[1], draws=1, **out)["colours"]
    assert seen == []
    assert {"zero_shot", "linear_probe", "few_shot"} <= kept.keys(), "one JSON keeps what every task found"
    write_split(Folder(colours), "test", 11, first=1000)
    assert "linear_probe" not in numbers_of(model, colours, **out)["colours"], "numbers of other images are not kept"
    assert sum(seen) == 66


@pytest.mark.slow
def test_what_little_training_and_what_much_finds(model, colours, tmp_path):
    asked = {"tasks_asked": ["zero-shot", "linear-probe", "few-shot"], "out": str(tmp_path / "out")}
    found = numbers_of(model, colours, shots=[1, 4], draws=1, **asked)["colours"]
    assert found["linear_probe"]["top1"]["value"] > 0.45 > found["zero_shot"]["top1"]["value"]
    assert found["linear_probe"]["validation_images"] == 24
    assert list(found["few_shot"]["shots"]) == ["1", "4"]
    assert found["few_shot"]["zero_shot"] == found["zero_shot"]["top1"]
    rows = list(csv.DictReader(io.StringIO(Folder(asked["out"]).read_bytes("eval.csv").decode())))
    probe = next(row for row in rows if row["task"] == "linear-probe" and row["metric"] == "top-1")
    assert float(probe["value"]) == found["linear_probe"]["top1"]["value"]
    assert float(probe["low"]) < float(probe["value"]) <= float(probe["high"])
    defaults = numbers_of(model, colours, **asked | {"tasks_asked": ["few-shot"]}, draws=1)["colours"]["few_shot"]
    assert list(defaults["shots"]) == ["1", "2", "4", "8", "16"]


@pytest.mark.slow
def test_training_images_from_elsewhere_are_matched_by_the_names_of_their_classes(model, colours, tmp_path):
    for label in reversed(range(6)):
        place = tmp_path / "photos/train" / COLOURS[label]
        place.mkdir(parents=True)
        for at in range(12):
            image_of(label, at).save(place / f"{at}.png")
    asked = {"tasks_asked": ["linear-probe"], "out": str(tmp_path / "out")}
    found = numbers_of(model, colours, train=[str(tmp_path / "photos")], **asked)["colours"]["linear_probe"]
    assert found["top1"]["value"] > 0.45, "the folder's classes are sorted by name, the benchmark's are not"
    (tmp_path / "photos/train/red").rename(tmp_path / "photos/train/crimson")
    with pytest.raises(CurateError, match="has the class 'crimson', benchmark colours has not"):
        run(model, [colours], device="cpu", train=[f"colours={tmp_path / 'photos'}"], **asked)


@pytest.mark.slow
def test_an_image_folder_with_splits_is_tested_on_test_and_trained_on_train(model, tmp_path):
    for split, count in (("train", 12), ("test", 4)):
        for label in range(3):
            place = tmp_path / "set" / split / COLOURS[label]
            place.mkdir(parents=True)
            for at in range(count):
                image_of(label, 100 * label + at + 1000 * (split == "test")).save(place / f"{at}.png")
    found = numbers_of(model, str(tmp_path / "set"), tasks_asked=["linear-probe"])["set"]
    assert (found["images"], found["linear_probe"]["images"], found["linear_probe"]["classes"]) == (12, 12, 3)
    assert found["linear_probe"]["train_images"] + found["linear_probe"]["validation_images"] == 36


@pytest.mark.slow
def test_a_typographic_attack_repeats_and_shows_examples(model, colours, tmp_path):
    asked = {"tasks_asked": ["typographic", "zero-shot"], "out": str(tmp_path / "out")}
    first = numbers_of(model, colours, **asked)["colours"]
    assert first["typographic"]["before"] == first["zero_shot"]["top1"]
    assert first["typographic"]["images"] == 60
    again = numbers_of(model, colours, **asked | {"out": str(tmp_path / "again")})["colours"]
    assert again["typographic"] == first["typographic"]
    picture = Image.open(tmp_path / "out/colours-typographic.png")
    assert np.asarray(picture).std() > 20
    other = numbers_of(model, colours, seed=1, **asked)["colours"]["typographic"]
    assert other["before"] == first["typographic"]["before"]


@pytest.mark.slow
def test_robustness_on_a_shift_with_fewer_classes_and_baselines_from_other_runs(model, colours, tmp_path):
    shift = Folder(str(tmp_path / "negatives"))
    write_split(shift, "test", 15, colours=4, first=3000)
    lines = ["model,base,shift,base_accuracy,shift_accuracy"]
    lines += [f"m{at},colours,negatives,{0.2 + at / 10},{0.1 + at / 10}" for at in range(4)]
    (tmp_path / "others.csv").write_text("\n".join(lines) + "\n")
    asked = {"tasks_asked": ["zero-shot", "robustness"], "out": str(tmp_path / "out")}
    found = numbers_of(model, colours, shift.url, baselines=[str(tmp_path / "others.csv")], **asked)
    told = found["negatives"]["robustness"]
    assert told["classes"] == 4
    assert told["shift"]["value"] == found["negatives"]["zero_shot"]["top1"]["value"]
    assert told["gap"]["value"] == pytest.approx(told["base"]["value"] - told["shift"]["value"], abs=2e-6)
    line = told["line"]["slope"] * np.log(told["base"]["value"] / (1 - told["base"]["value"])) + told["line"]["offset"]
    assert told["effective_robustness"]["predicted"] == pytest.approx(1 / (1 + np.exp(-line)), abs=1e-4)
    assert found["colours"]["robustness"]["shifts"] == ["negatives"]
    drawing = Folder(asked["out"]).read_bytes("robustness.svg").decode()
    assert drawing.count('r="3"') == 4
    with pytest.raises(CurateError, match="1 baseline models tell of negatives, a line needs 3"):
        run(model, [colours, shift.url], device="cpu", **asked | {"baselines": [asked["out"]]})


def test_multilabel_sets_get_map_and_classes_have_sentences_of_their_own(model, tmp_path):
    folder, files = Folder(str(tmp_path / "several")), []
    for at in range(24):
        vector = io.BytesIO()
        np.save(vector, np.array([at % 2, at % 3 == 0, 1, 0]))
        files += [(f"{at:02d}.jpg", encoded(image_of(at % 6, at))), (f"{at:02d}.npy", vector.getvalue())]
    folder.write_bytes("test/0.tar", tar_bytes(files))
    folder.write_bytes("dataset_type.txt", b"multilabel\n")
    folder.write_bytes("classnames.txt", b"dog\ncat\nsky\nfox\n")
    own = {name: [f"a {name} seen outside", f"{name}, a photograph"] for name in ("dog", "cat", "sky", "fox")}
    folder.write_json("zeroshot_classification_templates.json", own)
    summary, found, _ = run(model, [folder.url], device="cpu")
    several = found["benchmarks"]["several"]["multilabel"]
    assert (several["images"], several["classes_without_images"]) == (24, 1)
    clip = models.load(None, model, "cpu")
    pixels = [np.asarray(Image.open(io.BytesIO(image))) for name, image in files if name.endswith("jpg")]
    features, expected = clip.encode_images(pixels), []
    for name, shown in (("dog", np.arange(24) % 2 == 1), ("cat", np.arange(24) % 3 == 0), ("sky", np.ones(24, bool))):
        order = np.argsort(-features @ clip.encode_texts(own[name]).mean(axis=0))
        precision = shown[order].cumsum() / np.arange(1, 25)
        expected.append(precision[shown[order]].mean())
    assert several["mean_average_precision"]["value"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert "mAP" in summary
    one = Folder(str(tmp_path / "one"))
    folder.write_json("zeroshot_classification_templates.json", {"dog": ["a dog"]})
    with pytest.raises(CurateError, match="has no sentences for the class 'cat'"):
        run(model, [folder.url], one.url, device="cpu")
    with pytest.raises(CurateError, match="no labelled images with one class each"):
        run(model, [folder.url], one.url, device="cpu", tasks_asked=["typographic"])


def test_runs_beside_each_other_make_one_table(model, colours, tmp_path):
    run(model, [colours], str(tmp_path / "first"), device="cpu")
    outcome = CliRunner().invoke(
        main, ["eval", model, colours, "--out", str(tmp_path / "second"), "--beside", str(tmp_path / "first"), "-q"]
    )
    assert outcome.exit_code == 0, outcome.output
    head = next(line for line in outcome.output.splitlines() if line.startswith("| benchmark"))
    assert [cell.strip() for cell in head.split("|")][5:7] == [model.rsplit("/", 1)[-1], "first"]
    page = (tmp_path / "second/eval.html").read_text()
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", ""), "the page needs nothing from elsewhere"


@pytest.mark.parametrize(
    ("break_it", "options", "message"),
    [
        (lambda at: at.write_bytes("test/nshards.txt", b"3"), {}, "tells of 3 tars, found 1"),
        (lambda at: at.write_bytes("test/nshards.txt", b"many"), {}, "not a number of tars"),
        (lambda at: at.write_bytes("dataset_type.txt", b"video"), {}, "dataset_type.txt says 'video'"),
        (lambda at: at.write_json(f"{SENTENCES}.json", 3), {}, "neither a list of sentences"),
        (lambda at: write_split(at, "test", 3, 1), {}, "one class only, 'red'"),
        (lambda at: write_split(at, "train", 3), {"tasks_asked": ["few-shot"], "shots": [4]}, "fewer than 4 shots"),
        (lambda at: at.remove("train"), {"tasks_asked": ["linear-probe"]}, "has no train split"),
        (lambda at: None, {"tasks_asked": ["robustness"]}, "compares at least two benchmarks"),
        (lambda at: None, {"tasks_asked": ["linear"]}, "no task 'linear'; choose from: zero-shot"),
        (lambda at: None, {"tasks_asked": ["retrieval"]}, "has no texts"),
        (lambda at: None, {"train": ["x=/nowhere"], "tasks_asked": ["few-shot"]}, "write NAME=DIR"),
        (lambda at: None, {"shots": [3]}, "--shots is for --task few-shot; ask for it"),
        (lambda at: None, {"base": "set"}, "--base is for --task robustness; ask for it"),
        (lambda at: None, {"batch_size": 0}, "--batch-size 0 is not a positive number"),
        (lambda at: at.write_bytes("classnames.txt", b"caf\xe9"), {}, "classnames.txt is no UTF-8 at byte 3"),
        (lambda at: at.write_bytes(f"{SENTENCES}.txt", b"a photo"), {}, "'a photo' has no {c}, where the name"),
        (lambda at: at.write_json(f"{SENTENCES}.json", ["a photo"]), {}, "'a photo' has no {c}, where the name"),
        (lambda at: None, {"beside": ["/nowhere"]}, "holds no results"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(model, tmp_path, break_it, options, message):
    folder = Folder(str(tmp_path / "set"))
    write_split(folder, "train", 2)
    write_split(folder, "test", 2)
    break_it(folder)
    with pytest.raises(CurateError, match=message):
        run(model, [folder.url], str(tmp_path / "out"), device="cpu", **options)


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (["a"], "captions.json is not"),
        ({"red/0.png": "a red thing"}, "captions.json is not"),
        ({"1.png": ["a red thing"]}, "names images that are not there, such as '1.png'"),
    ],
)
def test_captions_of_another_shape_or_of_other_images_are_one_line(tmp_path, captions, message):
    (tmp_path / "red").mkdir()
    image_of(0, 0).save(tmp_path / "red/0.png")
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    with pytest.raises(CurateError, match=message):
        open_benchmark(str(tmp_path))


def test_damaged_images_and_classes_without_any_are_counted(model, tmp_path):
    folder = Folder(str(tmp_path / "set"))
    files = [(f"{at}.png", encoded(image_of(at, at), "PNG") if at else b"broken") for at in range(4)]
    files += [(f"{at}.cls", str(at).encode()) for at in range(4)]
    folder.write_bytes("test/0.tar", tar_bytes(sorted(files)))
    folder.write_bytes("classnames.txt", b"red\ngreen\nblue\norange\nwhite\n")
    summary, found, _ = run(model, [folder.url], str(tmp_path / "out"), device="cpu")
    assert found["benchmarks"]["set"]["undecodable"] == ["0"]
    assert found["benchmarks"]["set"]["zero_shot"]["classes_without_images"] == 2
    assert "3 images, 1 could not be decoded" in summary
    assert "5 classes, 2 without images" in summary
    assert open_benchmark(folder.url).fingerprint() == open_benchmark(folder.url).fingerprint()
