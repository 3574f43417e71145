"""Signs that a stream's encoding lacks are written in ASCII: no command ends in an error for its terminal's sake."""

import codecs
import unicodedata
from typing import Any

ERRORS = "plain-signs"
"""The name of `replaced` among codecs' error handlers."""
SIGNS = str.maketrans(
    {
        "\u00d7": "x",
        "\u00b7": "-",
        "\u00b1": "+-",
        "\u2013": "-",
        "\u2014": "-",
        "\u2026": ".",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u202f": " ",
        "\u221e": "inf",
        "\u2265": ">=",
        "\u2264": "<=",
        "\u00b0": "",
        "\u2500": "-",
        "\u2501": "-",
        "\u2514": "`",
        "\u251c": "|",
        "\u2578": "-",
        "\u257a": "-",
    }
)


def plain(text: str) -> str:
    """The text in ASCII: a sign's nearest, a letter without its accents, else a question mark."""
    letters = unicodedata.normalize("NFKD", text.translate(SIGNS))
    bare = "".join(each for each in letters if not unicodedata.combining(each))
    return bare.encode("ascii", "replace").decode()


def replaced(error: UnicodeError) -> tuple[str, int]:
    """Codecs' error handler: what cannot be written, in plain signs."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return plain(error.object[error.start : error.end]), error.end


codecs.register_error(ERRORS, replaced)


def write_in_plain_signs(*streams: Any) -> None:
    """From here on these text streams write what they cannot encode in plain signs; other objects stay as they are."""
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=ERRORS)
