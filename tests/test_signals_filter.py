"""What the signals that filter lives on measure: caption, tokens, language, size, clip."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import draw, encoded, pair, write_shard
from PIL import Image, ImageFilter

from curate import named
from curate.cli import main
from curate.clip.model_config import find_config
from curate.dataset import Dataset
from curate.errors import CurateError
from curate.files import Folder
from curate.filter import run as select
from curate.measure import embedding_name, measure
from curate.rows import Rows

HERE = "local(workers=0)"
CAPTIONS = {
    "a photo of a small dog that plays in the garden": ("en", 11),
    "  ein Hund im Garten,\n neben dem Haus ": ("de", 7),
    "un perro juega en el jardín de la casa": ("es", 9),
    "庭で遊んでいる小さな犬の写真": ("ja", 1),
    "": (None, 0),
    "12 345 !!": (None, 3),
}


def dataset_of(url: str, captions: list[str]) -> Dataset:
    write_shard(Folder(url), "00000", [pair(index) | {"caption": text} for index, text in enumerate(captions)])
    return Dataset.open(url)


def columns(dataset: Dataset, *specs: str) -> dict[str, dict]:
    """Rows by caption, with what the signals measured."""
    dataset = measure(dataset, specs, HERE)
    return {row["caption"]: row for shard in dataset.shards for row in dataset.joined(shard).to_pylist()}


def test_captions_are_counted_in_characters_and_words(tmp_path):
    rows = columns(dataset_of(str(tmp_path), list(CAPTIONS)), "caption")
    for caption, (_, words) in CAPTIONS.items():
        assert rows[caption]["caption_characters"] == len(caption)
        assert rows[caption]["caption_words"] == words


def test_language_is_told_and_a_caption_without_letters_has_none(tmp_path):
    rows = columns(dataset_of(str(tmp_path), list(CAPTIONS)), "language")
    assert {caption: rows[caption]["language"] for caption in CAPTIONS} == {
        c: code for c, (code, _) in CAPTIONS.items()
    }
    assert all(0.5 < row["language_score"] <= 1 for row in rows.values() if row["language"])
    assert all(row["language_score"] is None for row in rows.values() if not row["language"])


def test_the_language_file_says_which_model_measured_it(tmp_path):
    dataset = dataset_of(str(tmp_path), list(CAPTIONS))
    measure(dataset, ["language"], HERE)
    made_by = dataset.folder.made_by("signals/language/00000.parquet")
    assert made_by["model"] == "lid.176.ftz"
    assert len(made_by["sha256"]) == 64


@pytest.mark.slow
def test_tokens_are_those_of_open_clip(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    rows = columns(dataset_of(str(tmp_path), list(CAPTIONS)), "tokens")
    for caption in CAPTIONS:
        assert rows[caption]["tokens"] == len(open_clip.SimpleTokenizer().encode(caption))


def test_size_is_read_from_the_stored_image(tmp_path):
    row = pair(0) | {"image": encoded(draw("red", "circle").resize((90, 30)))}
    write_shard(Folder(str(tmp_path)), "00000", [row])
    (found,) = columns(Dataset.open(str(tmp_path)), "size").values()
    assert (found["size_width"], found["size_height"], found["size_min"]) == (90, 30, 30)
    assert (found["size_aspect"], found["size_bytes"]) == (3.0, len(row["image"]))


def test_blur_tells_a_sharp_picture_from_a_soft_one_whatever_its_size():
    sharp = draw("red", "square", 1, 512)
    pictures = [
        sharp,
        sharp.filter(ImageFilter.GaussianBlur(6)),
        sharp.resize((1024, 1024)),
        Image.new("RGB", (300, 40)),
    ]
    found = named.load("signals", "blur").measure(Rows.of([np.asarray(each) for each in pictures]))["blur"].to_pylist()
    assert found[0] > 10 * found[1] > 0
    assert found[2] == pytest.approx(found[0], rel=0.25)
    assert found[3] == 0
    with pytest.raises(CurateError, match="side=4: at least 16 pixels"):
        named.load("signals", "blur(side=4)")


def test_blur_is_the_variance_of_the_laplacian():
    grey = np.random.default_rng(0).integers(0, 255, (64, 80), np.uint8)
    padded = np.pad(grey.astype(float), 1, mode="reflect")
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * padded[1:-1, 1:-1]
    rows = Rows.of([np.repeat(grey[:, :, None], 3, axis=2)])
    assert named.load("signals", "blur(side=64)").measure(rows)["blur"][0].as_py() == pytest.approx(laplacian.var())


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["blur", "caption", "language", "size"])
def test_light_signals_load_no_torch(signal):
    code = f"import sys, curate.named as n; n.load('signals', '{signal}'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """A tiny CLIP with fresh weights, as a checkpoint file."""
    torch = pytest.importorskip("torch")
    from curate.clip import models

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(models.build(find_config("ViT-Test-32")[1]).state_dict(), path)
    return str(path)


@pytest.fixture
def broken(tmp_path) -> Dataset:
    """Five pairs, two captions; the third image is no image."""
    captions = ["a red circle", "a red circle", "a red circle", "a blue square", "a blue square"]
    pairs = [pair(index) | {"caption": text} for index, text in enumerate(captions)]
    pairs[2]["image"] = b"<html>404</html>"
    write_shard(Folder(str(tmp_path / "d")), "00000", pairs)
    return Dataset.open(str(tmp_path / "d"))


@pytest.mark.slow
def test_clip_is_the_cosine_of_the_embeddings_of_image_and_caption(broken, weights):
    import torch
    import torch.nn.functional as F

    from curate import images
    from curate.clip import models

    model = models.load("ViT-Test-32", weights, "cpu").model
    dataset = measure(broken, [f"clip(model=ViT-Test-32, pretrained={weights}, device=cpu)"], HERE)
    (shard,) = dataset.shards
    rows, stored = dataset.joined(shard).to_pylist(), dataset.folder.read_array(embedding_name("clip", shard))
    tokenizer = models.load("ViT-Test-32", weights, "cpu").tokenizer
    assert stored.dtype == np.float16
    with shard.images() as encoded_images, torch.inference_mode():
        for row, embedding in zip(rows, stored, strict=True):
            if row["key"] == pair(2)["key"]:
                assert row["clip"] is None
                assert not embedding.any()
                continue
            pixels = models.load("ViT-Test-32", weights, "cpu").encode_images(
                [images.decode(encoded_images[row["key"]])]
            )
            text = F.normalize(model.encode_text(tokenizer([row["caption"]])), dim=-1).numpy()
            assert row["clip"] == pytest.approx(float((pixels * text).sum()), abs=1e-5)
            assert np.allclose(embedding, pixels[0], atol=1e-3)


@pytest.mark.slow
def test_clip_of_a_shard_without_a_single_image_is_null(tmp_path, weights):
    write_shard(Folder(str(tmp_path)), "00000", [pair(index) | {"image": b"no image"} for index in range(3)])
    rows = columns(Dataset.open(str(tmp_path)), f"clip(model=ViT-Test-32, pretrained={weights}, as=mine)")
    assert [row["mine"] for row in rows.values()] == [None] * 3


@pytest.mark.slow
def test_other_weights_under_the_same_name_are_refused(broken, weights):
    import torch

    spec = f"clip(model=ViT-Test-32, pretrained={weights}, device=cpu)"
    command = ["measure", broken.url, spec, "-q", "--engine", HERE]
    assert CliRunner().invoke(main, command).exit_code == 0
    state = torch.load(weights)
    torch.save(state | {"logit_scale": state["logit_scale"] + 1}, weights)
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1
    assert "was measured with another weights" in again.output
    with pytest.raises(CurateError, match=r"signals/clip was measured with another weights than clip\(.*\) has now"):
        select(Dataset.open(broken.url), signals=(spec,), where=("clip > 0",), on_null="drop", engine=HERE)
    assert not broken.folder.names("selections/**")


AGAIN = """
import sys
from curate import filter
from curate.dataset import Dataset
from curate.measure import measure
url, spec, here = sys.argv[1:]
measured = measure(Dataset.open(url), [spec], here)
selected = filter.run(measured, where=("clip > -1",), signals=(spec,), on_null="drop", engine=here)
print(measured.history[-1]["counts"]["skipped"], selected.history[-1]["counts"]["kept"], "torch" in sys.modules,
      *measured.failures.values())
"""


@pytest.mark.slow
def test_where_nothing_is_left_to_measure_no_torch_is_loaded_and_other_weights_are_noticed(broken, weights, tmp_path):
    torch = pytest.importorskip("torch")
    checkpoint = tmp_path / "tiny.pt"
    shutil.copy(weights, checkpoint)
    spec = f"clip(model=ViT-Test-32, pretrained={checkpoint}, device=cpu)"
    measured = measure(broken, [spec], HERE)
    assert not measured.failures
    command = [sys.executable, "-c", AGAIN, broken.url, spec, HERE]
    kept = sum(value is not None for value in measured.joined(measured.shards[0])["clip"].to_pylist())
    again = subprocess.run(command, capture_output=True, check=True, text=True)
    assert again.stdout.split() == ["1", str(kept), "False"]
    state = torch.load(checkpoint)
    torch.save(state | {"logit_scale": state["logit_scale"] + 1}, checkpoint)
    changed = subprocess.run(command, capture_output=True, check=False, text=True)
    assert "signals/clip was measured with another weights than" in changed.stderr


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["weights", "precision", "preprocessing", "config"])
def test_whatever_decides_a_score_is_noticed_when_it_changes(broken, weights, tmp_path, monkeypatch, changed):
    import torch

    from curate.clip import model_config, models

    config, checkpoint = tmp_path / "tiny.json", tmp_path / "tiny.pt"
    config.write_text(json.dumps(find_config("ViT-Test-32")[1]))
    state = torch.load(weights)
    torch.save(state, checkpoint)
    spec = f"clip(model={config}, pretrained={checkpoint}, device=cpu, precision=auto)"
    assert not measure(broken, [spec], HERE).failures
    assert measure(broken, [spec], HERE).history[-1]["counts"]["skipped"] == 1
    if changed == "weights":
        torch.save(state | {"logit_scale": state["logit_scale"] + 1}, checkpoint)
    elif changed == "precision":  # what "auto" means on another machine
        used = models.scoring_precision("auto", torch.device("cpu"))
        monkeypatch.setattr(models, "scoring_precision", lambda *_: "fp32" if used == "bf16" else "bf16")
    elif changed == "preprocessing":
        monkeypatch.setattr(model_config, "PREPROCESSING", model_config.PREPROCESSING + 1)
    else:
        config.write_text(json.dumps({**find_config("ViT-Test-32")[1], "quick_gelu": True}))
    (failure,) = measure(broken, [spec], HERE).failures.values()
    assert f"was measured with another {changed}; delete signals/clip or measure under another name" in failure


@pytest.mark.slow
def test_clip_without_weights_says_what_it_needs(broken):
    with pytest.raises(CurateError, match=r"'clip' needs pretrained: clip\(pretrained=\.\.\.\)"):
        measure(broken, ["clip"], HERE)
