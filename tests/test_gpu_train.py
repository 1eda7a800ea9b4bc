"""Speed and memory of training on a GPU: `make gpu-check` prints them and keeps them in benchmarks/results/."""

import datetime
import json
import os
import time
from pathlib import Path

import pytest
import torch
from conftest import draw, encoded, pair, write_shard

from curate.clip import models
from curate.clip.model_config import find_config
from curate.dataset import Dataset
from curate.files import Folder
from curate.train import checkpoint, flops, index, run, sources
from curate.train.loader import Loader

RESULT = Path(__file__).parent.parent / "benchmarks" / "results" / "train_gpu.json"
PAIRS, SIDE = 32_768, 256


def drawn(folder: Path, pairs: int, side: int = SIDE) -> Dataset:
    """As many pairs with 64 distinct pictures: what decoding costs, in little time."""
    known = [pair(seed) | {"image": encoded(draw("red", "circle", seed, side))} for seed in range(64)]
    for shard in range(8):
        numbers = range(shard * pairs // 8, (shard + 1) * pairs // 8)
        rows = [known[number % 64] | {"key": f"{number:06d}", "url": str(number)} for number in numbers]
        write_shard(Folder(str(folder)), f"{shard:05d}", rows)
    return Dataset.open(str(folder))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("large") / "dataset", PAIRS)


def trained(data, out: Path, device: str, model: str, batch: int, steps: int) -> dict:
    """Samples a second, share of time without data, FLOP/s and loss of the second half of some steps; peak memory."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    samples = len(data.shards) * data.shards[0].rows().num_rows
    run([data.url], str(out), model=model, batch_size=batch, epochs=steps * batch / samples, warmup=1, device=device)
    lines = [line for line in checkpoint.lines(Folder(str(out)), checkpoint.TIMINGS) if line["step"] > steps / 2]
    seconds = sum(line["seconds"] for line in lines)
    losses = [line["loss"] for line in checkpoint.lines(Folder(str(out)), checkpoint.LOG)]
    return {
        "model": model,
        "batch": batch,
        "samples_per_s": round(sum(line["steps"] for line in lines) * batch / seconds, 1),
        "data_wait": round(sum(line["data_wait"] for line in lines) / seconds, 3),
        "flops": sum(line["flops"] * line["seconds"] for line in lines) / seconds,
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if device == "cuda" else None,
        "losses": [round(losses[0], 3), round(losses[-1], 3)],
    }


def loader_rate(data, cache: Path, model: str, batch: int, batches: int, pinned: bool) -> float:
    """Samples a second of the loader alone, all cores of this machine."""
    config = find_config(model)[1]
    pairs = index.build(sources.of([data.url], None), Folder(str(cache)))
    loader = Loader(pairs, models.tokenizer_of(config), config["vision_cfg"]["image_size"], batch, pinned=pinned)
    found = iter(loader.batches(0, batches + 2))
    next(found), next(found)  # threads and processes have started
    start = time.perf_counter()
    return sum(len(one.pixels) for one in found) / (time.perf_counter() - start)


@pytest.mark.slow
def test_what_is_measured_on_a_gpu_is_measured_on_a_cpu_too(tmp_path):
    data = drawn(tmp_path / "dataset", 128, 64)
    found = trained(data, tmp_path / "run", "cpu", "ViT-Test-32", 16, 4)
    assert found["samples_per_s"] > 0
    assert found["flops"] > 0
    assert loader_rate(data, tmp_path / "cache", "ViT-Test-32", 16, 4, False) > 0


@pytest.fixture
def keep():
    """Adds what was measured to the result, under its name."""

    def add(name: str, found: dict) -> None:
        before = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
        about = {
            "date": datetime.date.today().isoformat(),
            "gpu": torch.cuda.get_device_name(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
        }
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps({**before, name: {**about, **found}}, indent=1) + "\n")

    return add


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("batch", [2048, 32_768])
@pytest.mark.parametrize("model", ["ViT-B-32", "RN50"])
def test_training_fits_and_says_how_fast_it_is(large, tmp_path, capsys, keep, model, batch):
    found = trained(large, tmp_path / "run", "cuda", model, batch, max(6, 65_536 // batch))
    alone = loader_rate(large, tmp_path / "cache", model, 2048, 12, True)
    peak = flops.peak(torch.device("cuda"), "bf16")
    found |= {"loader_alone_per_s": round(alone, 1), "mfu": round(found["flops"] / peak, 4) if peak else None}
    keep(f"{model}, batch {batch}", found)
    with capsys.disabled():
        print(f"\n{model}, batch {batch:,}, {torch.cuda.get_device_name()}: {found['samples_per_s']:,.0f} samples/s, "
              f"MFU {found['mfu']}, peak {found['peak_gb']} GB, data wait {found['data_wait']:.0%}, loader alone "
              f"{alone:,.0f}/s")  # fmt: skip
    assert found["losses"][1] < 1.2 * found["losses"][0]
    assert found["peak_gb"] * 1e9 < torch.cuda.get_device_properties(0).total_memory
