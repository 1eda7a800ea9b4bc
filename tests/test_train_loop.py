"""The loop: checkpoints that are whole, what is kept of them, what stops a run, what a run says while it goes."""

import json
import math
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import pair

from curate.cli import main
from curate.clip import models
from curate.clip.model_config import find_config
from curate.errors import CurateError
from curate.files import Folder
from curate.train import flops, guard, reader, run
from curate.train.checkpoint import Saver, State, restore
from curate.train.objectives import clip
from curate.train.step import adamw

TINY = "ViT-Test-32"
OPTIONS = {"model": TINY, "batch_size": 16, "epochs": 2, "lr": 1e-3, "device": "cpu", "workers": 2, "save_every": 2}
MADE_BY = {"model": TINY, "data": "1"}


def steps_kept(out):
    return sorted(int(path.stem) for path in Path(out, "checkpoints").glob("*.pt"))


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture
def saved():
    """(model, objective, optimizer) of a tiny network."""
    torch.manual_seed(0)
    model = models.build(find_config(TINY)[1])
    return model, clip.Objective(), adamw(model, 1e-3, 0.2)


@pytest.mark.slow
def test_the_newest_checkpoints_and_the_best_stay(dataset, tmp_path):
    numbers = run([dataset.url], str(tmp_path / "run"), **OPTIONS | {"lr": 3e-2, "save_every": 1, "keep": 3})[1]
    losses = [line["loss"] for line in lines(tmp_path / "run/log.jsonl")]
    best = 1 + losses.index(min(losses))
    assert numbers["best_step"] == best
    assert steps_kept(tmp_path / "run") == sorted({6, 7, 8, best})


@pytest.mark.slow
def test_an_evaluation_chooses_the_best_and_is_not_made_twice(dataset, tmp_path):
    asked = []

    def evaluator(checkpoint, out):
        asked.append(int(Path(checkpoint).stem))
        assert Path(checkpoint).is_file()
        return {"set": {2: 0.1, 4: 0.9, 6: 0.2, 8: 0.3}[asked[-1]]}

    numbers = run([dataset.url], str(tmp_path / "run"), **OPTIONS, keep=1, evaluator=evaluator, eval_every=2)[1]
    assert asked == [2, 4, 6, 8]
    assert numbers["best_step"] == 4
    assert steps_kept(tmp_path / "run") == [4, 8]
    assert lines(tmp_path / "run/evals.jsonl")[1] == {"step": 4, "scores": {"set": 0.9}}
    os.remove(tmp_path / "run/model.pt")
    run([dataset.url], str(tmp_path / "run"), **OPTIONS, keep=1, evaluator=evaluator, eval_every=2)
    assert asked == [2, 4, 6, 8]


def test_a_checkpoint_is_the_state_at_the_time_of_its_save(saved, tmp_path):
    model, objective, optimizer = saved
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with Saver(Folder(str(tmp_path)), 2, MADE_BY) as saver:
        saver.save(State(step=1), model, objective, optimizer)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(7)
    state, damaged = restore(Folder(str(tmp_path)), model, objective, optimizer, MADE_BY)
    assert (state.step, damaged) == (1, [])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_and_named(dataset, tmp_path):
    out, said = str(tmp_path / "run"), []
    run([dataset.url], out, **OPTIONS)
    whole = Path(out, "model.pt").read_bytes()
    os.remove(f"{out}/model.pt")
    newest = Path(out, "checkpoints/000000008.pt")
    newest.write_bytes(newest.read_bytes()[:-5000])
    run([dataset.url], out, **OPTIONS, note=said.append)
    assert said == [f"{out}/checkpoints/000000008.pt is damaged; going on from step 6"]
    assert Path(out, "model.pt").read_bytes() == whole


def test_a_checkpoint_of_another_model_or_other_data_is_refused(saved, tmp_path):
    with Saver(Folder(str(tmp_path)), 2, MADE_BY) as saver:
        saver.save(State(step=3), *saved)
    for what, value in (("model", "ViT-B-32"), ("data", "2")):
        with pytest.raises(
            CurateError, match=f"000000003.pt is of another run: its {what} is .*, not {value}; remove it"
        ):
            restore(Folder(str(tmp_path)), *saved, {**MADE_BY, what: value})
    other = models.build(find_config("ViT-Ti-64")[1])
    with pytest.raises(CurateError, match="does not fit this model"):
        restore(Folder(str(tmp_path)), other, saved[1], adamw(other, 1e-3, 0.2), MADE_BY)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_the_last_checkpoint_stays(dataset, tmp_path, start):
    out = tmp_path / "run"
    command = ["train-clip", "-q", dataset.url, "--out", str(out), "--model", TINY, "--batch-size", "16", "--lr",
               "1e-3", "--save-every", "4", "--device", "cpu"]  # fmt: skip
    assert start(*command, "--epochs", "1").ended()[0] == 0
    for name in ("model.pt", "run.json"):
        os.remove(out / name)
    (size,) = {path.stat().st_size for path in (out / "checkpoints").iterdir()}
    code, _, message = start(*command, "--epochs", "3", largest_file=size // 2).ended()
    assert code == 1
    assert message.splitlines()[-1].startswith(f"curate: cannot write {out}/checkpoints/000000008.pt: File too large")
    assert "Traceback" not in message
    assert steps_kept(out) == [4]
    assert start(*command, "--epochs", "3").ended()[0] == 0
    assert (out / "model.pt").exists()


def test_undecodable_images_are_counted_and_the_first_ones_named():
    state = State()
    for at in range(100):
        state.lost([f"{at % 70}", f"{at % 70}", "same"])
    assert state.replaced == 300
    assert state.undecodable == ["0", "same", *(str(at) for at in range(1, 19))]


def test_a_loss_that_leaps_stops_the_run_and_names_the_pairs():
    state = State()
    assert [guard.spike(state, 2.0, 1.5) for _ in range(200)] == [None] * 200
    assert len(state.recent) == guard.COMPARED
    assert guard.spike(state, 2.9, 1.5) is None
    assert guard.spike(state, 2.9, None) is None
    assert guard.spike(state, 3.1, 1.5).startswith("the loss is 3.1, 1.5 times the mean of the last 100")


@pytest.mark.slow
def test_a_leap_keeps_the_last_checkpoint_and_saves_the_uids(dataset, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(CurateError, match=r"times the mean .* at step \d+; the uids .* a higher --max-spike; the last"):
        run([dataset.url], str(out), **OPTIONS | {"epochs": 20, "lr": 1.0, "warmup": 0, "max_spike": 0.5})
    bad = json.loads((out / "bad-batch.json").read_text())
    assert len(bad["uids"]) == 16
    assert max(steps_kept(out)) == bad["step"] - 1 - (bad["step"] - 1) % 2
    assert not (out / "model.pt").exists()


@pytest.mark.slow
def test_gradients_are_shortened_to_the_norm(dataset, tmp_path):
    for name, norm in (("a", 1e6), ("b", 1e-3)):
        run([dataset.url], str(tmp_path / name), **OPTIONS | {"epochs": 1}, clip_norm=norm)
    first, second = (lines(tmp_path / name / "log.jsonl") for name in "ab")
    assert first[0]["loss"] == second[0]["loss"]
    assert first[-1]["loss"] != second[-1]["loss"]


@pytest.mark.slow
def test_tensorboard_has_the_lines_of_the_log(dataset, tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run([dataset.url], str(tmp_path / "run"), **OPTIONS, tensorboard=True)
    board = event_accumulator.EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    shown = [(event.step, event.value) for event in board.Scalars("train/loss")]
    assert shown == [(line["step"], pytest.approx(line["loss"])) for line in lines(tmp_path / "run/log.jsonl")]


@pytest.mark.slow
def test_equal_texts_and_empty_captions_are_said_before_the_first_step(make_dataset, tmp_path):
    same = [pair(i) | {"caption": "a photo", "key": f"{i:06d}"} for i in range(40)]
    empty = [pair(i) | {"caption": "" if i % 2 else f"number {i}"} for i in range(40)]
    for name, pairs, expected in (
        ("same", same, "16 pairs have only 1 different text, .* the contrastive loss cannot fall below 2.77"),
        ("empty", empty, "20 empty captions, nothing to learn from; drop them: curate filter DATASET --where"),
    ):
        said = []
        data = make_dataset(pairs, url=str(tmp_path / name))
        run([data.url], str(tmp_path / f"{name}-run"), **OPTIONS | {"epochs": 1}, note=said.append)
        assert any(re.match(expected, line) for line in said)
    loss = lines(tmp_path / "same-run/log.jsonl")[-1]["loss"]
    assert loss > math.log(16) - 1e-3


@pytest.mark.slow
def test_a_shard_that_disappears_ends_the_run_and_the_last_checkpoint_stays(dataset, tmp_path):
    def evaluator(checkpoint, out):
        dataset.folder.remove("shards/00001.tar")
        reader._opened.cache_clear()
        return {"set": 1.0}

    options = OPTIONS | {"epochs": 20, "save_every": 8, "evaluator": evaluator, "eval_every": 8}
    with pytest.raises(CurateError, match=r"00001.tar cannot be read any more .*put it back, then the same command"):
        run([dataset.url], str(tmp_path / "run"), **options)
    assert steps_kept(tmp_path / "run") == [8]


def test_each_data_needs_its_weight():
    done = CliRunner().invoke(main, ["train-clip", "--data", "a", "--data", "b", "--weight", "1"])
    assert done.exit_code == 1
    assert "2 --data and 1 --weight; give each --data its --weight" in done.output


def test_a_missing_package_is_named_before_anything_is_begun(dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(CurateError, match=r"--wandb needs the package wandb: pip install 'curate\[train\]'"):
        run([dataset.url], str(tmp_path / "run"), **OPTIONS, wandb="project")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_wandb_offline_keeps_the_run_on_this_machine(dataset, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run([dataset.url], str(tmp_path / "run"), **OPTIONS, wandb="curate-test")
    assert list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.slow
def test_in_a_file_the_progress_is_a_line_now_and_then(dataset, tmp_path, capsys):
    run([dataset.url], str(tmp_path / "run"), **OPTIONS)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "step" in line]
    assert line.startswith("train-clip: step 8 of 8, loss ")
    for part in ("scale 14.", "samples/s", "data wait", "GFLOP/s", "00:00 left"):
        assert part in line


@pytest.mark.slow
@pytest.mark.parametrize(("name", "image", "text"), [("ViT-B-32", 8.8e9, 5.96e9), ("RN50", 12.2e9, 5.96e9)])
def test_the_arithmetic_of_a_pair_is_that_of_open_clips_table(name, image, text):
    """docs/model_profile.csv of open_clip: GFLOPs of the two towers (a product and a sum are two operations)."""
    of_image, of_token = flops.of_pair(find_config(name)[1])
    assert of_image == pytest.approx(image, rel=0.01)
    assert of_token * 77 == pytest.approx(text, rel=0.01)


@pytest.mark.slow
def test_a_step_without_room_is_taken_in_smaller_parts(dataset, tmp_path, monkeypatch):
    run([dataset.url], str(tmp_path / "whole"), **OPTIONS)
    encode = clip.Objective.encode

    def as_much_as_fits(self, model, chunk):
        if len(chunk) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return encode(self, model, chunk)

    monkeypatch.setattr(clip.Objective, "encode", as_much_as_fits)
    said = []
    run([dataset.url], str(tmp_path / "parts"), **OPTIONS, note=said.append)
    whole, parts = (lines(tmp_path / name / "log.jsonl") for name in ("whole", "parts"))
    assert [line["loss"] for line in parts] == pytest.approx([line["loss"] for line in whole], rel=1e-3)
    assert said[-1] == "CUDA out of memory: going on with 4 pairs at a time and 0 graphs kept"
    monkeypatch.setattr(clip.Objective, "encode", lambda self, model, chunk: as_much_as_fits(self, model, range(5)))
    with pytest.raises(CurateError, match="CUDA out of memory, with --chunk 1: a smaller one, or a smaller --batch"):
        run([dataset.url], str(tmp_path / "none"), **OPTIONS)


def test_the_peak_of_a_gpu_follows_from_its_name():
    assert flops.peak_of("NVIDIA H100 80GB HBM3", "bf16") == 989e12
    assert flops.peak_of("NVIDIA H100 PCIe", "bf16") == 756e12
    assert flops.peak_of("NVIDIA H200", "fp32") == 67e12
    assert flops.peak_of("NVIDIA GH200 480GB", "bf16") == 989e12
    assert [flops.peak_of(f"NVIDIA {name}", "bf16") for name in ("L4", "L40", "L40S")] == [121e12, 181e12, 362e12]
    assert flops.peak_of("NVIDIA A100-SXM4-80GB", "bf16") == 312e12
    assert flops.peak_of("Some GPU", "bf16") is None
