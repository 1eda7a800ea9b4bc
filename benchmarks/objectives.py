"""CLIP's figure 2 at small scale: which objective learns to classify without examples from the fewest images.

Drawn shapes of 24 kinds (6 colours, 4 shapes) with captions of several wordings; the same images, order, image tower
and schedule for every objective, and only the loss differs. After some thousands of images each model names 480 new
drawings: CLIP and SigLIP by the nearest text, the others by how probable they find the class name.

    python benchmarks/objectives.py

The paper's result on 400 million pairs: bag of words learns 3 times as fast as a language model, contrast 4 times as
fast as bag of words. Accuracies do not depend on the machine.
"""

import argparse
import datetime
import json
import random
import statistics
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from curate import named
from curate.clip import models
from curate.evaluate.judge import Judge
from curate.evaluate.zero_shot import classifier
from curate.train import towers
from curate.train.loader import Batch
from curate.train.step import adamw, learning_rate, train_step

RESULTS = Path(__file__).parent / "results" / "objectives.json"
OBJECTIVES = ("clip", "siglip", "bag-of-words", "ngrams(longest=3)", "captioning")
COLOURS = ("red", "green", "blue", "orange", "purple", "black")
SHAPES = ("circle", "square", "triangle", "cross")
WORDINGS = ("a {}", "a photo of a {}", "{} on white paper", "my drawing of the {}", "look, a {}!", "one {} number {n}")
MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 2, "width": 64, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
SIDE, TEST, RATE = 32, 480, 2e-3


def drawing(colour: str, shape: str, rng: random.Random) -> np.ndarray:
    """uint8 [3, 32, 32]: a shape at a random place and of a random size, on a light ground."""
    image = Image.new("RGB", (SIDE, SIDE), tuple(rng.randrange(200, 256) for _ in range(3)))
    pen, reach = ImageDraw.Draw(image), rng.uniform(5, 11)
    x, y = (rng.uniform(reach, SIDE - reach) for _ in range(2))
    box = (x - reach, y - reach, x + reach, y + reach)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    elif shape == "triangle":
        pen.polygon([(x, box[1]), (box[0], box[3]), (box[2], box[3])], fill=colour)
    else:
        pen.line((box[0], y, box[2], y), fill=colour, width=5)
        pen.line((x, box[1], x, box[3]), fill=colour, width=5)
    return np.asarray(image).transpose(2, 0, 1)


def drawn(number: int, seed: str) -> tuple[torch.Tensor, list[str], list[int]]:
    """(pixels, captions, kinds) of so many drawings."""
    rng, pixels, captions, kinds = random.Random(seed), [], [], []
    for n in range(number):
        kind = n % (len(COLOURS) * len(SHAPES))
        colour, shape = COLOURS[kind // len(SHAPES)], SHAPES[kind % len(SHAPES)]
        pixels.append(drawing(colour, shape, rng))
        captions.append(rng.choice(WORDINGS).format(f"{colour} {shape}", n=n))
        kinds.append(kind)
    return torch.from_numpy(np.stack(pixels)), captions, kinds


def accuracy(model: Any, objective: str, goal: Any, tokenizer: Any, seed: int) -> float:
    """Share of new drawings whose kind is the one named."""
    pixels, _, kinds = drawn(TEST, f"test {seed}")
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    pictures = list(pixels.permute(0, 2, 3, 1).numpy())
    seen = models.ClipModel("objectives", model, tokenizer, {}, torch.device("cpu"))  # as `curate eval` sees it
    if hasattr(goal, "scores"):
        scores = Judge(seen, objective, goal).scores(pictures, [[f"a {name}"] for name in names])
    else:
        scores = seen.encode_images(pictures) @ classifier(seen, names, ["a {c}"]).T
    return float((scores.argmax(axis=1) == np.array(kinds)).mean())


def curve(objective: str, seed: int, steps: int, size: int, points: list[int]) -> list[float]:
    """Accuracy after each of `points` steps."""
    goal, tokenizer = named.load("train.objectives", objective), models.tokenizer_of(MODEL)
    torch.manual_seed(seed)
    model = models.build({**MODEL, **goal.model_options})
    pixels, captions, _ = drawn(steps * size, f"train {seed}")
    if hasattr(goal, "fit"):
        goal.fit(model, captions, tokenizer)
    if "text" not in goal.needs:
        towers.lock(model, "text")
    order = np.random.default_rng(seed).permutation(len(captions))
    optimizer, found = adamw(model, RATE, 0.1, goal), []
    for step in range(steps):
        rows = order[step * size : (step + 1) * size]
        batch = Batch(pixels[rows], tokenizer([captions[row] for row in rows]), rows, [])
        train_step(model, goal, optimizer, batch, learning_rate(step, steps, RATE, 10), seed=step)
        if step + 1 in points:
            found.append(round(accuracy(model, objective, goal, tokenizer, seed), 4))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--points", type=int, nargs="+", default=[15, 30, 60, 120], help="Steps; the last one ends.")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "versions": {name: version(name) for name in ("torch", "open_clip_torch")},
        "images": [point * options.batch_size for point in options.points],
        "classes": len(COLOURS) * len(SHAPES),
        "test_images": TEST,
        "seeds": options.seeds,
        "accuracy": {},
    }
    for objective in OBJECTIVES:
        curves = [curve(objective, seed, options.points[-1], options.batch_size, options.points)
                  for seed in range(options.seeds)]  # fmt: skip
        result["accuracy"][objective] = {"mean": [round(statistics.mean(at), 4) for at in zip(*curves, strict=True)],
                                         "seeds": curves}  # fmt: skip
        sys.stdout.write(f"{objective:18} {result['accuracy'][objective]['mean']}\n")
        sys.stdout.flush()
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
