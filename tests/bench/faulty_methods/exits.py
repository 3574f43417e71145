"""Leaves without a word, as a library does that calls exit."""

import os

from gram_core.methods.e2e import E2E


class Exits(E2E):
    name = "exits"

    def step(self, batch):
        print("giving up: the licence has expired", flush=True)
        os._exit(3)
