"""Runs of train-clip with every objective and with towers locked, patches dropped, a teacher."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from click.testing import CliRunner
from conftest import draw
from test_train import OPTIONS, files
from test_train_step import RESNET

from curate import images, named
from curate.benchmark import TEMPLATES
from curate.cli import evaluator, main
from curate.clip import models
from curate.clip.encoders import resized
from curate.clip.model_config import find_config
from curate.errors import CurateError
from curate.evaluate import run as evaluate
from curate.files import Folder
from curate.shard import tar_bytes
from curate.train import run
from curate.train.chunk import cut
from curate.train.loader import Batch

SHORT = OPTIONS | {"epochs": 1, "lr": 1e-2}


@pytest.fixture
def kinds(tmp_path):
    """An image folder of four classes, three pictures each."""
    for name in ("red circle", "blue square", "green triangle", "black circle"):
        folder = tmp_path / "kinds" / name
        folder.mkdir(parents=True)
        for i in range(3):
            draw(*name.split(), 100 + i).save(folder / f"{i}.png")
    return str(tmp_path / "kinds")


def told(out, model, dataset, kinds):
    """Scores [pictures, classes] of the objective of a run, fitted again and given the trainer's own chunks."""
    own = torch.load(f"{out}/objective.pt", weights_only=True)
    goal, tokenizer, network = named.load("train.objectives", own["objective"]), model.tokenizer, model.model
    goal.fit(network, [text for shard in dataset.shards for text in shard.rows()["caption"].to_pylist()], tokenizer)
    goal.load_state_dict(own["state_dict"])
    files, names = sorted(Path(kinds).rglob("*.png")), sorted(path.name for path in Path(kinds).iterdir())
    pixels = torch.stack([resized(images.decode(path.read_bytes()), 32) for path in files])
    prompts = tokenizer([template.replace("{c}", name) for name in names for template in TEMPLATES])
    batch = Batch(pixels, prompts[: len(pixels)], np.arange(len(pixels)), [])
    with torch.no_grad():
        scores = goal.eval().scores(network, cut(batch, None, torch.device("cpu"))[0], prompts)
    return scores.view(len(files), len(names), len(TEMPLATES)).mean(dim=2).numpy()


def losses(out):
    return [json.loads(line)["loss"] for line in Path(out, "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["captioning", "bag-of-words", "ngrams(longest=2)", "coca"])
def test_a_run_learns_is_judged_by_its_objective_and_leaves_a_model_that_open_clip_loads(
    dataset, kinds, tmp_path, objective
):
    out = str(tmp_path / "run")
    model = "CoCa-Test-32" if objective == "coca" else OPTIONS["model"]
    judged = {"evaluator": evaluator((kinds,), "cpu"), "eval_every": 4}
    run([dataset.url], out, **SHORT | {"objective": objective, "model": model, "chunk": 5, **judged})
    found = losses(out)
    assert found[-1] < found[0]
    network = models.build(json.loads(Path(out, "config.json").read_text()))
    open_clip.load_checkpoint(network, f"{out}/model.pt", strict=True)
    assert Path(out, "objective.pt").exists() == (objective != "coca")
    if objective != "coca":
        own = torch.load(f"{out}/objective.pt", weights_only=True)
        assert own["objective"] == objective
        torch.manual_seed(0)
        untouched = models.build(find_config(model)[1]).state_dict()
        assert torch.equal(network.state_dict()["token_embedding.weight"], untouched["token_embedding.weight"])
        assert not torch.equal(network.state_dict()["visual.conv1.weight"], untouched["visual.conv1.weight"])
        _, numbers, _ = evaluate(out, [kinds], out=str(tmp_path / "found"), device="cpu", batch_size=5)
        expected = told(out, models.load(None, out, "cpu"), dataset, kinds)
        (kept,) = (tmp_path / "found").rglob("scores-*.npy")
        np.testing.assert_allclose(np.load(kept), expected, atol=1e-4)
        rows = Folder(str(tmp_path / "found")).read_table("kinds-predictions.parquet")
        assert rows["prediction"].to_pylist() == expected.argmax(axis=1).tolist()
        assert numbers["benchmarks"]["kinds"]["objective"]["name"] == objective
        top1 = numbers["benchmarks"]["kinds"]["zero_shot"]["top1"]["value"]
        (line,) = Path(out, "evals.jsonl").read_text().splitlines()  # the last checkpoint has the weights of model.pt
        assert json.loads(line)["scores"] == {"kinds": top1}


@pytest.mark.slow
def test_what_an_objective_cannot_judge_is_one_line(dataset, kinds, tmp_path):
    words, views = str(tmp_path / "words"), str(tmp_path / "views")
    run([dataset.url], words, **SHORT | {"objective": "bag-of-words"})
    for benchmark, tasks in ((kinds, ["retrieval"]), (dataset.url, [])):
        with pytest.raises(CurateError, match="of --objective bag-of-words has no features of texts to search with"):
            evaluate(words, [benchmark], device="cpu", tasks_asked=tasks)
    _, numbers, _ = evaluate(words, [kinds], device="cpu", tasks_asked=["zero-shot", "typographic"])
    attack = numbers["benchmarks"]["kinds"]["typographic"]
    assert attack["before"] == numbers["benchmarks"]["kinds"]["zero_shot"]["top1"]
    Path(words, "objective.pt").unlink()
    with pytest.raises(CurateError, match=r"the weights of the objective are not there: objective.pt lies beside"):
        evaluate(words, [kinds], device="cpu")
    run([dataset.url], views, **SHORT | {"objective": "copy-detection"})
    with pytest.raises(CurateError, match="of --objective copy-detection learns of no texts: no zero-shot"):
        evaluate(views, [kinds], device="cpu")
    learnt = {"train": [shutil.copytree(kinds, tmp_path / "learnt").as_posix()], "shots": [1], "draws": 2}
    _, numbers, _ = evaluate(views, [kinds], device="cpu", tasks_asked=["few-shot"], **learnt)
    assert set(numbers["benchmarks"]["kinds"]["few_shot"]["shots"]) == {"1"}
    assert "zero_shot" not in numbers["benchmarks"]["kinds"]["few_shot"]


@pytest.mark.parametrize(
    ("objective", "benchmark", "message"),
    [
        ("bag-of-words", "texts", "a run of --objective bag-of-words has no features of texts to search with"),
        ("copy-detection", "kinds", "a run of --objective copy-detection learns of no texts: no zero-shot"),
        ("clip", "bare", "benchmark bare has images but no labels or texts: nothing to compare them with"),
        ("clip", "nowhere", "no such benchmark: "),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused_before_the_run(
    dataset, kinds, tmp_path, objective, benchmark, message
):
    (tmp_path / "bare").mkdir()
    draw("red", "circle", 1).save(tmp_path / "bare/1.png")
    where = {"texts": dataset.url, "kinds": kinds}.get(benchmark, str(tmp_path / benchmark))
    command = ["train-clip", dataset.url, "--objective", objective, "--out", str(tmp_path / "run"), "--eval", where]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert message in done.output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_robustness_and_several_classes_are_asked_of_the_objective_too(dataset, kinds, tmp_path):
    out, several = str(tmp_path / "run"), Folder(str(tmp_path / "several"))
    run([dataset.url], out, **SHORT | {"objective": "bag-of-words"})
    shutil.copytree(kinds, tmp_path / "shifted")
    files = sorted(Path(kinds).rglob("*.png"))
    names = sorted(path.name for path in Path(kinds).iterdir())
    shown = np.stack([np.array([name == file.parent.name for name in names]) | (np.arange(4) == at % 4)
                      for at, file in enumerate(files)])  # fmt: skip
    members = []
    for at, file in enumerate(files):
        vector = io.BytesIO()
        np.save(vector, shown[at].astype(int))
        members += [(f"{at:02d}.png", file.read_bytes()), (f"{at:02d}.npy", vector.getvalue())]
    several.write_bytes("test/0.tar", tar_bytes(members))
    several.write_bytes("dataset_type.txt", b"multilabel\n")
    several.write_bytes("classnames.txt", "\n".join(names).encode())
    _, found, _ = evaluate(out, [kinds, str(tmp_path / "shifted")], device="cpu", tasks_asked=["robustness"])
    scores = told(out, models.load(None, out, "cpu"), dataset, kinds)
    right = (scores.argmax(axis=1) == np.repeat(np.arange(4), 3)).mean()
    shift = found["benchmarks"]["shifted"]["robustness"]
    assert (shift["base"]["value"], shift["gap"]["value"]) == (pytest.approx(right, abs=1e-6), 0)
    _, numbers, _ = evaluate(out, [several.url], device="cpu")
    precisions = []
    for at in range(4):
        found_there = shown[np.argsort(-scores[:, at], kind="stable"), at]
        precisions.append((found_there.cumsum() / np.arange(1, 13))[found_there].mean())
    reached = numbers["benchmarks"]["several"]["multilabel"]["mean_average_precision"]["value"]
    assert reached == pytest.approx(np.mean(precisions), abs=1e-5)


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_resnet_goes_on_to_the_same_bytes(dataset, tmp_path):
    config, whole, stopped = tmp_path / "resnet.json", tmp_path / "whole", tmp_path / "stopped"
    config.write_text(json.dumps(RESNET))
    options = SHORT | {"model": str(config), "save_every": 1, "keep": 9}
    run([dataset.url], str(whole), **options)
    shutil.copytree(whole, stopped)
    back_to(2, stopped)
    run([dataset.url], str(stopped), **options)
    assert files(stopped, "model.pt", "log.jsonl") == files(whole, "model.pt", "log.jsonl")


@pytest.mark.slow
def test_distilling_and_locking_are_options_of_a_run(dataset, tmp_path):
    teacher = str(tmp_path / "teacher")
    run([dataset.url], teacher, **SHORT)
    run([dataset.url], str(tmp_path / "plain"), **SHORT | {"seed": 1})
    run([dataset.url], str(tmp_path / "taught"), **SHORT | {"seed": 1, "distill": teacher})
    assert losses(tmp_path / "taught")[0] > losses(tmp_path / "plain")[0] + 1
    run([dataset.url], str(tmp_path / "lit"), **SHORT | {"model": None, "init": teacher, "lock_image": True})
    before, after = (torch.load(f"{tmp_path}/{name}/model.pt", weights_only=True) for name in ("teacher", "lit"))
    assert all(torch.equal(before[name], after[name]) == name.startswith("visual.") for name in before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "coca"}, "needs a CoCa model, for example --model coca_ViT-B-32"),
        ({"lock_image": True, "lock_text": True}, "leave nothing to train"),
        ({"patch_dropout": 1.0}, "--patch-dropout 1.0 is no share"),
        ({"fsdp": True}, "--fsdp shares the weights out over processes, and there is one"),
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
def test_two_processes_with_half_of_the_weights_each_go_on_where_one_was_and_one_where_they_were(
    dataset, tmp_path, start_together
):
    one, two = tmp_path / "one", tmp_path / "two"
    options = SHORT | {"chunk": 5, "save_every": 1, "keep": 9}
    run([dataset.url], str(one), **options)
    shutil.copytree(one, two)
    back_to(1, two)
    command = ["train-clip", "--json", dataset.url, "--model", OPTIONS["model"], "--batch-size", "16", "--epochs", "1",
               "--lr", "1e-2", "--chunk", "5", "--save-every", "1", "--keep", "9", "--device", "cpu", "--fsdp",
               "--out", str(two)]  # fmt: skip
    ended = [process.ended() for process in start_together(2, *command)]
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert models.load(None, str(two), "cpu").name == OPTIONS["model"]
    back_to(2, two)
    run([dataset.url], str(two), **options)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    wanted, found = (torch.load(folder / "model.pt", weights_only=True) for folder in (one, two))
    assert list(found) == list(wanted)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)  # Adam's division: a tenth of a step


def back_to(step, run):
    """Leave a run as if it had been killed after a step."""
    os.remove(run / "model.pt")
    for file in (run / "checkpoints").iterdir():
        if int(file.stem) > step:
            file.unlink()
