"""Whether two pictures show the same by their local features: a part, a screenshot or a frame holds the same corners.

Method: ORB features (E. Rublee et al., ICCV 2011), an affine map fitted to their matches by RANSAC, and the grey levels
of both pictures compared where the map lays one over the other. Measured on 384 copies of photographs under 32 changes
(half of the area, screenshots, frames, blur ...): 99 % pass; of 4,200 unlike pairs, chosen for the nearest hashes,
none, though ten of those have 15 inliers.
"""

from typing import NamedTuple

import cv2
import numpy as np

from curate import images
from curate.dedup.faiss_install import load_search

SIDE = 384  # pixels on the longer side of the picture that features are looked for in
FEATURES = 500
RATIO = 0.8  # of the distance to the second nearest feature: Lowe's test
INLIERS = 15  # least number of features that one map explains
AGREEING = 0.6  # least share of them in all that match: two coats on one floor have the floor alone in common
CORRELATION = 0.85  # least correlation of the grey levels where the pictures overlap
MANY, LOOSER = 60, 0.5  # with so many inliers a lower correlation will do: stripes and light move it
REACH = 5.0  # pixels that an inlier may lie off
STRETCH, ZOOM = 2.5, 8.0  # most of a map: one side against the other, one picture against the other
SHRUNK = 1 / 4  # of a side: the picture whose grey levels are compared
LEAST = 0.1  # share of the benchmark's picture that must be seen
# all but one of 630 copies of photographs under 32 changes have fewer such blocks, of 13 pairs of garments that lie on
# one background two
BLOCK, PLAIN, UNLIKE, MOST_UNLIKE = 8, 6.0, 0.4, 0.22  # pixels, levels, correlation, share of the blocks
MADE_BY = {"features": 2, "inliers": INLIERS, "correlation": CORRELATION, "opencv": cv2.__version__}


class Features(NamedTuple):
    """grey: uint8 [h, w]. small: the same at a quarter of the size. points: float32 [n, 2], x and y. descriptors: uint8
    [n, 32]."""

    grey: np.ndarray
    small: np.ndarray
    points: np.ndarray
    descriptors: np.ndarray


def features(pixels: np.ndarray) -> Features:
    """The corners of RGB uint8 [height, width, 3]."""
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    grey = cv2.resize(images.grey(pixels), size, interpolation=how)
    small = cv2.resize(grey, None, fx=SHRUNK, fy=SHRUNK, interpolation=cv2.INTER_AREA)
    points, descriptors = cv2.ORB.create(FEATURES, fastThreshold=7).detectAndCompute(grey, None)
    if descriptors is None:
        return Features(grey, small, np.zeros((0, 2), np.float32), np.zeros((0, 32), np.uint8))
    return Features(grey, small, np.array([point.pt for point in points], np.float32), descriptors)


def inliers(benchmark: Features, pool: Features, everywhere: bool = False) -> int:
    """How many features say that the pool's picture shows what the benchmark's does; 0 where the map is no copy's or
    the grey levels differ, in all or, with `everywhere`, in too many places: one background is no copy."""
    if min(len(benchmark.points), len(pool.points)) < INLIERS:
        return 0
    gaps, nearest = load_search().two_nearest(benchmark.descriptors, pool.descriptors)
    good = np.flatnonzero(gaps[:, 0] < RATIO * gaps[:, 1])
    if len(good) < INLIERS:
        return 0
    source, target = benchmark.points[good], pool.points[nearest[good]]
    affine, agreeing = cv2.estimateAffine2D(source, target, ransacReprojThreshold=REACH, maxIters=500)
    count = 0 if affine is None else int(agreeing.sum())
    if count < max(INLIERS, AGREEING * len(good)) or not _plausible(affine):
        return 0
    ours, theirs, seen = _laid(benchmark.small, pool.grey, affine)
    if _correlation(ours, theirs, seen) < (LOOSER if count >= MANY else CORRELATION):
        return 0
    return 0 if everywhere and _unlike(ours, theirs, seen) > MOST_UNLIKE else count


def _plausible(affine: np.ndarray) -> bool:
    """Whether a map only turns, scales and stretches as copying does."""
    if np.linalg.det(affine[:, :2]) <= 0:
        return False
    longest, shortest = np.linalg.svd(affine[:, :2], compute_uv=False)
    return longest <= STRETCH * shortest and longest <= ZOOM and shortest >= 1 / ZOOM


def _laid(small: np.ndarray, pool: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The grey levels of two pictures where the map lays them over each other, float64 [h, w] each, and bool [h, w]:
    where the second one is."""
    back = cv2.invertAffineTransform(affine) * SHRUNK  # pool pixels -> pixels of `small`
    shrinks = 1 / float(np.sqrt(abs(np.linalg.det(back[:, :2]))))
    soft = cv2.GaussianBlur(pool, (0, 0), max(0.1, shrinks / 2))  # no finer than `small`
    size = small.shape[1], small.shape[0]
    laid = cv2.warpAffine(soft, back, size)
    seen = cv2.warpAffine(np.full(pool.shape, 255, np.uint8), back, size, flags=cv2.INTER_NEAREST) > 0
    return small.astype(np.float64), laid.astype(np.float64), seen


def _correlation(ours: np.ndarray, theirs: np.ndarray, seen: np.ndarray) -> float:
    """Of all grey levels that are seen; 0 where that is too little."""
    if seen.mean() < LEAST:
        return 0.0
    ours, theirs = ours[seen] - ours[seen].mean(), theirs[seen] - theirs[seen].mean()
    return float((ours * theirs).sum() / max(np.sqrt((ours**2).sum() * (theirs**2).sum()), 1e-9))


def _unlike(ours: np.ndarray, theirs: np.ndarray, seen: np.ndarray) -> float:
    """Share of the blocks that are seen, and not plain in both pictures, in which these do not correlate."""
    ours, theirs, there = (_blocks(levels) for levels in (ours, theirs, seen))
    inside = there.mean(axis=1) >= 0.9
    ours, theirs = (levels[inside] - levels[inside].mean(axis=1, keepdims=True) for levels in (ours, theirs))
    spreads = ours.std(axis=1), theirs.std(axis=1)
    rich = np.maximum(*spreads) > PLAIN
    if not rich.any():
        return 0.0
    alike = (ours * theirs).mean(axis=1) / np.maximum(spreads[0] * spreads[1], 1e-9)
    return float((alike[rich] < UNLIKE).mean())


def _blocks(levels: np.ndarray) -> np.ndarray:
    """[h, w] -> [blocks, BLOCK * BLOCK], without what is left at the right and below."""
    rows, columns = (side // BLOCK for side in levels.shape)
    cut = levels[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    return cut.swapaxes(1, 2).reshape(-1, BLOCK * BLOCK)
