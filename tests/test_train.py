"""Training: a run that goes on bit for bit, and what stops it."""

import functools
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from click.testing import CliRunner
from conftest import COLOURS, SHAPES, draw, encoded, pair

from curate.cli import main
from curate.clip import models
from curate.clip.model_config import find_config
from curate.errors import CurateError
from curate.evaluate import run as evaluate
from curate.shard import tar_bytes, uid_of
from curate.train import memory, run, towers
from curate.train.loader import Batch
from curate.train.objectives import clip

TINY = "ViT-Test-32"
OPTIONS = {"model": TINY, "batch_size": 16, "epochs": 2, "lr": 1e-3, "device": "cpu", "workers": 2, "save_every": 2}


def files(out, *names):
    return [(Path(out) / name).read_bytes() for name in names]


@pytest.fixture
def finished(dataset, tmp_path):
    out = str(tmp_path / "run")
    run([dataset.url], out, **OPTIONS)
    return out


def test_a_run_says_what_it_did_and_leaves_an_open_clip_model(dataset, tmp_path):
    out = str(tmp_path / "run")
    summary, numbers, failures = run([dataset.url], out, **OPTIONS)
    assert summary.startswith("train-clip: ViT-Test-32, 60 pairs x 2 epochs, loss ")
    assert summary.endswith(f"{out}/model.pt")
    assert (numbers["steps"], numbers["samples"], failures) == (8, 128, {})
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(1, 9))
    assert set(log[0]) == {"step", "loss", "lr", "scale", "samples"}
    assert len(list((tmp_path / "run/checkpoints").iterdir())) == 2
    shutil.copy(tmp_path / "run/config.json", tmp_path / "mine-32.json")
    open_clip.add_model_config(tmp_path / "mine-32.json")
    theirs = open_clip.create_model("mine-32", pretrained=f"{out}/model.pt")
    ours = models.load(None, out, "cpu")
    tokens = ours.tokenizer(["a red circle"])
    np.testing.assert_allclose(
        ours.encode_texts(["a red circle"]), theirs.encode_text(tokens, True).detach(), atol=1e-5
    )


@pytest.mark.slow
def test_the_same_run_twice_is_equal_to_the_byte(dataset, tmp_path, finished):
    run([dataset.url], str(tmp_path / "again"), **OPTIONS | {"workers": 1, "save_every": 3})
    assert files(tmp_path / "again", "model.pt", "log.jsonl") == files(finished, "model.pt", "log.jsonl")


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_bytes(dataset, finished):
    whole = files(finished, "model.pt", "log.jsonl")
    for name in ("model.pt", "checkpoints/000000008.pt"):  # as if it had been killed in its seventh step
        os.remove(f"{finished}/{name}")
    log = whole[1].splitlines(keepends=True)
    Path(finished, "log.jsonl").write_bytes(b"".join(log[:7]) + log[7][:20])
    Path(finished, "checkpoints/.000000008.pt.gone-1.tmp").write_bytes(b"half a checkpoint")
    run([dataset.url], finished, **OPTIONS)
    assert files(finished, "model.pt", "log.jsonl") == whole


@pytest.mark.slow
def test_a_finished_run_is_left_alone_and_other_options_are_refused(dataset, finished):
    before = files(finished, "model.pt", "log.jsonl", "run.json")
    assert run([dataset.url], finished, **OPTIONS)[0].endswith("(done before)")
    for name, value in (("lr", 2e-3), ("batch_size", 20), ("seed", 1), ("objective", "siglip"), ("model", "ViT-Ti-64")):
        with pytest.raises(CurateError, match=rf"was started with {name} = .*, not {value}; choose another --out"):
            run([dataset.url], finished, **OPTIONS | {name: value})
    assert files(finished, "model.pt", "log.jsonl", "run.json") == before


@pytest.mark.slow
def test_other_data_is_refused_and_no_resume_starts_over(make_dataset, tmp_path, finished):
    other = make_dataset([pair(i) for i in range(40)], url=str(tmp_path / "other"))
    with pytest.raises(CurateError, match=r"on other data \(60 pairs, now 40 pairs\); choose another --out, or start"):
        run([other.url], finished, **OPTIONS)
    numbers = run([other.url], finished, **OPTIONS, resume=False)[1]
    assert numbers["steps"] == 5


@pytest.mark.slow
def test_training_starts_from_given_weights(dataset, tmp_path, finished):
    options = OPTIONS | {"model": None, "init": finished, "lr": 1e-9}
    run([dataset.url], str(tmp_path / "more"), **options)
    weights = [torch.load(f"{out}/model.pt", weights_only=True) for out in (finished, tmp_path / "more")]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_siglip_trains_and_its_bias_is_saved(dataset, tmp_path):
    run([dataset.url], str(tmp_path / "run"), **OPTIONS | {"objective": "siglip"})
    assert -10.1 < models.load(None, str(tmp_path / "run"), "cpu").model.logit_bias.item() < -9.9
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]


def test_an_exploding_loss_names_the_pairs_of_its_batch(dataset, tmp_path):
    with pytest.raises(CurateError, match=r"at step \d+; the uids of its pairs are in .*bad-batch.json"):
        run([dataset.url], str(tmp_path / "run"), **OPTIONS | {"lr": 1e30})
    bad = json.loads((tmp_path / "run/bad-batch.json").read_text())
    uids = {uid for shard in dataset.shards for uid in shard.rows()["uid"].to_pylist()}
    assert len(bad["uids"]) == 16
    assert set(bad["uids"]) <= uids
    assert not (tmp_path / "run/model.pt").exists()


@pytest.mark.slow
def test_undecodable_images_and_damaged_shards_are_reported(make_dataset, tmp_path):
    pairs = [pair(i) for i in range(60)]
    pairs[3]["image"] = b"<html>not found</html>"
    dataset = make_dataset(pairs)
    dataset.folder.write_bytes("shards/00002.tar", b"")
    summary, numbers, failures = run([dataset.url], str(tmp_path / "run"), **OPTIONS)
    assert "40 pairs" in summary
    assert ", 2 times an image could not be decoded," in summary  # once in each epoch
    assert numbers["undecodable"] == 2
    assert numbers["undecodable_uids"] == [uid_of(pairs[3]["url"], pairs[3]["caption"])]
    assert list(failures) == [f"{dataset.url}/shards/00002"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 61}, "60 pairs in all, fewer than one batch of 61; --batch-size 60"),
        ({"batch_size": 1}, "a batch of one pair teaches nothing: the objective clip compares"),
        ({"batch_size": 0}, "--batch-size 0 is not a positive number"),
        ({"epochs": -1}, "--epochs -1 is not a positive number"),
        ({"objective": "clop"}, "no objectives called 'clop'; choose from: bag_of_words, captioning, clip, "),
        ({"model": "ViT-Teeny"}, "no model called 'ViT-Teeny'"),
        ({"selection": "best"}, "has no selection 'best'"),
        ({"device": "cuda:9"}, "no device 'cuda:9' here"),
        ({"init": "nowhere"}, "no file, run or tag 'nowhere'"),
        ({"out": "memory://run"}, "is not on this machine"),
        ({"workers": -1}, "--workers -1 is not a number of threads"),
        ({"cache_size": float("nan")}, "--cache-size nan is not a positive number"),
        ({"eval_every": 3}, "--eval-every says how often --eval is asked"),
        ({"lock_image": True, "lock_text": True}, "leave nothing to train"),
        ({"distill": "nowhere"}, "no such run or checkpoint: nowhere"),
    ],
)
def test_options_that_cannot_work_are_one_line_and_leave_no_folder(dataset, tmp_path, options, message):
    with pytest.raises(CurateError, match=message):
        run([dataset.url], **{"out": str(tmp_path / "run"), **OPTIONS, **options})
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_refused_leaves_what_was_in_its_folder(dataset, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    with pytest.raises(CurateError, match="fewer than one batch"):
        run([dataset.url], str(tmp_path / "run"), **OPTIONS | {"batch_size": 61})
    assert os.listdir(tmp_path / "run") == ["notes.txt"]


def test_a_folder_of_something_else_is_no_place_for_a_run(dataset, tmp_path):
    with pytest.raises(CurateError, match="is a dataset; choose another folder"):
        run([dataset.url], dataset.save().url, **OPTIONS)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model.pt").write_bytes(b"theirs")
    with pytest.raises(CurateError, match=r"holds a model\.pt without its run\.json"):
        run([dataset.url], str(tmp_path / "run"), **OPTIONS)
    assert (tmp_path / "run/model.pt").read_bytes() == b"theirs"


COMMAND = ["train-clip", "-q", "--model", TINY, "--batch-size", "16", "--epochs", "6", "--lr", "1e-3", "--save-every",
           "5", "--workers", "2", "--device", "cpu"]  # fmt: skip


HELD = ["--objective", str(Path(__file__).parent / "held_objective.py")]


@pytest.fixture
def held(tmp_path):
    """held(start, step, ...) -> what `start` started, in the middle of its step of that number; `let_go` of them."""
    place = tmp_path / "held"

    def started(start, step, *arguments):
        place.touch()
        found = start(*arguments, environment={"HELD": str(place), "HELD_AT": str(step)})
        for rank, process in enumerate(found if isinstance(found, list) else [found]):
            reached = Path(f"{place}-{rank}")
            process.wait_for(reached.exists)
            reached.unlink()
        return found

    started.let_go = place.unlink
    return started


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(dataset, tmp_path, start, held):
    command = [*COMMAND, *HELD, dataset.url, "--out"]
    assert start(*command, str(tmp_path / "whole")).ended()[0] == 0
    for step in (4, 13):  # of this process, which begins anew, then goes on from the tenth
        process = held(start, step, *command, str(tmp_path / "killed"))
        process.send_all(signal.SIGKILL)
        process.killed()
    assert start(*command, str(tmp_path / "killed")).ended()[0] == 0
    whole, killed = (files(tmp_path / name, "model.pt", "log.jsonl") for name in ("whole", "killed"))
    assert whole == killed


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_ends(dataset, tmp_path, start, held, number):
    process = held(start, 8, *COMMAND, *HELD, dataset.url, "--out", str(tmp_path / "run"))
    process.send(number)
    held.let_go()
    code, _, message = process.ended()
    assert code == 1
    assert f"stopped by {number.name} after step 8 of 23" in message
    assert max(int(path.stem) for path in (tmp_path / "run/checkpoints").iterdir()) == 8
    assert len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 8


@pytest.mark.slow
def test_two_processes_stop_together_where_one_is_asked_and_go_on_to_the_same_bytes(
    dataset, tmp_path, start_together, held
):
    command = [*COMMAND, *HELD, dataset.url, "--out"]
    whole, stopped, killed = (tmp_path / name for name in ("whole", "stopped", "killed"))
    together = functools.partial(start_together, 2)
    assert [process.ended()[0] for process in together(*command, str(whole))] == [0, 0]
    processes = held(together, 8, *command, str(stopped))
    processes[1].send(signal.SIGTERM)
    held.let_go()
    ended = [process.ended() for process in processes]
    assert [code for code, _, _ in ended] == [1, 1], ended
    assert all("stopped by SIGTERM after step 8 of 23" in message for _, _, message in ended)
    assert max(int(path.stem) for path in (stopped / "checkpoints").iterdir()) == 8
    assert len((stopped / "log.jsonl").read_text().splitlines()) == 8
    shutil.copytree(stopped, killed)
    processes = held(together, 3, *command, str(killed), "--fsdp")
    processes[1].send(signal.SIGKILL)
    held.let_go()
    code, _, message = processes[0].ended()
    assert (code, processes[1].ended()[0]) == (1, -signal.SIGKILL)
    assert message.splitlines()[-1].startswith("curate: another process of this run has ended")
    assert "Traceback" not in message
    assert [process.ended()[0] for process in together(*command, str(stopped))] == [0, 0]
    assert files(stopped, "model.pt", "log.jsonl") == files(whole, "model.pt", "log.jsonl")


@pytest.mark.slow
def test_an_evaluation_is_an_option_of_the_command(dataset, tmp_path):
    for colour in COLOURS[:2]:
        (tmp_path / "colours" / colour).mkdir(parents=True)
        for i in range(3):
            draw(colour, "circle", i).save(tmp_path / f"colours/{colour}/{i}.png")
    out, benchmark = tmp_path / "run", str(tmp_path / "colours")
    options = ["--epochs", "1", "--eval", benchmark, "--eval-every", "2", "--out", str(out), "--json"]
    done = CliRunner().invoke(main, [*COMMAND, *options, dataset.url])
    assert done.exit_code == 0, done.output
    evals = [json.loads(line) for line in (out / "evals.jsonl").read_text().splitlines()]
    assert [line["step"] for line in evals] == [2, 4]
    _, last, _ = evaluate(str(out), [benchmark], str(tmp_path / "again"), device="cpu")
    assert evals[1]["scores"] == {"colours": last["benchmarks"]["colours"]["zero_shot"]["top1"]["value"]}
    assert json.loads((out / "eval/000000004/colours.json").read_text())["zero_shot"]["images"] == 6
    best = max(evals, key=lambda line: line["scores"]["colours"])["step"]
    assert json.loads(done.stdout)["best_step"] == best


@pytest.mark.slow
def test_checkpointed_activations_train_the_same_weights_and_keep_fewer_bytes(dataset, tmp_path):
    """In fp32 the second computation rounds as the first: Adam's division makes of 1e-7 at most 1e-6 in 4 steps."""
    for name, less in (("all", False), ("few", True)):
        run([dataset.url], str(tmp_path / name), **OPTIONS | {"epochs": 1, "grad_checkpointing": less})
    kept, again = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("all", "few"))
    torch.testing.assert_close(again, kept, rtol=0, atol=1e-6)
    pixels, tokens = torch.zeros(48, 3, 32, 32, dtype=torch.uint8), torch.ones(48, 16, dtype=torch.long)
    batch = Batch(pixels, tokens, np.arange(48), [])
    config = find_config(TINY)[1]
    model = models.build({**config, **{part: config[part] | {"layers": 6} for part in ("vision_cfg", "text_cfg")}})
    before = memory.saved_bytes(model, clip.Objective(), batch, "fp32")
    towers.checkpoint_activations(model)
    after = memory.saved_bytes(model, clip.Objective(), batch, "fp32")
    assert after.sample < before.sample / 2


@pytest.mark.slow
def test_a_small_model_learns_colours_and_shapes(make_dataset, tmp_path):
    pairs = [pair(i) | {"caption": f"a {COLOURS[i % 6]} {SHAPES[i // 6 % 3]}"} for i in range(360)]
    dataset = make_dataset(pairs, per_shard=120)
    numbers = run(
        [dataset.url],
        str(tmp_path / "run"),
        **OPTIONS | {"batch_size": 36, "epochs": 12, "lr": 1e-2, "save_every": 120},
    )[1]
    assert numbers["last_loss"] < numbers["first_loss"] - 1
    clip_model = models.load(None, str(tmp_path / "run"), "cpu")
    names = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
    images = [np.asarray(draw(colour, shape, 10_000 + i)) for colour in COLOURS for shape in SHAPES for i in range(3)]
    guesses = (clip_model.encode_images(images) @ clip_model.encode_texts(names).T).argmax(axis=1)
    assert (guesses == np.repeat(np.arange(18), 3)).mean() > 0.25  # chance is 0.06; twice the steps reach 0.5


@pytest.mark.slow
def test_the_command_trains_on_third_party_tars(tmp_path, monkeypatch):
    members = []
    for i in range(32):
        members += [(f"{i}.png", encoded(draw("red", "circle", i), "PNG")), (f"{i}.txt", f"circle {i}".encode())]
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/a.tar").write_bytes(tar_bytes(members))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, [*COMMAND, "--epochs", "1", "--json", str(tmp_path / "tars/*.tar")])
    assert json.loads(done.stdout)["samples"] == 32
    assert (tmp_path / "runs/tars/model.pt").exists()
