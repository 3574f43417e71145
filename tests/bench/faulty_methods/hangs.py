"""Never comes back from a step."""

import threading

from gram_core.methods.e2e import E2E


class Hangs(E2E):
    name = "hangs"

    def step(self, batch):
        threading.Event().wait()
