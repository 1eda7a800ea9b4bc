"""What is known of compiled loops without numba: where they stand, what they are handed, what decides their code."""

import importlib
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

ENTRY = "curate_loops"  # the name of the function in the object file


@dataclass(frozen=True)
class Loops:
    """A numba.cfunc of pointers to arrays and of whole numbers, which allocates nothing and raises nothing.

    arrays: names and dtypes of the arrays that it is handed, in this order; numbers: then whole numbers of 64 bits.
    sources: modules beside its own that decide its code.
    """

    module: str
    function: str
    arrays: dict[str, str]
    numbers: tuple[str, ...]
    sources: tuple[str, ...] = ()

    def addresses(self, arrays: dict[str, np.ndarray]) -> list[int]:
        for name, dtype in self.arrays.items():
            assert arrays[name].dtype == dtype, name
            assert arrays[name].flags.c_contiguous, name
        return [arrays[name].ctypes.data for name in self.arrays]

    def signature(self, numba: Any) -> Any:
        """As numba.cfunc wants it."""
        pointers = (numba.types.CPointer(getattr(numba.types, kind)) for kind in self.arrays.values())
        return numba.void(*pointers, *(numba.int64 for _ in self.numbers))


@cache
def with_loops(name: str) -> ModuleType | None:
    """A module that loads its LOOPS, or None where they cannot be compiled: no numba, or none for this numpy."""
    try:
        module = importlib.import_module(name)
        module.load(module.LOOPS)
    except (ImportError, RuntimeError):
        return None
    return module
