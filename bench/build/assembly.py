"""From a configuration, a case and a method line to a method that is ready to step.

Every line of a case is built alike: same seeds, same weights, same batches, same optimizer, same precision.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from bench import registry
from bench.build import distributed
from bench.build.schedules import factor
from bench.configuration.case import Case
from bench.configuration.config import Config, LoraSettings, ModelSettings, RunSettings
from bench.configuration.method_settings import AUTO
from bench.configuration.sweep import WorkItem
from bench.configuration.train_settings import TrainSettings
from bench.encoders import _base as encoders
from bench.encoders._base import LoadedEncoder, Loading
from bench.encoders._encoding import check_length, encoding_of
from bench.inputs import contents
from bench.inputs.item_kinds import refuse_other_items
from bench.measure.clock import CudaClock, HostClock
from bench.methods import check_available, exactness, method_class, registered_class, that_hold
from bench.results.analysis.tiers import Ran
from bench.results.schema import Inputs
from bench.workloads import _base as workloads
from bench.workloads._base import HoldOut, Task, Workload, WorkloadRequest
from gram_core.adaptive_interval import StepCosts
from gram_core.batch import ItemTable
from gram_core.engines._captured import Captured
from gram_core.engines._tiers import FallBack
from gram_core.methods._base import MethodBase
from gram_core.methods.multi_step import MultiStep, resolve_accumulation_steps
from gram_core.protocols import ContentEncoder, Exactness
from gram_core.training import Optimization, Training

if TYPE_CHECKING:
    from gram_core.distributed import Ranks

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}


@dataclass(frozen=True)
class Built:
    """A method ready to step, the batches it steps on, and what is to be said about both."""

    workload: Workload
    training: Training
    method: MethodBase
    exactness: Exactness
    detail: dict[str, Any]
    inputs: Inputs
    encoding: str
    """How token states become encodings, in words."""

    @property
    def encoder(self) -> ContentEncoder:
        """The content encoder as the method runs it: an engine may have put its own in its place."""
        return self.stepping.encoder

    @property
    def stepping(self) -> Training:
        """The training as the method runs it."""
        return self.method.training

    @property
    def ran(self) -> Ran:
        """By which of its tiers the engine runs the encoder, or by what way of its own the method does."""
        tier = self.method.tier
        return self.method.ran or (Ran(None, None) if tier is None else Ran(tier.tier, tier.why_no_faster))

    @property
    def graphs(self) -> Captured | None:
        """Who tells of captured graphs: the method or, where that alone is captured, its training's CF step."""
        return self.method if isinstance(self.method, Captured) else self.stepping.captured


def build(
    config: Config,
    item: WorkItem,
    device: torch.device,
    *,
    training_seed: int | None = None,
    ranks: Ranks | None = None,
) -> Built:
    """Everything that a worker steps; raises ValueError where the parts don't fit each other, Unavailable for want of
    a library.

    training_seed: of the weights, of a training that holds out and schedules as `[train]` says. None: everything is
    trained on, at constant rates, with weights of run.seed. ranks: where it does not train alone.
    """
    run, case = config.run, item.case
    for_training = training_seed is not None
    seed = run.seed if training_seed is None else training_seed
    chosen = method_class(item.line.method, run.plugins)
    check_available(chosen)
    dtype = set_precision(case.precision, device)
    set_deterministic(run.deterministic)
    before = contents.of_case(config, case)
    loaded = encoders.load(
        case.encoder, Loading(device, dtype, case.layers, seed, dropout=run.dropout, base=config.model.base)
    )
    if case.adapter != "none":
        loaded = adapted(loaded, config.model.lora, case.encoder, seed)
    encoding = encoding_of(loaded, config.model.pooling, case.encoder)
    loaded = encoding.loaded
    check_length(loaded, case.encoder, case.text_length)
    cf_class = cf_module_class(case.cf_module)
    hold_out = config.train.hold_out if for_training else None
    workload = build_workload(config, case, loaded, task=cf_class.task, hold_out=hold_out)
    inputs = contents.read_as(before, contents.of_case(config, case))
    torch.manual_seed(seed)
    encoder = encoding.encoder(case.text_length, run.padding)
    cf_module = cf_class(encoder.width).to(device, dtype)
    for module in (encoder, cf_module):
        set_dropout(module, run.dropout)
    workload = replace(workload, steps_per_epoch=_shared_out(workload.steps_per_epoch, case.world_size))
    settings = method_settings(chosen, config, item, workload.steps_per_epoch)
    if ranks is not None:
        distributed.check(chosen, settings, run, item.line.engine)
        distributed.shard(encoder, run, ranks)
    training = Training(
        workload.table,
        encoder,
        cf_module,
        optimization(
            encoder,
            cf_module,
            run if for_training else run.model_copy(update={"learning_rate": run.measured_learning_rate}),
            config.train if for_training else None,
            ranks,
        ),
        amp_dtype=torch.bfloat16 if case.precision == "bf16" else None,
    )
    if ranks is not None:
        training = distributed.distributed(training, ranks, case.deduplicate, run)
    method = build_method(chosen, training, settings, item.line.engine)
    handicaps = that_hold(
        method.handicaps,
        captured=method.training.captures,
        trained=for_training,
        on_cpu=device.type == "cpu",
    )
    detail = {
        "weights": loaded.weights,
        "log": workload.log,
        "encoder": f"{loaded.description}; encoding: {encoding.description}",
        "encoding": {"pooling": encoding.pooling, "prompt": encoding.prompt, "normalised": encoding.normalised},
        "workload": dict(workload.facts),
        "method_settings": asdict(settings),
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "trainable_parameters": sum(p.numel() for p in encoder.parameters() if p.requires_grad),
        **({"handicaps": handicaps} if handicaps else {}),
    }
    claim = exactness(chosen, run.dropout, settings, run.max_grad_norm)
    return Built(workload, training, method, claim, detail, inputs, encoding.description)


def adapted(loaded: LoadedEncoder, lora: LoraSettings, encoder: str, seed: int) -> LoadedEncoder:
    """The encoder, which the sweep names `encoder`, with fresh adapters in it, which alone are trained."""
    from bench.encoders._adapter import with_fresh_adapters

    try:
        model = with_fresh_adapters(loaded.model, rank=lora.rank, alpha=lora.alpha, targets=lora.targets, seed=seed)
    except ValueError as error:
        raise ValueError(f'encoder "{encoder}" with adapters: {error}') from error
    described = f"LoRA adapters of rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.targets)}"
    return replace(loaded, model=model, description=f"{loaded.description}, {described}")


def _shared_out(steps_per_epoch: int | None, world_size: int) -> int | None:
    """Steps of an epoch that so many processes take together, each with batches of its own."""
    return None if steps_per_epoch is None else -(-steps_per_epoch // world_size)


def cf_module_class(name: str) -> type[Any]:
    """The CF module's class; raises registry.UnknownName (a ValueError) where there is none."""
    return registered_class(registry.load("gram_core.cf_modules", name), name)


def resolve_device(name: str) -> torch.device:
    """The device of `run.device`: "auto" is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def set_precision(precision: str, device: torch.device) -> torch.dtype:
    """Sets how this process multiplies float32 matrices; returns the dtype of the master weights.

    Raises ValueError for tf32 on a device that has none.
    """
    if precision == "tf32" and device.type != "cuda":
        raise ValueError("precision tf32 is a CUDA device's; choose float32 or bf16 on a CPU")
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return torch.float64 if precision == "float64" else torch.float32


def set_deterministic(deterministic: bool) -> None:
    """Lets torch use deterministic algorithms only, or any; cuBLAS then needs workspaces of a fixed size."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)


def build_workload(
    config: Config, case: Case, loaded: LoadedEncoder, task: Task, hold_out: HoldOut | None = None
) -> Workload:
    """The case's items and batches. Raises ValueError where the encoder cannot read them."""
    refuse_other_items(case.workload, case.encoder)
    module = workloads.load(case.workload)
    settings = config.workload.get(workloads.split(case.workload)[0]) or module.Settings()
    workload: Workload = module.build(
        settings, workload_request(config.model, case, loaded, config.run.seed, task, hold_out)
    )
    highest = int(workload.table.tokens.max()) if isinstance(workload.table, ItemTable) else -1
    if highest >= loaded.vocab_size:
        raise ValueError(
            f"{case.encoder}: a text of {case.workload} has the token id {highest} (an added token) and the model has "
            f"rows for 0 to {loaded.vocab_size - 1}; take that token out of the texts, or resize the model's embeddings"
        )
    return workload


def workload_request(
    model: ModelSettings,
    case: Case,
    loaded: LoadedEncoder,
    seed: int,
    task: Task,
    hold_out: HoldOut | None = None,
) -> WorkloadRequest:
    """What a case asks of its workload."""
    return WorkloadRequest(
        **vars(workloads.axes_of(case, model.candidates, task)),
        tokenizer=loaded.tokenizer,
        pad_token_id=loaded.pad_token_id,
        opening_token_id=loaded.opening_token_id,
        closing_token_id=loaded.closing_token_id,
        special_token_ids=loaded.special_token_ids,
        vocab_size=loaded.vocab_size,
        seed=seed,
        hold_out=hold_out,
        picture=loaded.picture,
    )


def optimization(
    encoder: nn.Module,
    cf_module: nn.Module,
    run: RunSettings,
    train: TrainSettings | None = None,
    ranks: Ranks | None = None,
) -> Optimization:
    """An optimizer each, of the same kind; fused: one pass over memory, which else would flatten every ratio.

    train: gives rates of their own and schedules, each in its own optimizer's steps.
    """
    chosen: Any = OPTIMIZERS[run.optimizer]
    if ranks is not None and run.sharding == "zero1":
        chosen = distributed.in_parts(chosen, ranks)
    encoder_rate = (train and train.encoder_learning_rate) or run.learning_rate
    cf_rate = (train and train.cf_learning_rate) or run.learning_rate
    encoder_optimizer = chosen(encoder.parameters(), lr=encoder_rate, fused=True)
    cf_optimizer = chosen(cf_module.parameters(), lr=cf_rate, fused=True)
    return Optimization(
        encoder_optimizer,
        cf_optimizer,
        encoder_scheduler=LambdaLR(encoder_optimizer, factor(train)) if train else None,
        cf_scheduler=LambdaLR(cf_optimizer, factor(train)) if train else None,
        max_grad_norm=run.max_grad_norm,
    )


def set_dropout(module: nn.Module, dropout: str) -> None:
    """Training mode, in which every dropout drops nothing if `dropout` is "off".

    Training mode even then: a recurrent network on a GPU has a backward pass in no other.
    """
    module.train()
    if dropout != "off":
        return
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.p = 0.0
        elif isinstance(part, nn.RNNBase | nn.MultiheadAttention):
            part.dropout = 0.0


def method_settings(chosen: type[Any], config: Config, item: WorkItem, steps_per_epoch: int | None) -> Any:
    """The method's own `Settings`, its accumulation steps resolved to a number where the line has them.

    "auto" stays, and chooses among the numbers up to an epoch's.
    """
    settings = chosen.Settings(**config.method.get(item.line.method, {}))
    if item.line.accumulation_steps is None:
        return settings
    if item.line.accumulation_steps == AUTO:
        return replace(settings, accumulation_steps=AUTO, most_steps=settings.most_steps or steps_per_epoch)
    return replace(
        settings, accumulation_steps=resolve_accumulation_steps(item.line.accumulation_steps, steps_per_epoch)
    )


def build_method(chosen: type[Any], training: Training, settings: Any, engine: str) -> MethodBase:
    """The method on the engine that runs its encoder, with a clock where it measures what its own steps cost."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallBack)  # results tell of it, and commands once
        method: MethodBase = registry.load("gram_core.engines", engine).build(chosen, training, settings)
    if isinstance(method, MultiStep):
        method.costs = StepCosts(_clock(training.device))
    return method


def _clock(device: torch.device) -> Callable[[], float]:
    clock = CudaClock() if device.type == "cuda" else HostClock()

    def now() -> float:
        clock.synchronise()
        return clock.now()

    return now
