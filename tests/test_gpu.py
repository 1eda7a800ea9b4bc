"""What only a GPU can prove: the same answers as on the CPU. `make gpu-check` runs these."""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw, encoded, pair
from torch.utils.flop_counter import FlopCounterMode

from curate import images
from curate.clip import encoders, models
from curate.clip.model_config import find_config
from curate.dataset import Dataset
from curate.dedup import run as dedup
from curate.dedup.search import CosineIndex, HammingIndex
from curate.measure import measure
from curate.train import run as train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.fixture
def trained(make_dataset, tmp_path):
    """A small model trained on the GPU, and the dataset it was trained on."""
    data = make_dataset([pair(index) for index in range(240)], per_shard=60)
    options = {"model": "ViT-Ti-64", "batch_size": 48, "epochs": 12, "lr": 1e-3, "workers": 2, "save_every": 20}
    _, numbers, failures = train((data.url,), str(tmp_path / "run"), device="cuda", **options)
    return data, str(tmp_path / "run"), numbers, failures


def test_the_loss_falls_on_the_gpu(trained):
    _, run, _, failures = trained
    assert not failures
    losses = [json.loads(line)["loss"] for line in Path(run, "log.jsonl").read_text().splitlines()]
    first, last = np.mean(losses[:3]), np.mean(losses[-3:])
    assert last < 0.8 * first


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-3), ("bf16", 3e-2)])
def test_features_on_the_gpu_are_those_of_the_cpu(trained, precision, tolerance):
    _, run, _, _ = trained
    images = [np.random.default_rng(seed).integers(0, 255, (90, 70, 3), np.uint8) for seed in range(8)]
    texts = ["a red circle", "a blue square", "nothing at all"]
    on_cpu, on_gpu = models.load(None, run, "cpu"), models.load(None, run, "cuda", precision)
    assert np.abs(on_cpu.encode_images(images) - on_gpu.encode_images(images)).max() < tolerance
    assert np.abs(on_cpu.encode_texts(texts) - on_gpu.encode_texts(texts)).max() < tolerance


def test_scores_on_the_gpu_are_those_of_the_cpu(trained):
    data, run, _, _ = trained
    both = measure(data, [f"clip(pretrained={run}, device=cpu, as=slow)", f"clip(pretrained={run}, device=cuda)"],
                   "local(workers=0)")  # fmt: skip
    table = both.joined(both.shards[0])
    assert np.abs(table["clip"].to_numpy() - table["slow"].to_numpy()).max() < 2e-3


@pytest.fixture
def faiss_gpu():
    faiss = pytest.importorskip("faiss")
    if not hasattr(faiss, "StandardGpuResources"):
        pytest.skip("faiss-cpu is installed, not faiss-gpu: pip uninstall faiss-cpu; pip install 'curate[gpu]'")


def test_faiss_on_the_gpu_finds_what_it_finds_on_the_cpu(faiss_gpu):
    rng = np.random.default_rng(0)
    benchmark = rng.normal(size=(3000, 128)).astype(np.float32)
    near = benchmark[rng.integers(0, 3000, 5000)] + 0.2 * rng.normal(size=(5000, 128)).astype(np.float32)
    vectors, queries = (array / np.linalg.norm(array, axis=1, keepdims=True) for array in (benchmark, near))
    vectors[:200] = vectors[0]  # more equal neighbours than the GPU is asked for at once
    on_gpu, on_cpu = (CosineIndex(vectors, device).near(queries, 0.9) for device in ("cuda", "cpu"))
    assert len(on_cpu[0]) > 1000
    for left, right in zip(on_gpu, on_cpu, strict=True):
        assert np.array_equal(left, right)


def test_bits_on_the_gpu_are_near_what_they_are_near_on_the_cpu(faiss_gpu):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (3000, 32), np.uint8)
    codes[:200] = codes[0]  # more equal neighbours than the GPU is asked for at once
    queries = codes[rng.integers(0, 3000, 5000)]
    for flip in range(40):  # up to 40 bits: some within the threshold, some beyond
        queries[rng.random(5000) < 0.8, flip % 32] ^= np.uint8(1 << (flip // 32))
    on_gpu = HammingIndex(codes, "cuda")
    assert on_gpu.gpu is not None
    found, expected = on_gpu.near(queries, 31), HammingIndex(codes, "cpu").near(queries, 31)
    assert len(expected[0]) > 1000
    assert len(np.unique(expected[0])) < 5000
    for left, right in zip(found, expected, strict=True):
        assert np.array_equal(left, right)


def test_dedup_on_the_gpu_finds_what_it_finds_on_the_cpu(faiss_gpu, make_dataset, tmp_path):
    data = make_dataset([pair(index) for index in range(60)])
    (tmp_path / "set").mkdir()
    for index in range(0, 60, 4):
        (tmp_path / f"set/{index}.jpg").write_bytes(pair(index)["image"])
    found = []
    for device in ("cuda", "cpu"):
        dedup(data, ["phash"], against=[str(tmp_path / "set")], against_signals=["pdq", "embedding(device=cpu)"],
              device=device, engine="local(workers=2)", name=f"by-{device}")  # fmt: skip
        folder = Dataset.open(data.url).folder
        found.append(
            [folder.read_table(name).to_pylist() for name in folder.names(f"selections/by-{device}/*.parquet")]
        )
        shutil.rmtree(tmp_path / "dataset/work", ignore_errors=True)
    assert found[0] == found[1]
    assert any(row["weight"] == 0 for table in found[0] for row in table)


def test_embeddings_on_the_gpu_are_those_of_the_cpu(make_dataset):
    data = make_dataset([pair(index) for index in range(60)])
    both = measure(data, ["embedding(device=cpu, as=slow)", "embedding(device=cuda)"], "local(workers=0)")
    for shard in both.shards:
        slow, quick = (both.folder.read_array(f"signals/{name}/{shard.name}.npy") for name in ("slow", "embedding"))
        assert np.abs(slow.astype(np.float32) - quick.astype(np.float32)).max() < 2e-3


def rate(work, count: int, rounds: int = 3) -> float:
    """How many of `count` a second, the best of the rounds after a first one."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return count / min(seconds[1:])


def gpu_rates(model: models.ClipModel, batch: int) -> tuple[float, float]:
    """(images a second, FLOP/s) of the image tower on pixels that lie on the device already."""
    pixels = torch.randint(0, 255, (batch, 3, model.image_size, model.image_size), dtype=torch.uint8)
    pixels = pixels.to(model.device)

    @torch.inference_mode()
    def work() -> None:
        encoders.encode_image(model.model, encoders.normalised(pixels, model.model), model.ready["image"])[0, 0].item()

    with FlopCounterMode(display=False) as counted:
        work()
    images = rate(work, batch)
    return images, images * counted.get_total_flops() / batch


def matmul_flops(device: torch.device, side: int = 8192) -> float:
    """FLOP/s of one large bf16 product: what the model's share is taken of."""
    left = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    return rate(lambda: (left @ left)[0, 0].item(), 2 * side**3)


def loader_rate(data, size: int) -> float:
    """Images a second from the tar to small uint8 pixels, by as many threads as measuring has."""
    (shard,) = data.shards
    with shard.images() as files, ThreadPoolExecutor(os.cpu_count()) as pool:
        every = list(files.values())
        return rate(lambda: list(pool.map(lambda file: encoders.resized(images.decode(file), size), every)), len(every))


def test_scoring_keeps_up_with_its_slower_side(make_dataset, tmp_path, capsys):
    torch.manual_seed(0)
    torch.save(models.build(find_config("ViT-B-32")[1]).state_dict(), tmp_path / "weights.pt")
    drawn = [encoded(draw("red", "circle", seed, 512)) for seed in range(32)]
    data = make_dataset([pair(index) | {"image": drawn[index % 32]} for index in range(4096)], per_shard=4096)
    spec = f"clip(model=ViT-B-32, pretrained={tmp_path}/weights.pt, device=cuda, precision=auto, as=%s)"
    measure(data, [spec % "warm"], "local(workers=0)")
    start = time.perf_counter()
    measure(Dataset.open(data.url), [spec % "timed"], "local(workers=0)")
    whole = 4096 / (time.perf_counter() - start)
    model = models.load("ViT-B-32", str(tmp_path / "weights.pt"), "cuda", "auto")
    gpu, flops = gpu_rates(model, models.IMAGES_GPU)
    loader, peak = loader_rate(data, model.image_size), matmul_flops(model.device)
    with capsys.disabled():
        print(f"\nclip ViT-B-32 {model.precision} on {torch.cuda.get_device_name()}, {os.cpu_count()} cores: "
              f"{whole:,.0f} images/s from tar to score; GPU alone {gpu:,.0f}/s, MFU "
              f"{flops / peak:.0%} of a large bf16 product; loader alone {loader:,.0f}/s; the limit is the "
              f"{'loader' if loader < gpu else 'GPU'}")  # fmt: skip
    assert whole > 0.25 * min(gpu, loader)
