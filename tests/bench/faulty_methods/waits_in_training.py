"""End-to-end training that meets its test at a named pipe, at its n-th step in this process, and waits for its end."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from gram_core.methods.e2e import E2E


class WaitsInTraining(E2E):
    name = "waits_in_training"

    @dataclass(frozen=True)
    class Settings:
        at: int = 0
        reached: str = ""

    def __init__(self, training, settings=None):
        super().__init__(training)
        self.settings = settings
        self.left = settings.at

    def step(self, batch):
        self.left -= 1
        if self.left == 0:
            Path(self.settings.reached).write_text(str(os.getpid()))
            signal.pause()
        return super().step(batch)
