"""The fit of a whitening: principal directions of the embeddings of a pool. Loaded when there is something to fit."""

import numpy as np
import torch

from curate.dedup.whiten import Whitening

IMAGES_PER_DIMENSION = 10  # with fewer, thresholds do not carry over from one half of a pool to the other
MOST = 512  # dimensions
FLOOR = 1e-6  # of the largest variance: directions with less hold nothing


def fit(vectors: np.ndarray) -> Whitening:
    """The whitening of unit vectors [n, d]: centred, their principal directions, each divided by its deviation.

    In float64 on one thread, with the sign of each direction fixed: the same numbers for any number of threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        held = torch.from_numpy(np.asarray(vectors, np.float64))
        mean = held.mean(dim=0)
        centred = held - mean
        variance, directions = torch.linalg.eigh(centred.T @ centred / len(held))
    finally:
        torch.set_num_threads(before)
    variance, directions = variance.numpy()[::-1], directions.numpy()[:, ::-1]
    most = min(MOST, max(1, len(vectors) // IMAGES_PER_DIMENSION), int((variance > variance[0] * FLOOR).sum()))
    directions, variance = directions[:, :most], variance[:most]
    signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(most)])
    return Whitening(mean.numpy(), directions * signs / np.sqrt(variance))
