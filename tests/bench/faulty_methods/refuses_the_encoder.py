"""A method that can't run the encoder that it is given."""

from bench.methods import Unavailable
from gram_core.methods.e2e import E2E


class RefusesTheEncoder(E2E):
    """Says why when it is made."""

    name = "refuses_the_encoder"

    def __init__(self, training, settings=None):
        super().__init__(training, settings)
        raise Unavailable("refuses_the_encoder cannot run this bert, which is too small")
