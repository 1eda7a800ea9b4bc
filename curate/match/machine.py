"""The compiled loops as machine code: compiled once for a machine in a process of its own, kept, loaded by LLVM alone.

numba takes 110 MB and a second to load what it has compiled, LLVM 40 MB and 0.05 s.
"""

import ctypes
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm

from curate.match import processor
from curate.match.layout import ARRAYS, ENTRY, NUMBERS
from curate.storage import cache as machine_cache

SOURCES = ("kernel", "compile", "processor", "layout", "hashing", "characters")
KEPT = 4  # object files: a home may be shared by machines with different processors
HERE = Path(__file__).parent


@cache
def loops() -> tuple[Callable[..., None], llvm.ExecutionEngine]:
    """The function, which takes addresses of ARRAYS and then NUMBERS, and what it lives in.

    Raises RuntimeError where it cannot be compiled: no numba, or none that works with this numpy.
    """
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), processor.target_machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(_object_code()))
    engine.finalize_object()
    kinds = [ctypes.c_void_p] * len(ARRAYS) + [ctypes.c_int64] * len(NUMBERS)
    return ctypes.CFUNCTYPE(None, *kinds)(engine.get_function_address(ENTRY)), engine


def _object_code() -> bytes:
    """Taken from the cache, else compiled and kept; behind the SHA-256 of itself in the file."""
    kept, name = machine_cache.folder(), f"loops-{_made_by()}"
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/loops"
        try:
            if kept:
                machine_cache.take(kept, name, path)
                return _checked(path)
        except (OSError, ValueError):  # not there, or damaged
            pass
        command = [sys.executable, "-m", "curate.match.compile", path]
        run = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
        if run.returncode:
            raise RuntimeError(f"the compiled loops of matching could not be made: {run.stderr[-500:]}")
        if kept:
            machine_cache.keep(kept, name, path, KEPT)
        return _checked(path)


def _checked(path: str) -> bytes:
    content = Path(path).read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise ValueError(f"{path} is damaged")
    return content[32:]


def _made_by() -> str:
    """SHA-256 of all that decides the machine code."""
    sources = [(HERE / f"{name}.py").read_text(encoding="utf-8") for name in SOURCES]
    return hashlib.sha256("\0".join([*processor.description(), *sources]).encode()).hexdigest()
