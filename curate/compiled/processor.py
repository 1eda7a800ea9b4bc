"""The processor that this runs on, as LLVM knows it; imports nothing else, for the process that compiles."""

import llvmlite
import llvmlite.binding as llvm


def target_machine() -> llvm.TargetMachine:
    """LLVM for this very processor."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=_features(), opt=3, jit=True)


def description() -> list[str]:
    """What machine code depends on beside its source."""
    return [llvmlite.__version__, llvm.get_default_triple(), llvm.get_host_cpu_name(), _features()]


def _features() -> str:
    return llvm.get_host_cpu_features().flatten()
