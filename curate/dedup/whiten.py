"""Embeddings centred and whitened on the pool: what all its pictures share no longer makes them alike.

Raw cosine similarities of a network say "a garment" more than "this picture"; after PCA whitening (H. Jegou and O.
Chum, ECCV 2012) fitted on images of the very pool, copies stand out. The fit is a few hundred thousand numbers that
every task reads from one file, so that all of them compare the same vectors.
"""

from dataclasses import dataclass

import numpy as np
import torch

from curate.files import Folder

LEAST = 5_000  # images to fit on: fewer say too little about the directions that matter
FIT_ON = 20_000  # images at most, drawn by a hash of their uids
IMAGES_PER_DIMENSION = 10  # with fewer, thresholds do not carry over from one half of a pool to the other
MOST = 512  # dimensions
FLOOR = 1e-6  # of the largest variance: directions with less hold nothing


@dataclass(frozen=True)
class Whitening:
    """mean: float64 [d]. matrix: float64 [d, k], to k uncorrelated dimensions of unit variance."""

    mean: np.ndarray
    matrix: np.ndarray

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Unit vectors float32 [n, d] -> unit vectors float32 [n, k], rounded to 11 bits; what is all zero stays so."""
        found = (np.asarray(vectors, np.float64) - self.mean) @ self.matrix
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        empty = ~np.any(vectors, axis=1)
        found[empty] = 0
        # through 16 bits, as embeddings are stored: what the order of sums changes is gone
        return (found / np.where(lengths > 0, lengths, 1)).astype(np.float16).astype(np.float32)

    def write(self, folder: Folder, name: str) -> None:
        """float64 [d + 1, k or more]: the mean in the first column, then the matrix."""
        folder.write_array(name, np.column_stack([self.mean, self.matrix]))


def read(folder: Folder, name: str) -> Whitening:
    held = np.asarray(folder.read_array(name))
    return Whitening(held[:, 0], held[:, 1:])


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
