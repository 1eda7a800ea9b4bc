"""Steps of training on a GPU are those of the CPU: in chunks, compiled, shared out, after a stop, without room."""

import functools
import gc
import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import pair
from test_train_device import OBJECTIVES, made, seen
from test_train_step import RESNET, batch, compiles, tiny

from curate.clip import models
from curate.train import checkpoint, memory, run, sharding, towers
from curate.train.crew import Ring
from curate.train.objectives import clip
from curate.train.ranks import Ranks
from curate.train.step import AT_ONCE, How, adamw, gradient, train_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
PRECISIONS = [("fp32", 5e-3), ("bf16", 0.25)]  # and how far from the CPU's fp32 a gradient may be, of its length
ROOM = 260 << 20  # bytes: weights and AdamW's averages take 125 MB, the graph of 240 pairs 170 MB more
OPTIONS = {"model": "ViT-Ti-64", "batch_size": 48, "epochs": 4, "lr": 1e-3, "save_every": 5, "device": "cuda"}


@pytest.fixture(autouse=True)
def device():
    """What train-clip does first: fp32 is fp32 in convolutions, too."""
    models.torch_device("cuda")


def gradients(model, goal, how, device, pairs=None):
    """The loss, and the gradient of every weight in one row, on the CPU."""
    model, goal = model.to(device).train(), goal.to(device)
    loss = gradient(model, goal, pairs or seen(goal), how, 3)
    every = [p.grad.flatten() for p in (*model.parameters(), *goal.parameters()) if p.grad is not None]
    return loss.item(), torch.cat(every).double().cpu()


def assert_near(found, wanted, of):
    """Loss and gradient, relative to the length of the whole."""
    assert found[0] == pytest.approx(wanted[0], rel=of)
    assert (found[1] - wanted[1]).norm() < of * wanted[1].norm()


@pytest.mark.parametrize(("precision", "of"), PRECISIONS)
@pytest.mark.parametrize("spec", OBJECTIVES)
def test_a_step_of_every_objective_is_that_of_the_cpu(spec, precision, of):
    on_cpu, on_gpu = made(spec), made(spec)
    for module in (*on_cpu, *on_gpu):
        module.float()
    wanted = gradients(*on_cpu, How(), "cpu")
    assert_near(gradients(*on_gpu, How(precision, chunk=3, keep=1), "cuda"), wanted, of)


@pytest.mark.parametrize("change", ["drop_patches", "checkpoint_activations", "lay_channels_last"])
def test_and_so_is_one_with(change):
    found = []
    for device in ("cpu", "cuda"):
        model = tiny(config=RESNET if change == "lay_channels_last" else None)
        getattr(towers, change)(model, *([0.5] if change == "drop_patches" else []))
        found.append(gradients(model, clip.Objective(), How(chunk=4, keep=1), device, batch(8)))
    assert_near(found[1], found[0], PRECISIONS[0][1])


@compiles
@pytest.mark.parametrize(("precision", "of"), PRECISIONS)
@pytest.mark.parametrize("config", [None, RESNET])
def test_a_compiled_tower_takes_the_same_step(config, precision, of):
    how, found = How(precision, 4, 1), []
    for compiled in (False, True):
        model = tiny(config=config)
        if compiled:
            towers.compile_image_tower(model)
        found.append(gradients(model, clip.Objective(), how, "cuda", batch(8)))
    assert_near(found[1], found[0], of)


def three_steps(encode_of):
    model, goal = tiny().to("cuda"), clip.Objective()
    encode = encode_of(model)
    optimizer = adamw(model, 1e-3, 0.2)
    losses = [train_step(model, goal, optimizer, batch(12, step), 1e-3, How("bf16", 4, 1, 0.5, encode=encode), step)
              for step in range(3)]  # fmt: skip
    return losses, checkpoint.copied({"weights": model.state_dict(), "optimizer": optimizer.state_dict()})


def test_weights_shared_out_over_one_process_take_the_same_steps(tmp_path):
    whole, kept = three_steps(lambda model: AT_ONCE.encode)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        shared, kept_shared = three_steps(lambda model: sharding.shared_out(model, Ranks(0, 1, "cuda:0")))
    finally:
        dist.destroy_process_group()
    assert shared == pytest.approx(whole, rel=1e-2)
    for name, weight in kept["weights"].items():
        assert (kept_shared["weights"][name] - weight).abs().max() < 1e-2, name
    assert kept_shared["optimizer"]["state"].keys() == kept["optimizer"]["state"].keys()


def test_buffers_that_other_processes_map_are_pinned_and_let_go_of():
    for round in range(8):
        ring = Ring(2, 64, (3, 64, 64), 77, shared=True, pinned=True)
        assert all(tensor.is_pinned() for tensor in (*ring.pixels, *ring.tokens))
        ring.pixels[1].fill_(round)
        there = ring.pixels[1].to("cuda", non_blocking=True)
        torch.cuda.synchronize()
        assert (there == round).all()
        ring.close()
        assert not ring.pixels[0].is_pinned()
        del ring, there


@pytest.fixture
def data(make_dataset):
    return make_dataset([pair(index) for index in range(240)], per_shard=60).url


def losses(out):
    return [json.loads(line)["loss"] for line in Path(out, "log.jsonl").read_text().splitlines()]


def test_a_run_goes_on_where_it_was_stopped(data, tmp_path):
    whole, again = str(tmp_path / "whole"), str(tmp_path / "again")
    run([data], whole, workers=8, keep=9, **OPTIONS)  # from 8 on processes decode
    shutil.copytree(whole, again)
    for name in ("model.pt", "checkpoints/000000015.pt", "checkpoints/000000020.pt"):
        Path(again, name).unlink()
    run([data], again, workers=8, keep=9, **OPTIONS)
    assert losses(again) == pytest.approx(losses(whole), rel=0.05)


def test_a_batch_that_does_not_fit_is_taken_in_parts_as_planned(data, tmp_path, monkeypatch):
    options, plan, plans = {**OPTIONS, "batch_size": 240, "precision": "fp32"}, memory.plan, []
    run([data], str(tmp_path / "whole"), **options)

    def tight(needs, saved, samples, room):
        room = int((sum(needs) + 1.3 * (saved.fixed + 100 * saved.sample)) / memory.SPARE)
        plans.append(plan(needs, saved, samples, room))
        return plans[-1]

    monkeypatch.setattr(memory, "plan", tight)
    run([data], str(tmp_path / "parts"), **options)
    assert plans[0][0] < 100
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=0.02)


def test_a_step_that_runs_out_of_memory_is_taken_in_parts(data, tmp_path):
    options, said = {**OPTIONS, "batch_size": 240, "precision": "fp32"}, []
    run([data], str(tmp_path / "whole"), **options)
    gc.collect()
    torch.cuda.empty_cache()
    most = torch.cuda.memory_reserved() + ROOM
    torch.cuda.set_per_process_memory_fraction(most / torch.cuda.get_device_properties(0).total_memory)
    try:
        run([data], str(tmp_path / "parts"), note=said.append, **options)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("going on with" in line for line in said)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=0.02)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU here")
@pytest.mark.parametrize("more", [[], ["--fsdp"]])
def test_two_gpus_take_the_steps_of_one(data, tmp_path, start_together, more):
    run([data], str(tmp_path / "one"), precision="fp32", **OPTIONS)
    names = {"model": "--model", "batch_size": "--batch-size", "epochs": "--epochs", "lr": "--lr", "device": "--device"}
    options = [word for name, option in names.items() for word in (option, str(OPTIONS[name]))]
    together = functools.partial(start_together, 2, "train-clip", data, "--precision", "fp32", *options, *more)
    ended = [process.ended() for process in together("--out", str(tmp_path / "two"))]
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=0.05)
