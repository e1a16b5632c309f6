"""Triton kernels, one module for each operation of ``crkd_core.ops``, which imports it where a kernel is to run.

Without a GPU they run in Triton's interpreter, on CPU tensors, if TRITON_INTERPRET=1 is set before Triton is imported.
"""
