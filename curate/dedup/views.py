"""The views of a benchmark image that a copy may show: parts of several sizes, tilted, turned, mirrored, unframed.

All views are on the benchmark's side, which is small; the pool is looked at as it is.
"""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from curate.signals.trimmed import trimmed

LARGEST_FOR_BITS, LARGEST_FOR_VECTORS = 256, 512  # pixels on the longer side of the picture that views are cut from
PARTS = ((2, 0.949), (3, 0.866), (4, 0.707))  # along a side, and their share of it: 90, 75 and 50 % of the area
TILTS = (-10, -5, 5, 10)  # degrees
SMALLEST = 32  # pixels on a side of a part
WHOLE, TRIMMED = "whole", "trimmed"
# as pdqhash.compute_dihedral orders them
TURNS = ("", "turned 90", "turned 180", "turned 270", "flipped", "mirrored", "diagonal", "antidiagonal")
MIRRORED = TURNS.index("mirrored")
ALL, AS_IS, BOTH = tuple(range(8)), (0,), (0, MIRRORED)


class View(NamedTuple):
    """A picture, RGB uint8 [height, width, 3], and which of the eight TURNS of it to look for."""

    name: str
    pixels: np.ndarray
    turns: tuple[int, ...]


def of_bits(pixels: np.ndarray) -> Iterator[View]:
    """For hashes: 35 views and one without the border where there is one. The whole picture in all turns, its parts
    and tilts as they are and mirrored."""
    picture = _reduced(pixels, LARGEST_FOR_BITS)
    yield View(WHOLE, pixels, ALL)
    yield from (View(TRIMMED, inside, ALL) for inside in _inside(picture))
    yield from (View("square", square, ALL) for square in _square(picture, pixels))
    yield from (View(name, part, BOTH) for number, share in PARTS for name, part in _grid(picture, number, share))
    yield from (View(f"tilted {angle}", _tilted(picture, angle), BOTH) for angle in TILTS)


def of_vectors(pixels: np.ndarray) -> Iterator[View]:
    """For networks, which cost a hundred times as much and mind crops less: the whole, its square, its quarters."""
    picture = _reduced(pixels, LARGEST_FOR_VECTORS)
    yield View(WHOLE, pixels, AS_IS)
    yield from (View(TRIMMED, inside, AS_IS) for inside in _inside(picture))
    yield from (View("square", square, AS_IS) for square in _square(picture, pixels))
    yield from (View(name, part, AS_IS) for name, part in _grid(picture, 2, PARTS[-1][1]))


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """The picture under TURNS[turn], so that its PDQ is pdq_dihedral's row `turn`."""
    across = pixels.transpose(1, 0, 2)
    found = (pixels, across[::-1], pixels[::-1, ::-1], across[:, ::-1],
             pixels[::-1], pixels[:, ::-1], across, across[::-1, ::-1])[turn]  # fmt: skip
    return np.ascontiguousarray(found)


def called(name: str, turn: int) -> str:
    """ "part 0 1 of 2 x 2 at 71 %, mirrored"."""
    return f"{name}, {TURNS[turn]}" if turn else name


def _reduced(pixels: np.ndarray, largest: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = largest / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _inside(picture: np.ndarray) -> list[np.ndarray]:
    found = trimmed(picture)
    return [] if found is None else [found]


def _square(picture: np.ndarray, whole: np.ndarray) -> list[np.ndarray]:
    """The middle of the picture, or nothing where that is the whole, which is looked for anyway."""
    height, width = picture.shape[:2]
    side = min(height, width)
    if whole.shape[:2] == (side, side):
        return []
    top, left = (height - side) // 2, (width - side) // 2
    return [np.ascontiguousarray(picture[top : top + side, left : left + side])]


def _grid(picture: np.ndarray, number: int, share: float) -> Iterator[tuple[str, np.ndarray]]:
    """number x number parts, evenly spread, each `share` of the height and of the width."""
    height, width = picture.shape[:2]
    down, across = round(height * share), round(width * share)
    if min(down, across) < SMALLEST:
        return
    for row in range(number):
        for column in range(number):
            top = round((height - down) * row / (number - 1))
            left = round((width - across) * column / (number - 1))
            name = f"part {row + 1},{column + 1} of {number} x {number} at {share**2:.0%}"
            yield name, np.ascontiguousarray(picture[top : top + down, left : left + across])


def _tilted(picture: np.ndarray, angle: float) -> np.ndarray:
    """Turned by a few degrees about its middle; the corners repeat the border."""
    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    return cv2.warpAffine(picture, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
