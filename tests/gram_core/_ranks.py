"""Eight processes, started once, on which trials of distributed training run; over Gloo, in float64, on tiny models.

A trial compares what some ranks leave, each with its part of the users, with a single process on the joined batch.
"""

from __future__ import annotations

import functools
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from bench.build.assembly import set_dropout
from bench.processes import fork_server
from gram_core.batch import Batch, ItemTable
from gram_core.distributed import DistributedTraining, ExchangeCosts, Ranks, shard_encoder, zero_redundancy
from gram_core.distributed.layout import balanced_owners
from gram_core.distributed.training import AHEAD
from gram_core.encoders.packed import PackedEncoder
from gram_core.engines import fast
from gram_core.exactness import Float64Throughout, relative_errors, total_norm
from gram_core.training import Optimization, Training
from tests.gram_core import _models as m

MOST = 8
SIZES = (1, 2, 3, 4, MOST)
"""How many of them a trial may take: the first so many."""
STEPS = 4
"""One interval of three, and one that is cut short; momentum counts from the second on."""
RATE = 1e-3
USERS = 12
"""Divisible by 1, 2, 3 and 4."""
ROUNDING_ONLY = 1e-12
PATIENCE_S = 300


@dataclass(frozen=True)
class Trial:
    """size: ranks; users: of each rank, the same in every step but the last; last_users: of each rank in the last one.

    items: "repeating", or "distinct" where no item of a batch repeats. owner: the rank that owns every item; None
    balances. sharding: "", "zero1" or "fsdp2".
    """

    method: str = "single_step"
    cf_module: str = "nrms"
    size: int = 2
    users: tuple[int, ...] = (6, 6)
    last_users: tuple[int, ...] = ()
    deduplicate: str = "global"
    items: str = "repeating"
    owner: int | None = None
    max_grad_norm: float | None = None
    sharding: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    family: str = "bert"
    ahead: bool = True
    engine: str = "eager"
    """"captured": steps as a GPU replays them; "packed": the encoder of those, launched."""

    pooling: str = "attention"
    costs: ExchangeCosts | None = None

    def parts(self, step: int) -> tuple[int, ...]:
        return self.last_users if self.last_users and step == STEPS - 1 else self.users

    def single(self) -> Trial:
        """The trial without what should make no difference: one process, which encodes every slot."""
        alike = self.method == "multi_step"
        total = (sum(self.users),)
        return replace(
            self, size=1, users=total, last_users=(sum(self.last_users),) if self.last_users else (), owner=None,
            method=self.method if alike else "e2e", deduplicate="", sharding="", ahead=True,
            engine="packed" if alike and self.engine == "captured" else "eager",
            settings=self.settings if alike else {},
        )  # fmt: skip


@dataclass(frozen=True)
class Found:
    """The largest relative errors of first gradients and of parameters, and what guards against passing on nothing."""

    gradients: float
    parameters: float
    silent: float
    apart: float
    alive: float
    losses: float


def joined_batch(trial: Trial, step: int) -> Batch:
    task = m.CF_MODULES[trial.cf_module].task
    users = sum(trial.parts(step))
    batch = m.make_batch(task, users=users, seed=step)
    if trial.items == "distinct":
        order = torch.randperm(batch.items.numel(), generator=torch.Generator().manual_seed(step))
        batch = replace(batch, items=order.view(batch.items.shape))
    return batch


def part_of(batch: Batch, users: tuple[int, ...], rank: int) -> Batch:
    start = sum(users[:rank])
    rows = slice(start, start + users[rank])
    return Batch(batch.items[rows], batch.mask[rows], batch.targets[rows], batch.history_length)


def table_of(trial: Trial) -> ItemTable:
    return m.make_table(USERS * (m.HISTORY + m.CANDIDATES) if trial.items == "distinct" else m.ITEMS)


def all_of_one(owner: int, tokens: Tensor, size: int) -> Tensor:
    return torch.full_like(tokens, owner % size)


def run(trial: Trial, ranks: Ranks | None, mesh: DeviceMesh | None = None) -> tuple[dict, dict, dict, list[float]]:
    """First gradients, parameters after all steps, each parameter's largest share of the gradient, and losses."""
    encoder = m.make_encoder(trial.family, trial.pooling)
    if trial.sharding == "fsdp2":
        shard_encoder(encoder, ranks, mesh)
    training = m.make_training(encoder, trial.cf_module, table_of(trial))
    set_dropout(training.cf_module, "off")  # type: ignore[arg-type]
    options = {"lr": RATE}
    made = [
        zero_redundancy(torch.optim.AdamW, part.parameters(), ranks, **options)
        if trial.sharding == "zero1"
        else torch.optim.AdamW(part.parameters(), **options)
        for part in (training.encoder, training.cf_module)
    ]
    training.optimization = Optimization(*made, max_grad_norm=trial.max_grad_norm)
    watch = _Watch(training)
    if ranks is not None:
        options = {} if trial.owner is None else {"assign": functools.partial(all_of_one, trial.owner)}
        if trial.deduplicate == "auto":
            options["costs"] = trial.costs
        training = DistributedTraining.of(training, ranks, trial.deduplicate, **options)
    method_class = m.METHODS[trial.method]
    settings = m.settings_of(method_class, **trial.settings)
    if trial.engine == "captured":
        method = fast.build_packed(method_class, training, settings, PackedEncoder(training.encoder))
    elif trial.engine == "packed":
        method = method_class(replace(training, encoder=PackedEncoder(training.encoder)), settings)
    else:
        method = method_class(training, settings)
    rank = 0 if ranks is None else ranks.rank
    batches = [part_of(joined_batch(trial, step), trial.parts(step), rank) for step in range(STEPS)]
    steps = method.training.ahead(batches) if trial.ahead else batches
    losses = torch.stack([method.step(batch).double() for batch in steps])
    method.finish()
    moved = {name: full(p.detach()).clone() for name, p in watch.named.items()}
    return watch.first, moved, watch.shares, method.training.joint_losses(losses).tolist()


class _Watch:
    """What the optimizers are handed: the first gradients, and how large a share of the whole each had at most."""

    def __init__(self, training: Training):
        self.named = {
            f"{prefix}.{name}": p
            for prefix, part in m.modules_of(training).items()
            for name, p in part.named_parameters()
        }
        self.first: dict[str, Tensor] = {}
        self.shares: dict[str, float] = {}
        for optimizer in (training.optimization.encoder_optimizer, training.optimization.cf_optimizer):
            optimizer.register_step_pre_hook(self._note)

    def _note(self, *_: Any) -> None:
        found = {name: full(p.grad).clone() for name, p in self.named.items() if p.grad is not None}
        total = total_norm(found.values())
        for name, value in found.items():
            self.first.setdefault(name, value)
            self.shares[name] = max(self.shares.get(name, 0.0), total_norm([value]) / total)


def full(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


@functools.cache
def _single(key: str) -> tuple[dict, dict, dict, list[float]]:
    return run(_TRIALS[key], None)


_TRIALS: dict[str, Trial] = {}


def compare(trial: Trial, ranks: Ranks, mesh: DeviceMesh | None) -> Found | None:
    """Rank 0's findings."""
    gradients, moved, _, losses = run(trial, ranks, mesh)
    apart = 0.0
    for value in moved.values():
        other = value.clone()
        dist.broadcast(other, 0, group=ranks.device_group)
        apart = max(apart, float((value - other).abs().max()))
    apart = float(ranks.host_max(torch.tensor([apart], dtype=torch.float64)))
    if ranks.rank:
        return None
    single = trial.single()
    _TRIALS[repr(single)] = single
    expected_gradients, expected, shares, expected_losses = _single(repr(single))
    silent = {name for name, share in shares.items() if share < ROUNDING_ONLY}
    rest = {name: value for name, value in expected.items() if name not in silent}
    errors = relative_errors(gradients, expected_gradients)
    return Found(
        max(error for name, error in errors.items()),
        max(relative_errors({name: moved[name] for name in rest}, rest).values()),
        max((float((moved[name] - expected[name]).abs().max()) for name in silent), default=0.0),
        apart,
        total_norm(expected_gradients.values()),
        max(abs(a - b) for a, b in zip(losses, expected_losses, strict=True)),
    )


Task = Callable[..., Any]


def _serve(connection: Connection, rank: int, store: str) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=MOST)
    groups = {size: [dist.new_group(list(range(size))) for _ in range(3)] for size in SIZES}
    while True:
        task, size, arguments = connection.recv()
        if rank >= size:
            continue
        try:
            with Float64Throughout():
                answer = task(Ranks(*groups[size]), *arguments)
        except Exception:
            answer = RuntimeError(traceback.format_exc())
        connection.send(answer)


class Pool:
    """The processes; `on(size, task, ...)` calls task(ranks, ...) on the first `size` of them."""

    def __init__(self, folder: Path):
        fork_server.warm_fork_server()
        context = fork_server._context
        self._connections: list[Connection] = []
        self._processes = []
        for rank in range(MOST):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, str(folder / "store")), daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    def on(self, size: int, task: Task, *arguments: Any) -> list[Any]:
        """Every rank's answer; raises the first one's error."""
        asked = self._connections[:size]
        for connection in asked:
            connection.send((task, size, arguments))
        answers: dict[Any, Any] = {}
        while len(answers) < size:
            ready = wait([c for c in asked if c not in answers], PATIENCE_S)
            assert ready, f"ranks do not answer; the others said {list(answers.values())}"
            answers |= {connection: connection.recv() for connection in ready}
            failed = next((answer for answer in answers.values() if isinstance(answer, Exception)), None)
            if failed is not None:
                raise failed
        return [answers[connection] for connection in asked]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


@contextmanager
def pool() -> Iterator[Pool]:
    with tempfile.TemporaryDirectory() as folder:
        made = Pool(Path(folder))
        try:
            yield made
        finally:
            made.close()


def compared(ranks: Ranks, trial: Trial) -> Found | None:
    mesh = DeviceMesh.from_group(ranks.device_group, "cpu") if trial.sharding == "fsdp2" else None
    return compare(trial, ranks, mesh)


def compared_with_a_mistake(ranks: Ranks, trial: Trial, mistake: str) -> Found | None:
    replaced = {
        "users count by rank": (DistributedTraining, "loss", _by_rank),
        "gradients stay apart": (Ranks, "all_reduce", lambda self, values: values),
        "encodings' gradients stay apart": (Ranks, "reduce_scatter", _own_part),
    }
    owner, name, wrong = replaced[mistake]
    right = getattr(owner, name)
    setattr(owner, name, wrong)
    try:
        return compare(trial, ranks, None)
    finally:
        setattr(owner, name, right)


def _by_rank(self: DistributedTraining, slots: Tensor, batch: Batch) -> Tensor:
    return Training.loss(self, slots, batch) / self.ranks.size


def _own_part(self: Ranks, rows: Tensor) -> Tensor:
    return rows.tensor_split(self.size)[self.rank].clone()


def _distributed(ranks: Ranks) -> DistributedTraining:
    return DistributedTraining.of(m.with_adamw(m.make_training()), ranks, "global")


def stepped_out_of_order(ranks: Ranks) -> str:
    training = _distributed(ranks)
    _, second = training.planned(m.make_batch(seed=seed) for seed in (0, 1))
    try:
        m.METHODS["single_step"](training).step(second)
    except ValueError as error:
        return str(error)
    return ""


def planned_ahead(ranks: Ranks) -> bool:
    training = _distributed(ranks)
    method = m.METHODS["single_step"](training)
    count = AHEAD + 3
    made = [m.make_batch(seed=seed) for seed in range(count)]
    pulled: list[int] = []
    for number, batch in enumerate(training.ahead(pulled.append(n) or made[n] for n in range(count))):
        if pulled != list(range(min(count, number + 1 + AHEAD))):
            return False
        method.step(batch)
    return True


def stepped_on_nothing(ranks: Ranks) -> str:
    batch = m.make_batch()
    empty = replace(batch, mask=torch.zeros_like(batch.mask))
    try:
        m.METHODS["multi_step"](_distributed(ranks)).step(empty)
    except ValueError as error:
        return str(error)
    return ""


def shared_steps(ranks: Ranks, costs: ExchangeCosts) -> tuple[list[bool], list[bool]]:
    """Which of some steps were shared, and which should be, by tokens counted the slow way."""
    training = DistributedTraining.of(m.with_adamw(m.make_training()), ranks, "auto", costs=costs)
    lengths = training.table.lengths.tolist()
    batches = [[m.make_batch(users=1 + seed % 3, seed=10 * seed + rank) for rank in (0, 1)] for seed in range(12)]
    method = m.METHODS["single_step"](training)
    own = [pair[ranks.rank] for pair in batches]
    for batch in training.ahead(own):
        method.step(batch)
    expected = []
    for pair in batches:
        items = [set(batch.items[batch.mask].tolist()) for batch in pair]
        local = max(sum(lengths[item] for item in each) for each in items)
        joined = torch.tensor(sorted(items[0] | items[1]))
        tokens = training.table.lengths[joined]
        owners = balanced_owners(tokens, 2)
        shared = max(int(tokens[owners == rank].sum()) for rank in (0, 1))
        expected.append(local - shared > costs.exchange_s)
    return [training.shares_items(batch) for batch in own], expected


def auto_without_costs(ranks: Ranks) -> str:
    try:
        DistributedTraining.of(m.with_adamw(m.make_training()), ranks, "auto")
    except ValueError as error:
        return str(error)
    return ""
