"""Recipes: the papers' values, what is given over them, where each value came from; models that open_clip loads."""

import json
import math

import open_clip
import pytest
import torch
from open_clip.model import CLIP

from curate.clip import models
from curate.clip.model_config import find_config
from curate.errors import CurateError
from curate.train import plan, recipe, run
from curate.train.step import adamw

RN_TEST = {"embed_dim": 32, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
           "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "lr", "beta2", "eps"),
    [
        ("clip-rn50", 5e-4, 0.999, 1e-8),
        ("clip-rn101", 5e-4, 0.999, 1e-8),
        ("clip-rn50x4", 5e-4, 0.999, 1e-8),
        ("clip-rn50x16", 4e-4, 0.999, 1e-8),
        ("clip-rn50x64", 3.6e-4, 0.999, 1e-8),
        ("clip-vit-b-32", 5e-4, 0.98, 1e-6),
        ("clip-vit-b-16", 5e-4, 0.98, 1e-6),
        ("clip-vit-l-14", 4e-4, 0.98, 1e-6),
    ],
)
def test_the_recipes_of_clip_have_the_papers_values(name, lr, beta2, eps):
    found, config = plan.settings(name, None, {})
    assert (found["lr"], found["beta2"], found["eps"]) == (lr, beta2, eps)
    assert (found["batch_size"], found["epochs"], found["warmup"]) == (32768, 32, 2000)
    assert (found["weight_decay"], found["beta1"], found["crop"]) == (0.2, 0.9, "square")
    assert config["init_logit_scale"] == pytest.approx(math.log(1 / 0.07))
    assert "arXiv:2103.00020" in found.origins["lr"]


@pytest.mark.parametrize("name", recipe.known())
def test_every_recipe_names_its_source_a_model_and_an_objective_that_are_there(name):
    found, config = plan.settings(name, None, {})
    assert "source" in recipe.BUILT_IN.joinpath(f"{name}.yaml").read_text()
    assert config["embed_dim"] > 0
    assert plan.schedule(found.put("batch_size", 1024, "here").put("precision", "fp32", "here"), 10_000_000).steps > 0


def test_the_recipe_of_siglip_has_the_papers_values():
    found, config = plan.settings("siglip", None, {})
    assert (found["lr"], found["weight_decay"], found["beta1"], found["beta2"]) == (1e-3, 1e-4, 0.9, 0.95)
    assert (found["batch_size"], found["samples"], found["epochs"]) == (32768, 9e9, None)
    assert found["warmup"] == pytest.approx(200e6 / 32768, abs=1)
    assert (config["init_logit_scale"], config["init_logit_bias"]) == (pytest.approx(math.log(10)), -10)
    assert config["preprocess_cfg"]["resize_mode"] == "squash"  # evaluated as it was trained


def test_options_win_over_the_recipe_and_each_value_says_where_it_came_from():
    found, _ = plan.settings("datacomp-xlarge", None, {"lr": 1e-4, "epochs": 3, "batch_size": None})
    assert (found["lr"], found["epochs"], found["samples"], found["batch_size"]) == (1e-4, 3, None, 90112)
    assert found.origins["lr"] == "--lr"
    assert found.origins["samples"] == "epochs decide"
    assert found.origins["beta2"].startswith("recipe datacomp-xlarge: Gadre et al. 2023")
    assert found.origins["clip_norm"] == "default"


def test_defaults_follow_the_model():
    resnet, _ = plan.settings(None, None, {"model": "RN50"})
    vit, _ = plan.settings(None, None, {})
    assert (resnet["beta2"], resnet["eps"]) == (0.999, 1e-8)
    assert (vit["model"], vit["beta2"], vit["eps"], vit["temperature"]) == ("ViT-B-32", 0.98, 1e-6, 0.07)
    siglip, config = plan.settings(None, None, {"objective": "siglip"})
    assert (siglip["temperature"], config["init_logit_bias"]) == (0.1, -10)
    _, config = plan.settings(None, None, {"temperature": 0.2})
    assert config["init_logit_scale"] == pytest.approx(math.log(5))


def test_show_prints_every_value_and_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, numbers, failures = run([], recipe="clip-rn50x16", lr=1e-3, show=True)
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert set(lines) == {*recipe.DEFAULTS, "schedule", "max_scale"}
    assert lines["lr"].split()[1:] == ["0.001", "--lr"]
    assert "recipe clip-rn50x16: Radford et al. 2021" in lines["eps"]
    assert "100" in lines["max_scale"]
    assert numbers["values"]["batch_size"] == 32768
    assert not list(tmp_path.iterdir())
    assert not failures


def test_a_recipe_of_ones_own_is_a_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("lr: 5e-4\nmodel: ViT-Ti-64\nwarmup: 10\n")
    found, _ = plan.settings(str(tmp_path / "mine.yaml"), None, {})
    assert (found["lr"], found["model"], found["warmup"]) == (5e-4, "ViT-Ti-64", 10)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lr: [1", "is not valid YAML"),
        ("- lr", "is no recipe"),
        ("learning_rate: 1", "unknown value 'learning_rate'; known are: about, source, model"),
        ("lr: fast", r"lr of recipe .*mine.yaml is 'fast', not a number"),
        ("lr: -1", "is not a positive number"),
        ("lr: .nan", "is not a positive number"),
        ("batch_size: 1.5", "is not a whole number"),
        ("beta2: 1", "is not below 1"),
        ("epochs: 1\nsamples: 10", "give one of them"),
        ("crop: round", "no crop 'round'; choose from: square, random-resized, center, squash"),
    ],
)
def test_a_bad_recipe_is_one_line(tmp_path, content, message):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(CurateError, match=message):
        plan.settings(str(tmp_path / "mine.yaml"), None, {})


def test_an_unknown_recipe_names_the_nearest_and_all():
    with pytest.raises(
        CurateError, match=r"no recipe 'clip-vitb32': did you mean clip-vit-b-32\? built in are: clip-rn"
    ):
        plan.settings("clip-vitb32", None, {})


@pytest.mark.slow
def test_betas_and_epsilon_reach_the_optimizer():
    network = models.build(find_config("ViT-Test-32")[1])
    group = adamw(network, 1e-3, 0.2, betas=(0.8, 0.95), eps=1e-4).param_groups[1]
    assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ViT-Test-32", "RN"])
def test_weights_go_to_open_clip_and_come_back(tmp_path, kind):
    if kind == "RN":
        (tmp_path / "rn-test.json").write_text(json.dumps(RN_TEST))
        kind = str(tmp_path / "rn-test.json")
    name, config = find_config(kind)
    torch.manual_seed(0)
    ours = models.build(config).eval()
    theirs = CLIP(**config).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    side = config["vision_cfg"]["image_size"]
    pixels, tokens = torch.rand(2, 3, side, side), models.tokenizer_of(config)(["a red circle", "two"])
    assert torch.equal(ours.encode_image(pixels), theirs.encode_image(pixels))
    assert torch.equal(ours.encode_text(tokens), theirs.encode_text(tokens))
    torch.save({"state_dict": {f"module.{key}": value for key, value in theirs.state_dict().items()}},
               tmp_path / "epoch_1.pt")  # fmt: skip
    again = models.build(config)
    models.load_weights(again, name, str(tmp_path / "epoch_1.pt"))  # as open_clip_train writes it
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in ours.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B-32", "ViT-B-16", "ViT-L-14"])
def test_the_models_of_the_paper_have_open_clips_weights(name):
    with torch.device("meta"):
        ours = models.build(find_config(name)[1]).state_dict()
        theirs = CLIP(**open_clip.get_model_config(name)).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
