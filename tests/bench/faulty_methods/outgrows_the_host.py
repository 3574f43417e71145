"""Asks the host for more memory than it can have, and really asks."""

import torch

from gram_core.methods.e2e import E2E


class OutgrowsTheHost(E2E):
    name = "outgrows_the_host"

    def step(self, batch):
        return torch.empty(2**50, dtype=torch.uint8).sum()
