"""Needs all the memory there is: runs out of it while another process of its kind lives, and not alone."""

import fcntl
from dataclasses import dataclass

import torch

from gram_core.methods.e2e import E2E


class CrowdsOut(E2E):
    name = "crowds_out"

    @dataclass(frozen=True)
    class Settings:
        device: str = ""

    def __init__(self, training, settings=None):
        super().__init__(training)
        self.memory = open(settings.device, "w")  # noqa: SIM115 - held as long as the process lives
        try:
            fcntl.flock(self.memory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.") from None
