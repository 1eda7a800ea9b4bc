"""What a step at batch 32,768 keeps in memory on one GPU, from measured bytes, and the chunks that train-clip chooses.

Bytes that autograd saves are counted on this machine with the model's real shapes under bf16 autocast, each storage
once (curate/train/memory.py); weights, gradients, AdamW, pixels, features and tiles of the loss are counted by size.
No GPU is used: temporaries of kernels are the allowance named `around`.

    python benchmarks/train_memory.py --out benchmarks/results/train_memory.json
"""

import argparse
import datetime
import itertools
import json
import os
import platform
from typing import Any

import numpy as np
import open_clip
import torch

from curate.clip import models
from curate.clip.encoders import embed_dim, image_size
from curate.clip.model_config import find_config
from curate.train import memory
from curate.train.loader import Batch
from curate.train.objectives import clip

BATCH = 32_768
GPU = 80 * 10**9  # bytes: the smallest of what cards of 80 GB report
WORDS = "a photograph of an old wooden boat on the shore of lake"  # 14 tokens with start and end; LAION's mean is 15.5
ENTRIES = {"ClipLoss, fp32": 12, "SigLipLoss, fp32": 15}  # bytes that open_clip's losses save for each logit


def row(name: str, samples: int, full_texts: bool) -> dict[str, Any]:
    """One model: measured bytes, what fits, the peak that follows."""
    config = find_config(name)[1]
    torch.manual_seed(0)
    model, goal = models.build(config), clip.Objective()
    tokens = models.tokenizer_of(config)([WORDS * (9 if full_texts else 1)] * samples)
    size = image_size(model)
    probe = Batch(torch.zeros(samples, 3, size, size, dtype=torch.uint8), tokens, np.arange(samples), [])
    saved = memory.saved_bytes(model, goal, probe, "bf16")
    needs = memory.parts(model, goal, BATCH, BATCH, 1, embed_dim(model), "cuda")
    chunk, keep = memory.plan(needs, saved, BATCH, GPU)
    graphs = BATCH if chunk is None else (keep + 1) * chunk
    peak = sum(needs) + memory.AROUND * (saved.fixed + graphs * saved.sample)
    return {
        "model": name,
        "text_tokens": int(tokens[0].argmax()) + 1,
        "saved_bytes_a_sample": saved.sample,
        "saved_bytes_fixed": saved.fixed,
        **{f"bytes_of_{part}": value for part, value in needs._asdict().items()},
        "chunk": chunk,
        "chunks_kept": keep,
        "samples_encoded_once": BATCH if chunk is None else keep * chunk,
        "peak_gb": round(peak / 1e9, 1),
        "fits_80_gb": peak < GPU,
        "all_at_once_gb": round((sum(needs) + saved.fixed + BATCH * saved.sample) / 1e9, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "RN50"])
    parser.add_argument("--samples", type=int, default=3, help="Measured on a third of them and on all.")
    parser.add_argument("--out", default=None)
    options = parser.parse_args()
    rows = []
    for name, full in itertools.product(options.models, (False, True)):
        found = row(name, options.samples, full)
        rows.append(found)
        print(
            f"{found['model']:9} {found['text_tokens']:3} tokens: {found['saved_bytes_a_sample'] / 2**20:6.1f} MiB a "
            f"sample, chunk {found['chunk']}, {found['chunks_kept']} kept, peak {found['peak_gb']} GB of 80 "
            f"({found['all_at_once_gb']:,} GB at once)",
            flush=True,
        )
    result = {
        "batch": BATCH,
        "gpu_bytes": GPU,
        "share_planned_with": memory.SPARE,
        "around": memory.AROUND,
        "rows": rows,
        "loss_gb": {
            "tiled": memory.TILES * memory.TILE["cuda"] * 4 / 1e9,
            **{f"open_clip {name}": count * BATCH**2 / 1e9 for name, count in ENTRIES.items()},
        },
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, no GPU",
        "load": os.getloadavg()[0],
        "versions": {"torch": torch.__version__, "open_clip": open_clip.__version__},
        "date": datetime.date.today().isoformat(),
    }
    if options.out:
        with open(options.out, "w") as file:
            json.dump(result, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
