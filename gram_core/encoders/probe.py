"""What a language model does with texts, found by giving it some: families differ in it more than in their names.

n texts, L tokens, d width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

LONG, SHORT = 6, 3
"""Tokens of the texts that are tried."""
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Of a state, by the dtype it is computed in; what else there is has 8 bits or more."""
LOW_PRECISION = 0.1


@dataclass(frozen=True)
class Probed:
    """causal: whether a token's state is blind to later tokens. longest: tokens that the table of positions has room
    for; None where there is no table. width: d of the last hidden states."""

    causal: bool
    longest: int | None
    width: int


def probe(model: PreTrainedModel, pad_token_id: int) -> Probed:
    """Runs a few tokens through `model`, without dropout and gradients.

    Raises ValueError, saying what is wrong, for a model that is no encoder of padded texts: one that does not take
    ids and mask, gives no state per token, or lets padding change a text's states.
    """
    long, short = _texts(model, pad_token_id)
    changed = long.clone()
    changed[-1] = short[0]
    with torch.no_grad(), evaluating(model), _WatchedTables() as tables:
        alone = _states(model, long[None])
    with torch.no_grad(), evaluating(model):
        other, short_alone = _states(model, changed[None]), _states(model, short[None])
        padded = torch.stack([long, F.pad(short, (0, LONG - SHORT), value=pad_token_id)])
        mask = torch.ones_like(padded)
        mask[1, SHORT:] = 0
        together = _states(model, padded, mask)
    tolerance = TOLERANCE.get(alone.dtype, LOW_PRECISION) * float(alone.abs().max())
    if not float((together[1, :SHORT] - short_alone[0]).abs().max()) <= tolerance:
        raise ValueError("padding changes a text's states, so that a text's encoding would depend on its batch")
    causal = float((other[0, 0] - alone[0, 0]).abs().max()) <= 1e-6 * float(alone.abs().max())
    return Probed(causal, min(tables.room, default=None), alone.shape[-1])


def is_causal(model: PreTrainedModel, pad_token_id: int) -> bool:
    """Whether a token's state is blind to later tokens."""
    return probe(model, pad_token_id).causal


@dataclass(frozen=True)
class Positions:
    """first: the position id of a text's first token, 0 but in families that count from the padding's id on.
    rows: of the table of positions, if there is one; 0 where not."""

    first: int
    rows: int


def positions(model: PreTrainedModel, pad_token_id: int) -> Positions:
    """As the model's forward pass takes them."""
    long, _ = _texts(model, pad_token_id)
    places = torch.arange(LONG, device=long.device)[None]
    with torch.no_grad(), evaluating(model):
        with _WatchedTables() as tables:
            own = _states(model, long[None])
        for first in dict.fromkeys([0, *tables.first]):
            states = model(input_ids=long[None], position_ids=places + first).last_hidden_state
            if float((states - own).abs().max()) <= TOLERANCE.get(own.dtype, LOW_PRECISION) * float(own.abs().max()):
                break
    rows = max((room + begin for room, begin in zip(tables.room, tables.first, strict=True)), default=0)
    return Positions(first, rows)


def _texts(model: PreTrainedModel, pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Two texts without a token in common, none of which is padding, and no two in the order of their ids."""
    embedding: Any = model.get_input_embeddings()
    rows = embedding.weight.shape[0]
    ids = [i for i in range(rows - 1, -1, -1) if i != pad_token_id][: 2 * (LONG + SHORT) : 2]
    if len(ids) < LONG + SHORT:
        ids = [i for i in range(rows - 1, -1, -1) if i != pad_token_id][: LONG + SHORT]
    if len(ids) < LONG + SHORT:
        raise ValueError(f"it knows {rows} tokens only")
    found = torch.tensor(ids, device=embedding.weight.device)
    return found[:LONG], found[LONG:]


def _states(model: PreTrainedModel, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """[n, L] -> [n, L, d]."""
    try:
        with torch.autocast(ids.device.type, enabled=False):
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids) if mask is None else mask)
    except Exception as error:  # any of a family's own: it was not made for this
        raise ValueError(f"it does not run on token ids and their mask ({type(error).__name__}: {error})") from error
    states = getattr(output, "last_hidden_state", None)
    if not isinstance(states, Tensor) or states.shape[:2] != ids.shape:
        raise ValueError("it gives no state for each token")
    return states


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within, the model is evaluated: nothing drops, nothing is checkpointed; then each module is as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _WatchedTables(TorchFunctionMode):
    """Notes tables that are read at consecutive rows, the same for every text: those of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.room: list[int] = []
        """Rows from the first one read to the end, by table."""
        self.first: list[int] = []
        """The first one read."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.embedding:
            self._note(*args[:2])
        return func(*args, **(kwargs or {}))

    def _note(self, index: Tensor, weight: Tensor) -> None:
        rows = index.reshape(-1, index.shape[-1]) if index.dim() else index.reshape(1, 1)
        if rows.shape[1] != LONG or rows.device.type == "meta":
            return
        first = int(rows[0, 0])
        if rows.tolist() == [list(range(first, first + LONG))] * len(rows):
            self.room.append(weight.shape[0] - first)
            self.first.append(first)
