"""Compile loops to an object file: `python -m curate.compiled.compile FILE MODULE FUNCTION`.

A process of its own, without pyarrow and whatever else a command imports: numba and LLVM take 190 MB. What numba adds
for functions that raise falls away, since none of these can.
"""

import hashlib
import importlib
import sys
from pathlib import Path

import llvmlite.binding as llvm

from curate.compiled.loops import ENTRY
from curate.compiled.processor import target_machine


def object_code(module_name: str, function: str) -> bytes:
    """Raises RuntimeError where the code would need more than the C library."""
    compiled = getattr(importlib.import_module(module_name), function)
    module = llvm.parse_assembly(compiled.inspect_llvm().replace(compiled.native_name, ENTRY))
    for part in (*module.functions, *module.global_variables):
        if not part.is_declaration and part.name != ENTRY:
            part.linkage = "internal"
    machine = target_machine()
    passes = llvm.create_new_module_pass_manager()
    passes.add_ipsccp_pass()
    passes.add_simplify_cfg_pass()
    passes.add_dead_arg_elimination_pass()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    needed = {part.name for part in (*module.functions, *module.global_variables) if part.is_declaration}
    if needed := {name for name in needed if not name.startswith("llvm.")}:
        raise RuntimeError(f"the compiled loops would need {', '.join(sorted(needed))}")
    return machine.emit_object(module)


if __name__ == "__main__":
    code = object_code(*sys.argv[2:])
    Path(sys.argv[1]).write_bytes(hashlib.sha256(code).digest() + code)
