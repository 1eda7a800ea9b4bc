"""Compile the loops of kernel.py to an object file: `python -m curate.match.compile FILE`.

A process of its own, without pyarrow and whatever else harvest imports: numba and LLVM take 190 MB. What numba adds for
functions that raise falls away, since none of these can.
"""

import hashlib
import sys
from pathlib import Path

import llvmlite.binding as llvm

from curate.match.kernel import matched
from curate.match.layout import ENTRY
from curate.match.processor import target_machine


def object_code() -> bytes:
    """Raises RuntimeError where the code would need more than the C library."""
    module = llvm.parse_assembly(matched.inspect_llvm().replace(matched.native_name, ENTRY))
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
    code = object_code()
    Path(sys.argv[1]).write_bytes(hashlib.sha256(code).digest() + code)
