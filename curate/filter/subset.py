"""DataComp's lists of uids (Gadre et al. 2023, arXiv:2304.14108): a .npy of (high, low) uint64 halves, sorted; a uid
that stands n times is wanted n times."""

import functools
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from curate.errors import CurateError
from curate.filter import keys
from curate.filter.steps import Subset

PAIR = np.dtype("u8,u8")


def copies(path: str, uids: pa.Array) -> np.ndarray:
    """int32 [rows]: how often a file lists each uid. Raises CurateError where uids are not of DataComp's form."""
    high, low = halves(uids)
    wanted, counts = _listed(path)
    found = np.zeros(len(high), np.int32)
    start = np.searchsorted(wanted["f0"], high, "left")
    for step in range(_longest(path)):  # uids that share their high half: one round but by accident
        at = np.minimum(start + step, len(wanted) - 1)
        same = (wanted["f0"][at] == high) & (wanted["f1"][at] == low)
        found[same] = counts[at[same]]
    return found


def opened(path: str) -> Subset:
    """A file as the step that keeps what it lists. Raises CurateError where it is no such list."""
    wanted, _ = _listed(path)
    if not len(wanted):
        raise CurateError(f"{path} lists no uid: it would keep nothing")
    return Subset(path, hashlib.sha256(Path(path).read_bytes()).hexdigest())


def listed(path: str) -> tuple[int, int]:
    """How many uids a file lists, and how many copies of them."""
    wanted, counts = _listed(path)
    return len(wanted), int(counts.sum())


def halves(uids: pa.Array, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    found = keys.hex_halves(uids, rows)
    if found is None:
        raise CurateError(f"sample_ids need uids of 32 hex digits as DataComp has them, not '{uids[0].as_py()}'")
    return found


def array(uids: pa.Array, weights: np.ndarray) -> np.ndarray:
    """The structured array of uids, each as often as its weight says; not yet sorted."""
    kept = np.flatnonzero(weights)
    found = np.empty(len(kept), PAIR)
    found["f0"], found["f1"] = halves(uids, kept)
    return np.repeat(found, weights[kept])


def ordered(parts: list[np.ndarray]) -> np.ndarray:
    """All parts in one, sorted: 16 bytes for each id."""
    every = np.concatenate([*parts, np.empty(0, PAIR)])
    found = every[np.argsort(every["f0"], kind="stable")]  # joins sorted parts, in an eighth of lexsort's time
    same = found["f0"][1:] == found["f0"][:-1]
    if (same & (found["f1"][1:] < found["f1"][:-1])).any():
        found = found[np.lexsort((found["f1"], found["f0"]))]
    return found


@functools.lru_cache(maxsize=1)
def _listed(path: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise CurateError(f"no file {path}; --subset is a .npy of uids as DataComp writes it") from None
    except (ValueError, OSError, EOFError) as error:
        what = str(error).splitlines()[0]
        raise CurateError(f"{path} is no .npy of uids as DataComp writes it ({what})") from error
    names = found.dtype.names or ()
    kinds = [found.dtype[name].str[1:] for name in names]
    if found.ndim != 1 or kinds != ["u8", "u8"]:
        raise CurateError(
            f"{path} holds {found.dtype} of shape {found.shape}, not the pairs 'u8,u8' of DataComp's uids"
        )
    pairs = np.empty(len(found), PAIR)
    pairs["f0"], pairs["f1"] = found[names[0]], found[names[1]]
    pairs = ordered([pairs])
    first = np.ones(len(pairs), bool)
    first[1:] = (pairs["f0"][1:] != pairs["f0"][:-1]) | (pairs["f1"][1:] != pairs["f1"][:-1])
    starts = np.flatnonzero(first)
    return pairs[starts], np.diff(np.append(starts, len(pairs))).astype(np.int32)


@functools.lru_cache(maxsize=1)
def _longest(path: str) -> int:
    high = _listed(path)[0]["f0"]
    starts = np.flatnonzero(np.append(True, high[1:] != high[:-1]))
    return int(np.diff(np.append(starts, len(high))).max())
