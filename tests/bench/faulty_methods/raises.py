"""Fails with a message of several lines."""

from gram_core.methods.e2e import E2E


class Raises(E2E):
    name = "raises"

    def step(self, batch):
        raise LookupError("the item\nis not there\nat all")
