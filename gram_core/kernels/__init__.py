"""Triton kernels of the fast engine, as torch operators; importing them needs Triton, calling them a GPU."""
