"""Single-step GRAM within a token budget, captured: chunks of texts pass the encoder by graphs of a chunk's size.

A step, with the phases of `methods.single_step`:
1. the chunks whose graphs are not kept are encoded without one, a call each;
2. the head: encodes the chunks that are kept, then the loss of all encodings, its gradient for the CF module and for
   every encoding, and the backward of the kept chunks;
3. the other chunks are encoded again, a call each, this time back to the encoder's weights;
4. the move: both optimizers, on the gradients that 2 and 3 have summed.
n items encoded, R rows of encodings (each chunk's capacity, one chunk behind the other), d width, B users, S slots.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from gram_core.batch import PADDING_SLOT, Batch
from gram_core.chunking import GraphBudget, budget_bytes, chunk_bounds
from gram_core.encoders.packing_encoder import PackingEncoder
from gram_core.engines._capturable import forget_what_is_replaced
from gram_core.engines._captured import CapturedFunction, Inputs, Outputs
from gram_core.engines._captured_cf import CapturingTraining
from gram_core.engines._captured_methods import CapturedExact
from gram_core.engines._inputs import batch_of, gather_of, packed_texts, rows_of, slot_inputs
from gram_core.methods.single_step import SingleStep
from gram_core.phases import phase

Chunk = dict[str, Tensor]
"""A chunk's packed texts, named as `Packer.pack` names them."""


@dataclass(frozen=True, eq=False)
class ChunkedInputs:
    """The host's share of a step: chunks in the order of their texts, and who reads which of all their R rows."""

    kept: list[Chunk]
    recomputed: list[Chunk]
    slots: dict[str, Tensor]


class CapturedChunkedStep(CapturedExact):
    """Single-step GRAM with chunk_tokens: four graphs instead of one, whose memory a chunk bounds and not the batch.

    Which chunks are kept is as in `ChunkedEncoding`, but for a memory_budget, of which `MemoryRoom` makes tokens: the
    first steps keep none. Capacities hold up to an eighth more tokens than a chunk has.
    """

    method: SingleStep

    def __init__(self, method: SingleStep, training: CapturingTraining, encoder: PackingEncoder):
        super().__init__(method, training, encoder, summed=True)
        budget = method.settings.memory_budget
        self._room = None if budget is None else MemoryRoom(budget, training.device)
        device = training.device
        self._encode = CapturedFunction(self._device_encode, device, pool=self._pool)
        self._head = CapturedFunction(self._device_head, device, pool=self._pool)
        self._again = CapturedFunction(self._device_again, device, pool=self._pool)
        self._move = CapturedFunction(self._device_move, device, pool=self._pool)
        self.functions = (self._encode, self._head, self._again, self._move)
        forget_what_is_replaced(training.optimization, device, self.functions)

    def _prepare(self) -> None:
        super()._prepare()
        encoder = self._encoder
        self._summed = encoder.standing
        weights = [] if self._summed is not None else encoder.trained_parameters()
        self._gradients = GradientSums([*self.training.cf_module.parameters(), *weights])

    def step(self, batch: Batch) -> Tensor:
        """One step of the method."""
        if not self._refresh():
            return self.method.step(batch)
        inputs = self.host_inputs(batch)
        head = _numbered(inputs.kept) | inputs.slots | {"encodings": self._encodings(inputs.recomputed)}
        outputs = self._head(head, history_length=batch.history_length, kept=len(inputs.kept))
        loss, gradient = (output.clone() for output in outputs)  # the next call writes over them
        parts = gradient.split([rows_of(chunk) for chunk in inputs.recomputed])
        for chunk, part in zip(inputs.recomputed, parts, strict=True):
            self._again(chunk | {"gradient": part})
        self._move({}, gradients=self._gradients.met)
        self._optimization.advance()
        return loss

    def capture_counts(self) -> dict[str, int]:
        """As of every captured method, and how many tokens' graphs a memory budget has room for."""
        return super().capture_counts() | ({} if self._room is None else {"kept_tokens": self._room.kept_tokens})

    def host_inputs(self, batch: Batch) -> ChunkedInputs:
        """The host's share of a step: deduplication, chunks, packing, who reads what."""
        with phase("host"):
            selection = self.method.select(batch)
            tokens = self._encoder.computed_tokens(self.training.table.lengths[selection.items])
            bounds = chunk_bounds(tokens, self.method.settings.chunk_tokens) or [(0, 0)]
            chunks, row_of, rows = [], [], 0
            for start, stop in bounds:
                chunks.append(self._packer.pack(self.training.table.take(selection.items[start:stop])))
                row_of.append(torch.arange(rows, rows + stop - start))
                rows += rows_of(chunks[-1])
            row_of.append(torch.tensor([PADDING_SLOT]))  # what a padding slot reads, at the last place
            slot_rows = torch.cat(row_of)[selection.slot_rows]
            kept = self._kept([int(tokens[start:stop].sum()) for start, stop in bounds], chunks[0])
            return ChunkedInputs(chunks[:kept], chunks[kept:], slot_inputs(batch, slot_rows, rows))

    def _kept(self, sizes: list[int], first: Chunk) -> int:
        """How many chunks of these numbers of tokens, the first ones, keep their graph."""
        limits = [self.method.settings.kept_tokens]
        if self._room is not None:
            limits.append(self._room.tokens(lambda: self._graph_of(first), sizes[0]))
        budget = GraphBudget(self.training.device, min((limit for limit in limits if limit is not None), default=None))
        for number, size in enumerate(sizes):
            if not budget.allows(size):
                return number
            with budget.keeping(size):
                pass
        return len(sizes)

    def _graph_of(self, chunk: Chunk) -> Tensor:
        """A chunk's encodings with their graph, outside of any capture."""
        return self._encoder.encode(packed_texts({name: part.to(self.training.device) for name, part in chunk.items()}))

    def _encodings(self, chunks: list[Chunk]) -> Tensor:
        """Phase 1: encodings [R, d] of chunks that are not kept, each copied out before the next call."""
        weight = next(iter(self._encoder.parameters()))
        rows = [rows_of(chunk) for chunk in chunks]
        encodings = torch.empty(sum(rows), self._encoder.width, dtype=weight.dtype, device=weight.device)
        for chunk, place in zip(chunks, encodings.split(rows), strict=True):
            (encoded,) = self._encode(chunk)
            place.copy_(encoded)
        return encodings

    def _device_encode(self, inputs: Inputs) -> Outputs:
        with torch.no_grad(), phase("ce_forward"):
            return (self._encoder.encode(packed_texts(inputs)),)

    def _device_head(self, inputs: Inputs, history_length: int, kept: int) -> Outputs:
        """Phases 1, 2 and 4 of kept chunks; the loss, and dL/d encodings [R, d] of the others.

        Kept chunks pass the encoder one after the other, not as one: what a pass needs beside its graph, forward and
        backward, is then a chunk's, and chunks of one size share their kernels' shapes with those recomputed.
        """
        self._gradients.clear()
        if self._summed is not None:
            self._summed.clear()
        with phase("ce_forward"):
            graphs = [self._encoder.encode(packed_texts(_unnumbered(inputs, number))) for number in range(kept)]
        with phase("cf"):
            encodings = torch.cat([*(graph.detach() for graph in graphs), inputs["encodings"]])
            batch = batch_of(inputs, history_length)
            loss, gradient = self.method.encoding_gradient(encodings, gather_of(inputs), batch)
            self._gradients.add()
        *parts, rest = gradient.split([*(len(graph) for graph in graphs), len(inputs["encodings"])])
        with phase("ce_backward"):
            while graphs:  # let go of one by one, and their memory with them
                self._backpropagate(graphs.pop(), parts.pop())
        return loss, rest

    def _device_again(self, inputs: Inputs) -> Outputs:
        """Phase 4 of a chunk that was not kept: from dL/d encodings [R, d] to the encoder's gradients."""
        with phase("ce_backward"):
            self._backpropagate(self._encoder.encode(packed_texts(inputs)), inputs["gradient"])
        return ()

    def _backpropagate(self, encodings: Tensor, gradient: Tensor) -> None:
        if not encodings.requires_grad:  # a frozen encoder
            return
        encodings.backward(gradient)
        if self._summed is not None:
            self._summed.add()
        else:
            self._gradients.add()

    def _device_move(self, inputs: Inputs, gradients: int) -> Outputs:
        """The optimizers' step; gradients: of how many parameters there are any, which a graph is bound to."""
        with self._gradients.handed_over():
            self._optimization.move()
        return ()


def _numbered(chunks: list[Chunk]) -> dict[str, Tensor]:
    """All chunks' tensors under names of their own."""
    return {f"{number}.{name}": tensor for number, chunk in enumerate(chunks) for name, tensor in chunk.items()}


def _unnumbered(inputs: Inputs, number: int) -> Chunk:
    """One chunk of those that `_numbered` put together."""
    start = f"{number}."
    return {name.removeprefix(start): tensor for name, tensor in inputs.items() if name.startswith(start)}


WATCHED_STEPS = 3
"""Steps that keep nothing, until what stays is allocated: run as they are, captured, replayed."""
LARGER = 1.5
"""A chunk so much larger than the one that was measured is measured as well."""


class MemoryRoom:
    """How many tokens' graphs a budget has room for beside what a step needs that keeps none.

    memory_budget: bytes, or, up to 1, a share of the device (see `GraphBudget`). What a step needs anyway is what stays
    between steps and twice the graph of a chunk, which passes backward. What is left is halved: the first call of new
    sizes, which no graph serves, takes as much again beside the graphs' pool where that does not make room for it.
    """

    def __init__(self, memory_budget: float, device: torch.device):
        self._bytes = budget_bytes(memory_budget, device)
        self._device = device
        self._steps = 0
        self._measured = 0
        """Tokens of the chunk that was measured."""
        self.kept_tokens = 0
        """Of the last step."""

    def tokens(self, encode: Callable[[], object], tokens: int) -> int:
        """Of the next step. encode: runs a chunk of so many tokens, and returns what its graph hangs on."""
        self._steps += 1
        if self._steps > WATCHED_STEPS and tokens > LARGER * self._measured:
            stays = torch.cuda.memory_allocated(self._device)
            graph = encode()
            held = torch.cuda.memory_allocated(self._device) - stays
            del graph
            left = (self._bytes - stays - 2 * held) / 2
            self._measured, self.kept_tokens = tokens, max(0, int(left * tokens / max(held, 1)))
        return self.kept_tokens


class GradientSums:
    """What backward passes leave in the `.grad` of `parameters`, summed over the functions of one step.

    A `.grad` that a graph makes is memory of its pool, which the next graph of the pool writes over. The sums are made
    here, outside of any, and have their places for good: every function adds to them what its passes made (`add`),
    inside its graph, and leaves no `.grad` behind, for a replay runs no Python that could see one.
    A parameter that has never had a gradient gets none, as in eager steps, so that no optimizer decays it.
    """

    def __init__(self, parameters: Iterable[Tensor]):
        each_once = {id(parameter): parameter for parameter in parameters if parameter.requires_grad}  # some are tied
        self._parameters = list(each_once.values())
        self._sums = [torch.zeros_like(parameter, requires_grad=False) for parameter in self._parameters]
        self._met = [False] * len(self._parameters)

    @property
    def met(self) -> int:
        """Of how many parameters there has been a gradient: what graphs that read the sums are bound to."""
        return sum(self._met)

    def clear(self) -> None:
        """Begins a step."""
        if self._sums:
            torch._foreach_zero_(self._sums)

    def add(self) -> None:
        """Adds every `.grad` there is, and takes it away."""
        pairs = [(total, p.grad) for total, p in zip(self._sums, self._parameters, strict=True) if p.grad is not None]
        if pairs:
            torch._foreach_add_([total for total, _ in pairs], [gradient for _, gradient in pairs])
        for number, parameter in enumerate(self._parameters):
            self._met[number] |= parameter.grad is not None
            parameter.grad = None

    @contextmanager
    def handed_over(self) -> Iterator[None]:
        """Within, the sums are the parameters' `.grad`."""
        for parameter, total, met in zip(self._parameters, self._sums, self._met, strict=True):
            parameter.grad = total if met else None
        yield
        for parameter in self._parameters:
            parameter.grad = None
