"""Parameters whose `data` was asked for: what is written through that moves no version counter.

`parameter.data` is a tensor of its own on the same memory; who writes to it, as exponential moving averages of weights
do, leaves no trace on the parameter. Reading it back to see would wait for the device.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

_data: Any = nn.Parameter.data


class LendingParameter(nn.Parameter):
    """A parameter that notes, for all that wait for it, that its `data` is asked for or replaced."""

    @property
    def data(self) -> Tensor:
        """As of every tensor."""
        self._note()
        return _data.__get__(self)

    @data.setter
    def data(self, value: Tensor) -> None:
        self._note()
        _data.__set__(self, value)

    def _note(self) -> None:
        for lending in vars(self).get("_lendings", ()):
            lending.noted = True


class Lending:
    """Whether `data` of any of `parameters` has been asked for since the last time of asking.

    The parameters stay the same objects, of a subclass from now on. What is not seen is writing through memory that was
    taken before, a flat buffer for one.
    """

    def __init__(self, parameters: Iterable[Tensor]):
        self.noted = False
        for parameter in parameters:
            if type(parameter) is nn.Parameter:
                parameter.__class__ = LendingParameter
            if isinstance(parameter, LendingParameter):
                vars(parameter)["_lendings"] = (self,)

    def taken(self) -> bool:
        """Whether it was; asks anew from now on."""
        noted, self.noted = self.noted, False
        return noted
