"""Is killed in the middle of a case, as the kernel's out-of-memory killer does it."""

import os
import signal

from gram_core.methods.e2e import E2E


class KillsItself(E2E):
    name = "kills_itself"

    def step(self, batch):
        os.kill(os.getpid(), signal.SIGKILL)
