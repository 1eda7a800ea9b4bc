"""Loops that numba compiles, kept as machine code and loaded by LLVM alone."""
