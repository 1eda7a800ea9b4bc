"""Runs of train-clip with every objective and with towers locked, patches dropped, a teacher."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from test_train import OPTIONS, files

from curate import models
from curate.errors import CurateError
from curate.train import run

SHORT = OPTIONS | {"epochs": 1, "lr": 1e-2}


def losses(out):
    return [json.loads(line)["loss"] for line in Path(out, "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("objective", ["captioning", "bag-of-words", "ngrams(longest=2)", "coca"])
def test_a_run_learns_and_leaves_a_model_that_open_clip_loads(dataset, tmp_path, objective):
    out = str(tmp_path / "run")
    model = "CoCa-Test-32" if objective == "coca" else OPTIONS["model"]
    run([dataset.url], out, **SHORT | {"objective": objective, "model": model, "chunk": 5})
    found = losses(out)
    assert found[-1] < found[0]
    network = models.build(json.loads(Path(out, "config.json").read_text()))
    open_clip.load_checkpoint(network, f"{out}/model.pt", strict=True)
    assert Path(out, "objective.pt").exists() == (objective != "coca")
    if objective != "coca":
        own = torch.load(f"{out}/objective.pt", weights_only=True)
        assert own["objective"] == objective
        torch.manual_seed(0)
        untouched = models.build(models.find_config(model)[1]).state_dict()
        assert torch.equal(network.state_dict()["token_embedding.weight"], untouched["token_embedding.weight"])
        assert not torch.equal(network.state_dict()["visual.conv1.weight"], untouched["visual.conv1.weight"])


def test_a_run_with_its_own_weights_goes_on_to_the_same_bytes(dataset, tmp_path):
    options = SHORT | {"objective": "ngrams(longest=2)", "lock_text": True, "patch_dropout": 0.5}
    for name in ("whole", "stopped"):
        run([dataset.url], str(tmp_path / name), **options)
    stopped = tmp_path / "stopped"
    (stopped / "model.pt").unlink()
    for late in sorted((stopped / "checkpoints").glob("*.pt"))[1:]:
        late.unlink()
    run([dataset.url], str(stopped), **options)
    names = ("model.pt", "objective.pt", "log.jsonl")
    assert files(stopped, *names) == files(tmp_path / "whole", *names)


def test_distilling_and_locking_are_options_of_a_run(dataset, tmp_path):
    teacher = str(tmp_path / "teacher")
    run([dataset.url], teacher, **SHORT)
    run([dataset.url], str(tmp_path / "plain"), **SHORT | {"seed": 1})
    run([dataset.url], str(tmp_path / "taught"), **SHORT | {"seed": 1, "distill": teacher})
    assert losses(tmp_path / "taught")[0] > losses(tmp_path / "plain")[0] + 1
    run([dataset.url], str(tmp_path / "lit"), **SHORT | {"model": None, "init": teacher, "lock_image": True})
    before, after = (torch.load(f"{tmp_path}/{name}/model.pt", weights_only=True) for name in ("teacher", "lit"))
    assert all(torch.equal(before[name], after[name]) == name.startswith("visual.") for name in before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "coca"}, "needs a CoCa model, for example --model coca_ViT-B-32"),
        ({"lock_image": True, "lock_text": True}, "leave nothing to train"),
        ({"patch_dropout": 1.0}, "--patch-dropout 1.0 is no share"),
        ({"chunk": 0}, "--chunk 0 is not a positive number"),
        ({"distill": "nowhere"}, "no such run or checkpoint: nowhere"),
        ({"distill": "nowhere", "objective": "siglip"}, "--distill works with --objective clip, not with siglip"),
    ],
)
def test_what_does_not_go_together_is_one_line(dataset, tmp_path, options, message):
    with pytest.raises(CurateError, match=message):
        run([dataset.url], str(tmp_path / "run"), **SHORT | options)
    assert not (tmp_path / "run/model.pt").exists()


@pytest.mark.slow
def test_two_processes_train_as_one_and_the_first_writes(dataset, tmp_path, start_together):
    run([dataset.url], str(tmp_path / "one"), **SHORT | {"chunk": 5})
    command = ["train-clip", "--json", dataset.url, "--model", OPTIONS["model"], "--batch-size", "16", "--epochs", "1",
               "--lr", "1e-2", "--chunk", "5", "--device", "cpu", "--out", str(tmp_path / "two")]  # fmt: skip
    ended = [process.ended() for process in start_together(2, *command)]
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert models.load(None, str(tmp_path / "two"), "cpu").name == OPTIONS["model"]
