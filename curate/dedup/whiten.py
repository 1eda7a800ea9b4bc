"""Embeddings centred and whitened on the pool: what all its pictures share no longer makes them alike.

Raw cosine similarities of a network say "a garment" more than "this picture"; after PCA whitening (H. Jegou and O.
Chum, ECCV 2012) fitted on images of the very pool, copies stand out. The fit is a few hundred thousand numbers that
every task reads from one file, so that all of them compare the same vectors.
"""

from dataclasses import dataclass

import numpy as np

from curate.files import Folder

LEAST = 5_000  # images to fit on: fewer say too little about the directions that matter
FIT_ON = 20_000  # images at most, drawn by a hash of their uids


@dataclass(frozen=True)
class Whitening:
    """mean: float64 [d]. matrix: float64 [d, k], to k uncorrelated dimensions of unit variance. name: of its file."""

    mean: np.ndarray
    matrix: np.ndarray
    name: str = ""

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
    return Whitening(held[:, 0], held[:, 1:], name)
