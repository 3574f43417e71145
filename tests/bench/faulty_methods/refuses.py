"""Fails while it is built."""

from gram_core.methods.e2e import E2E


class Refuses(E2E):
    name = "refuses"

    def __init__(self, training, settings=None):
        raise ValueError("this encoder is not for me")
