"""CLIP scores of the pairs of a tar: `curate measure` against open_clip's README loop and against batches as in
clip-retrieval. CPU time, one thread each, in turn in one process.

    pip install scikit-image scikit-learn
    OMP_NUM_THREADS=1 python benchmarks/score_vs_open_clip.py [--model ViT-B-32] [--pairs 96] [--rounds 3]

Everyone starts from one tar of JPEGs (512 x 512 pixels, quality 95, random crops of the photographs that scikit-image
and scikit-learn carry) and captions (4 to 30 words), and ends with one score a pair. Weights are random, drawn once and
shared: the time does not depend on them; the differences of the scores do, so `curate verify` shows those of real ones.

- README loop: open_clip.create_model_and_transforms, PIL, one image and one text at a time, as its README has it.
- batches: the same transform and model, 32 at a time, as clip-retrieval's ClipMapper does.
- curate: signals/clip.py by curate.measure, from the shard to its parquet file, in fp32 and in bf16.
"""

import argparse
import datetime
import io
import json
import os
import platform
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import torch
from hashing_vs_peers import PHOTOS, processor
from PIL import Image

from curate import measure, named
from curate import shard as shards
from curate.clip import models
from curate.clip.model_config import find_config
from curate.dataset import Dataset
from curate.files import Folder

RESULTS = Path(__file__).parent / "results"
SIDE, BATCH = 512, 32
PACKAGES = ("torch", "torchvision", "open_clip_torch", "pillow", "simplejpeg")
WORDS = """a photo of the with and in on red blue green old new small large dog cat house river mountain street market
sunset portrait wooden table vintage poster detail handmade ceramic free shipping wallpaper 2019""".split()  # noqa: SIM905
Scores = np.ndarray  # float32 [pairs], in the order of the tar


def draw(folder: Path, count: int) -> Dataset:
    """A dataset of one shard."""
    rng = np.random.default_rng(0)
    photos = [photo for path in PHOTOS if min((photo := Image.open(path).convert("RGB")).size) >= SIDE]
    files, rows = [], []
    for number in range(count):
        photo = photos[number % len(photos)]
        x, y = rng.integers(0, photo.width - SIDE + 1), rng.integers(0, photo.height - SIDE + 1)
        buffer = io.BytesIO()
        photo.crop((x, y, x + SIDE, y + SIDE)).save(buffer, "JPEG", quality=95)
        key, url = f"{number:09d}", f"http://example.test/{number}"
        caption = " ".join(rng.choice(WORDS, min(30, 4 + rng.poisson(6))))
        files += [(f"{key}.jpg", buffer.getvalue()), (f"{key}.txt", caption.encode())]
        rows.append({"uid": shards.uid_of(url, caption), "key": key, "url": url, "caption": caption})
    shards.write(Folder(str(folder)), "00000", shards.tar_bytes(files), pa.Table.from_pylist(rows), {"count": count})
    return Dataset.open(str(folder))


def pairs(path: str) -> Iterator[tuple[bytes, str]]:
    with tarfile.open(path) as archive:
        image = b""
        for member in archive:
            content = archive.extractfile(member).read()
            if member.name.endswith(".jpg"):
                image = content
            else:
                yield image, content.decode()


class Peers:
    """open_clip as it comes, with the weights of a checkpoint."""

    def __init__(self, name: str, weights: str, path: str):
        self.model, _, self.transform = open_clip.create_model_and_transforms(name, pretrained=weights)
        self.model.eval()
        self.tokenizer, self.path = open_clip.get_tokenizer(name), path

    def readme(self) -> Scores:
        found = []
        for image, caption in pairs(self.path):
            pixels = self.transform(Image.open(io.BytesIO(image))).unsqueeze(0)
            text = self.tokenizer([caption])
            with torch.no_grad():
                image_features, text_features = self.model.encode_image(pixels), self.model.encode_text(text)
                image_features /= image_features.norm(dim=-1, keepdim=True)
                text_features /= text_features.norm(dim=-1, keepdim=True)
                found.append((image_features @ text_features.T).item())
        return np.array(found, np.float32)

    def batches(self) -> Scores:
        found, every = [], list(pairs(self.path))
        for start in range(0, len(every), BATCH):
            some = every[start : start + BATCH]
            pixels = torch.stack([self.transform(Image.open(io.BytesIO(image))) for image, _ in some])
            tokens = self.tokenizer([caption for _, caption in some])
            with torch.no_grad():
                image, text = self.model.encode_image(pixels), self.model.encode_text(tokens)
                image, text = (x / x.norm(dim=-1, keepdim=True) for x in (image, text))
                found += (image * text).sum(-1).tolist()
        return np.array(found, np.float32)


def curate(dataset: Dataset, name: str, weights: str, precision: str) -> Callable[[], Scores]:
    """The task of `curate measure` on the shard, its file written anew each time, the weights loaded before."""
    spec = named.parse(f"clip(model={name}, pretrained={weights}, device=cpu, precision={precision}, as={precision})")
    (shard,) = dataset.shards
    order = np.argsort(shard.rows()["key"].to_numpy(zero_copy_only=False))

    def run() -> Scores:
        dataset.folder.remove(f"signals/{precision}")
        measure.Measure((spec,))(shard)
        found = dataset.folder.read_table(f"signals/{precision}/00000.parquet")
        return found[precision].to_numpy()[order]

    return run


def in_turn(
    contestants: dict[str, Callable[[], Scores]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Scores]]:
    """CPU seconds of every round, the first left out; the scores."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    scores = {}
    for number in range(-1, rounds):
        for name, run in contestants.items():
            start = time.process_time()
            scores[name] = run()
            if number >= 0:
                seconds[name].append(time.process_time() - start)
    return seconds, scores


def table(seconds: dict[str, list[float]], scores: dict[str, Scores], count: int) -> dict[str, dict[str, float]]:
    """The median time and ratio over the rounds; the ratio of each round is taken within it."""
    first, rows = next(iter(seconds)), {}
    for name, times in seconds.items():
        ratios = [theirs / ours for ours, theirs in zip(times, seconds[first])]
        far = np.abs(scores[name] - scores[first])
        rows[name] = {
            "cpu_ms_a_pair": round(1000 * statistics.median(times) / count, 1),
            "times_the_readme_loop": round(statistics.median(ratios), 2),
            "least": round(min(ratios), 2), "most": round(max(ratios), 2),
            "largest_difference": float(f"{far.max():.2g}"), "mean_difference": float(f"{far.mean():.2g}"),
        }  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--pairs", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dataset = draw(Path(folder) / "data", options.pairs)
        torch.manual_seed(0)
        weights = f"{folder}/weights.pt"
        torch.save(models.build(find_config(options.model)[1]).state_dict(), weights)
        peers = Peers(options.model, weights, f"{folder}/data/shards/00000.tar")
        seconds, scores = in_turn({
            "README loop": peers.readme,
            f"batches of {BATCH}": peers.batches,
            "curate fp32": curate(dataset, options.model, weights, "fp32"),
            "curate bf16": curate(dataset, options.model, weights, "bf16"),
        }, options.rounds)  # fmt: skip
    rows = table(seconds, scores, options.pairs)
    for name, row in rows.items():
        print(f"{name:16}" + "".join(f"  {key} {value}" for key, value in row.items()))
    result = {
        "what": f"{options.model}, random weights: one tar of {SIDE} px JPEGs and captions to one score a pair; CPU "
                "time (process_time), one thread, interleaved",
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
                    "bf16": torch.cpu._is_avx512_bf16_supported(), "amx": torch.cpu._is_amx_tile_supported(),
                    "python": platform.python_version()},
        "versions": {name: version(name) for name in PACKAGES},
        "pairs": options.pairs, "rounds": options.rounds,
        "standard_deviation_of_scores": float(f"{scores['README loop'].std():.2g}"),
        "methods": rows,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "score_vs_open_clip.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
