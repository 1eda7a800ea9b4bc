"""Compiled loops as machine code: compiled once for a machine in a process of its own, kept, loaded by LLVM alone.

numba takes 110 MB and a second to load what it has compiled, LLVM 40 MB and 0.05 s.
"""

import ctypes
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding as llvm

from curate.compiled import processor
from curate.compiled.loops import ENTRY, Loops
from curate.storage import cache as machine_cache

OWN = ("curate.compiled.compile", "curate.compiled.processor", "curate.compiled.loops")
KEPT = 8  # object files: a home may be shared by machines with different processors
ROOT = Path(__file__).parents[2]
_loaded: dict[str, tuple[Callable[..., None], llvm.ExecutionEngine]] = {}


def load(loops: Loops) -> Callable[..., None]:
    """The function, which takes addresses of the arrays and then the numbers.

    Raises RuntimeError where it cannot be compiled: no numba, or none that works with this numpy.
    """
    name = f"{loops.module}.{loops.function}"
    if name not in _loaded:
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), processor.target_machine())
        engine.add_object_file(llvm.ObjectFileRef.from_data(object_code(loops)))
        engine.finalize_object()
        kinds = [ctypes.c_void_p] * len(loops.arrays) + [ctypes.c_int64] * len(loops.numbers)
        # the engine is what the function lives in
        _loaded[name] = ctypes.CFUNCTYPE(None, *kinds)(engine.get_function_address(ENTRY)), engine
    return _loaded[name][0]


def object_code(loops: Loops) -> bytes:
    """Taken from the cache, else compiled and kept; behind the SHA-256 of itself in the file. Raises RuntimeError."""
    kept, name = machine_cache.folder(), f"loops-{made_by(loops)}"
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/loops"
        try:
            if kept:
                machine_cache.take(kept, name, path)
                return _checked(path)
        except (OSError, ValueError):  # not there, or damaged
            pass
        command = [sys.executable, "-m", "curate.compiled.compile", path, loops.module, loops.function]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if run.returncode:
            raise RuntimeError(f"{loops.module} could not be compiled: {run.stderr[-500:]}")
        if kept:
            machine_cache.keep(kept, name, path, KEPT)
        return _checked(path)


def _checked(path: str) -> bytes:
    content = Path(path).read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise ValueError(f"{path} is damaged")
    return content[32:]


def _text(module: str) -> str:
    return (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")


def made_by(loops: Loops) -> str:
    """SHA-256 of all that decides the machine code."""
    sources = [_text(module) for module in (loops.module, *loops.sources, *OWN)]
    return hashlib.sha256("\0".join([loops.function, *processor.description(), *sources]).encode()).hexdigest()
