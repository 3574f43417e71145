"""A terminal that knows ASCII only."""

from __future__ import annotations

import io

from reports.plain_signs import write_in_plain_signs


def ascii_terminal() -> io.TextIOWrapper:
    """A stream to print on, as a command makes its own ready."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    write_in_plain_signs(out)
    return out


def written(out: io.TextIOWrapper) -> str:
    """What was printed on it."""
    out.flush()
    raw = out.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode("ascii")
