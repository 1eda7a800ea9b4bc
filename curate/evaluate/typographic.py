"""Typographic attack: the name of a wrong class, written on the image, and how many images the model takes for it.

Goh et al. 2021, Multimodal Neurons in Artificial Neural Networks: an apple with a label that says "iPod" is an iPod.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
import xxhash
from PIL import Image, ImageDraw, ImageFont

from curate.benchmark import BenchmarkSample
from curate.clip.encoders import resized
from curate.evaluate.interval import difference, proportion

WIDTH, HEIGHT = 0.8, 0.2  # of the picture: the most that the words may take
MIDDLE = 0.75  # of the height: where the label lies
MARGIN = 0.25  # of the height of the letters, around them
SMALLEST = 6  # pixels: letters are not made smaller, long names run out of the label instead
PANEL, LINE = 200, 18  # pixels of the picture of examples
EXAMPLES = 6


@dataclass(frozen=True)
class Written:
    """Writes the wrong class of each image on what the model sees of it: pixels RGB uint8 [h, w, 3] -> [size, size, 3].

    A white label with black letters, in the middle of the width, three quarters down.
    """

    classnames: tuple[str, ...]
    size: int
    squash: bool
    seed: int = 0

    @property
    def made_by(self) -> list[Any]:
        """Changes with anything that changes the picture."""
        return ["typographic", *self.classnames, self.size, self.squash, self.seed, PIL.__version__]

    def word(self, key: str, label: int) -> int:
        """The class whose name is written: any but the right one, by a hash of key and seed."""
        drawn = xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"), self.seed) % (len(self.classnames) - 1)
        return drawn + (drawn >= label)

    def seen(self, pixels: np.ndarray) -> np.ndarray:
        """The picture as the model sees it, without the word."""
        return np.ascontiguousarray(resized(pixels, self.size, self.squash).permute(1, 2, 0).numpy())

    def __call__(self, sample: BenchmarkSample, pixels: np.ndarray) -> np.ndarray:
        if sample.label is None:
            return pixels
        return labelled(self.seen(pixels), self.classnames[self.word(sample.key, sample.label)])


def labelled(pixels: np.ndarray, word: str) -> np.ndarray:
    """RGB uint8 [s, s, 3] with a word on it."""
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    width, height = image.size
    font = _font(pen, word, WIDTH * width, HEIGHT * height)
    left, top, right, bottom = pen.textbbox((width / 2, MIDDLE * height), word, font, "mm")
    around = max(1, round(MARGIN * (bottom - top)))
    pen.rectangle((left - around, top - around, right + around, bottom + around), "white")
    pen.text((width / 2, MIDDLE * height), word, "black", font, "mm")
    return np.array(image)


def fooled(before: np.ndarray, after: np.ndarray, labels: np.ndarray, words: np.ndarray) -> dict[str, Any]:
    """Of predictions int [n] before and after the words (int [n]: their classes) were written: accuracy both times,
    what it lost, and the share of images taken for the written word, beside the share taken for it without the word."""
    total = len(labels)
    right, still, follows = before == labels, after == labels, after == words
    found = {
        "images": total,
        "before": proportion(int(right.sum()), total),
        "after": proportion(int(still.sum()), total),
        "lost": difference((int(right.sum()), total), (int(still.sum()), total)),
        "follow_the_word": proportion(int(follows.sum()), total),
        "same_without_the_word": proportion(int((before == words).sum()), total),
    }
    if right.any():
        found["right_ones_that_follow"] = proportion(int((right & follows).sum()), int(right.sum()))
    return found


def examples(before: np.ndarray, after: np.ndarray, labels: np.ndarray, words: np.ndarray) -> list[int]:
    """Images to show: first those that were right and follow the word, then those that changed, then others."""
    wanted = ((before == labels) & (after == words), after == words, before != after)  # each implies the next
    return [int(at) for at in np.argsort(-np.sum(wanted, axis=0), kind="stable")[:EXAMPLES]]


def sheet(pairs: Sequence[tuple[np.ndarray, np.ndarray]], captions: Sequence[tuple[str, str]]) -> Image.Image:
    """One row for each pair of pictures (without and with the word) and what the model takes them for."""
    page = Image.new("RGB", (2 * PANEL + 30, len(pairs) * (PANEL + 2 * LINE + 10) + 10), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for row, (pictures, told) in enumerate(zip(pairs, captions, strict=True)):
        top = 10 + row * (PANEL + 2 * LINE + 10)
        for column, (pixels, words) in enumerate(zip(pictures, told, strict=True)):
            left = 10 + column * (PANEL + 10)
            page.paste(Image.fromarray(pixels).resize((PANEL, PANEL), Image.Resampling.BICUBIC), (left, top))
            for line, text in enumerate(words.split("\n")):
                pen.text((left, top + PANEL + 2 + line * LINE), _cut(pen, text, font), "black", font)
    return page


def _cut(pen: ImageDraw.ImageDraw, text: str, font: Any) -> str:
    while len(text) > 1 and pen.textlength(text, font) > PANEL:
        text = text[:-2].rstrip() + "…"
    return text


def _font(pen: ImageDraw.ImageDraw, word: str, width: float, height: float) -> Any:
    """Pillow's own scalable font in the largest whole size with which the word fits."""
    size = max(SMALLEST, int(height))
    while size > SMALLEST and pen.textlength(word, ImageFont.load_default(size)) > width:
        size -= 1
    return ImageFont.load_default(size)
