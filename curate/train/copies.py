"""Copies of an image as the web makes them, to learn that they are one: cropped, shrunk, written on, compressed again.

After CLIP's own near-duplicate detector (Radford et al. 2021, appendix C: zoom and crop, aspect, resizing by a random
filter, minor rotation, JPEG, colour) and SSCD (Pizzi et al., CVPR 2022: overlays, text, screenshots). All chances and
sizes follow from one random number, so a copy depends on (seed, place) alone.
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch

from curate.train.crops import Crop

LARGEST = 2  # times the size that is trained on: larger pictures are reduced to it first
FILTERS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LANCZOS4)
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)
LETTERS = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 %!?."
GREY = np.array([0.299, 0.587, 0.114], np.float32)
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # RGB uint8 [h, w, 3] -> the same, of any size


def copied(image: np.ndarray, size: int, draws: np.ndarray) -> torch.Tensor:
    """RGB uint8 [h, w, 3] -> uint8 [3, size, size]: a changed copy, squashed. draws: one number in [0, 1)."""
    rng = np.random.default_rng(int(draws[0] * 2**53))
    picture = _reduced(image, LARGEST * size)
    for chance, change in CHANGES:
        if rng.random() < chance:
            picture = change(picture, rng)
    picture = cv2.resize(picture, (size, size), interpolation=_filter(picture, size, rng))
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))


def cropped(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A part, 30 to 100 % of the area, of about the same shape, anywhere."""
    height, width = picture.shape[:2]
    share, form = np.exp(rng.uniform(np.log(0.3), 0)), np.exp(rng.uniform(-0.25, 0.25))
    h, w = (
        max(8, int(min(side, side * (share * times) ** 0.5))) for side, times in ((height, 1 / form), (width, form))
    )
    top, left = int(rng.random() * max(1, height - h + 1)), int(rng.random() * max(1, width - w + 1))
    return picture[top : top + h, left : left + w]


def mirrored(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return picture[:, ::-1]


def turned(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """By 90, 180 or 270 degrees."""
    return np.rot90(picture, int(rng.integers(1, 4)))


def tilted(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """By up to 10 degrees; the corners are black, white or repeat the edge."""
    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-10, 10), rng.uniform(1, 1.15))
    border = (cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE)[rng.integers(2)]
    return cv2.warpAffine(np.ascontiguousarray(picture), turn, (width, height), flags=cv2.INTER_LINEAR,
                          borderMode=border, borderValue=(255,) * 3 if rng.random() < 0.3 else (0,) * 3)  # fmt: skip


def stretched(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Wider or higher by up to a half: what is around it later keeps that shape."""
    height, width = picture.shape[:2]
    form = np.exp(rng.uniform(-0.4, 0.4))
    return cv2.resize(picture, (max(8, round(width * form)), height), interpolation=cv2.INTER_LINEAR)


def shrunk(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """To a thumbnail of 24 to 96 pixels by any filter."""
    side = round(np.exp(rng.uniform(np.log(24), np.log(96))))
    return cv2.resize(picture, _size_of(picture, side), interpolation=_filter(picture, side, rng))


def coloured(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation changed by up to half."""
    light, contrast, colour = np.exp(rng.uniform(-0.45, 0.45, 3)).astype(np.float32)
    values = picture.astype(np.float32) * light
    values = (values - values.mean()) * contrast + values.mean()
    grey = (values @ GREY)[:, :, None]
    return np.clip(grey + (values - grey) * colour, 0, 255).astype(np.uint8)


def greyed(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.repeat((picture.astype(np.float32) @ GREY).astype(np.uint8)[:, :, None], 3, axis=2)


def blurred(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """By up to a fortieth of the longer side."""
    return cv2.GaussianBlur(np.ascontiguousarray(picture), (0, 0), rng.uniform(0.003, 0.025) * max(picture.shape))


def sharpened(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    soft = cv2.GaussianBlur(np.ascontiguousarray(picture), (0, 0), 1.5)
    return cv2.addWeighted(picture, 1 + (much := rng.uniform(0.5, 2)), soft, -much, 0)


def noisy(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(picture.shape, np.float32) * rng.uniform(3, 20)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def written_on(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One to three lines of text, with an outline half of the time."""
    picture = np.ascontiguousarray(picture).copy()
    height, width = picture.shape[:2]
    for _ in range(rng.integers(1, 4)):
        text = "".join(LETTERS[at] for at in rng.integers(0, len(LETTERS), rng.integers(3, 16)))
        font, scale = FONTS[rng.integers(len(FONTS))], rng.uniform(0.004, 0.012) * height / 1.5
        at = int(rng.uniform(-0.1, 0.7) * width), int(rng.uniform(0.1, 1) * height)
        thick = max(1, round(scale * 2))
        if rng.random() < 0.5:
            cv2.putText(picture, text, at, font, scale, _colour(rng), thick * 3, cv2.LINE_AA)
        cv2.putText(picture, text, at, font, scale, _colour(rng), thick, cv2.LINE_AA)
    return picture


def stamped(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A disc or a box with an edge, up to a quarter of the width: a logo."""
    picture = np.ascontiguousarray(picture).copy()
    height, width = picture.shape[:2]
    side = int(rng.uniform(0.08, 0.25) * min(height, width)) + 2
    x, y = int(rng.random() * width), int(rng.random() * height)
    for colour, reach in ((_colour(rng), side), (_colour(rng), side * 3 // 4)):
        if side % 2:
            cv2.circle(picture, (x, y), reach // 2, colour, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(picture, (x - reach // 2, y - reach // 3), (x + reach // 2, y + reach // 3), colour, -1)
    return picture


def framed(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A plain border: the same on all sides, or letterboxed."""
    height, width = picture.shape[:2]
    if rng.random() < 0.5:
        down = across = int(rng.uniform(0.02, 0.2) * min(height, width))
    else:
        down, across = (max(height, width) - height) // 2, (max(height, width) - width) // 2
    return cv2.copyMakeBorder(picture, down, down, across, across, cv2.BORDER_CONSTANT, value=_plain(rng))


def shown_in_a_page(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """On a page with bars and lines of text around it: a screenshot, or a picture in a collage."""
    height, width = picture.shape[:2]
    margins = (rng.uniform(0, 0.4, 4) * (height, height, width, width)).astype(int)
    top, bottom, left, right = margins.tolist()
    page = np.empty((top + height + bottom, left + width + right, 3), np.uint8)
    page[:] = _plain(rng)
    for _ in range(rng.integers(1, 7)):
        y, x = int(rng.random() * len(page)), int(rng.random() * page.shape[1] / 2)
        end = x + int(rng.random() * page.shape[1]), y + int(rng.uniform(0.01, 0.08) * len(page)) + 1
        cv2.rectangle(page, (x, y), end, _colour(rng), -1)
    page[top : top + height, left : left + width] = picture
    return page


def compressed(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As a JPEG of quality 8 to 95."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(8, 96))]
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_COLOR))


# in the order in which a picture meets them; half of the copies keep their sides, few are turned
CHANGES: list[tuple[float, Change]] = [
    (0.7, cropped), (0.4, mirrored), (0.15, turned), (0.2, tilted), (0.2, stretched), (0.5, coloured), (0.12, greyed),
    (0.15, blurred), (0.1, sharpened), (0.1, noisy), (0.2, stamped), (0.25, written_on), (0.2, framed),
    (0.2, shown_in_a_page), (0.25, shrunk), (0.4, compressed),
]  # fmt: skip


COPY = Crop(copied, 1)


def _reduced(image: np.ndarray, side: int) -> np.ndarray:
    """The longer side at most so many pixels, the shorter one at least 8."""
    if max(image.shape[:2]) <= side and min(image.shape[:2]) >= 8:
        return image
    return cv2.resize(image, _size_of(image, side), interpolation=cv2.INTER_AREA)


def _size_of(image: np.ndarray, side: int) -> tuple[int, int]:
    """(width, height) whose longer is `side`."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    return max(8, round(width * scale)), max(8, round(height * scale))


def _filter(picture: np.ndarray, size: int, rng: np.random.Generator) -> int:
    """Any filter, but seldom one that leaves pixels out."""
    chosen = int(rng.integers(len(FILTERS)))
    sparse = max(picture.shape[:2]) > 1.5 * size and FILTERS[chosen] != cv2.INTER_AREA
    return cv2.INTER_AREA if sparse and rng.random() < 0.7 else FILTERS[chosen]


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def _plain(rng: np.random.Generator) -> tuple[int, int, int]:
    """The colour of a page: white, black, grey or any."""
    level = (255, 0, int(rng.integers(0, 256)))[rng.integers(3)]
    return _colour(rng) if rng.random() < 0.2 else (level, level, level)
