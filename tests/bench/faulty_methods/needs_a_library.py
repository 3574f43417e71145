"""Can't run anywhere: its library is installed nowhere."""

from gram_core.methods.e2e import E2E


class NeedsALibrary(E2E):
    name = "needs_a_library"

    @staticmethod
    def requires():
        return "no-such-library is not installed: pip install no-such-library"
