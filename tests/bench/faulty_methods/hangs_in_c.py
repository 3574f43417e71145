"""Never comes back from a call that keeps the interpreter's lock, so that no thread of the process runs again.

Settings.reached: a named pipe that gets the process's number just before.
"""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from gram_core.methods.e2e import E2E


class HangsInC(E2E):
    name = "hangs_in_c"

    @dataclass(frozen=True)
    class Settings:
        reached: str = ""

    def __init__(self, training, settings=None):
        super().__init__(training)
        self.settings = settings

    def step(self, batch):
        Path(self.settings.reached).write_text(str(os.getpid()))
        ctypes.PyDLL(None).pause()
