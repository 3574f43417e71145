"""Runs out of a GPU's memory, in the words of torch, once a batch has four users or more."""

import torch

from gram_core.methods.single_step import SingleStep


class OutgrowsTheGpu(SingleStep):
    name = "outgrows_the_gpu"

    def step(self, batch):
        if batch.users < 4:
            return super().step(batch)
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which "
            "1.20 GiB is free. Including non-PyTorch memory, this process has 77.90 GiB memory in use."
        )
