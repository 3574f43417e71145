"""Errors that end the command line with one sentence and an exit code; anything else is a bug of the harness.

BenchError            1   the harness failed
├── UsageError        2   wrong usage or configuration: the user can mend it
└── NothingMeasured   5   every measurement was skipped or failed
"""

from typing import ClassVar


class BenchError(Exception):
    """One clear sentence that names the file, key or case and says what to do."""

    exit_code: ClassVar[int] = 1


class UsageError(BenchError):
    """Wrong usage, an impossible request of this machine, or a wrong configuration."""

    exit_code = 2


class ConfigError(UsageError):
    """A wrong configuration: the message names file, key and line, or the `--set` it came from."""


class NothingMeasured(BenchError):
    """A run that ended without a single measurement."""

    exit_code = 5


class Interrupted(BenchError):
    """Ctrl-C during a run; the message names the command that finishes it."""

    exit_code = 130
