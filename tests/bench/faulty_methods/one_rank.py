"""Of several processes, the one numbered 1 fails in its second step as Settings.how says; the others wait for it."""

import ctypes
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import torch

from gram_core.methods.single_step import SingleStep


class OneRank(SingleStep):
    name = "one_rank"
    distributes = True

    @dataclass(frozen=True)
    class Settings(SingleStep.Settings):
        how: str = ""
        reached: str = ""

    def __init__(self, training, settings=None):
        super().__init__(training, settings)
        self.begun = False

    def step(self, batch):
        if int(os.environ["RANK"]) == 1 and self.begun:
            if self.settings.how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.settings.how == "outgrows":
                torch.empty(2**50, dtype=torch.uint8)
            elif self.settings.how == "raises":
                raise RuntimeError("one of many")
            elif self.settings.how == "hangs":
                if self.settings.reached:
                    Path(self.settings.reached).write_text(str(os.getpid()))
                ctypes.PyDLL(None).pause()  # keeps the interpreter's lock, so that no thread of the process runs again
        self.begun = True
        return super().step(batch)
