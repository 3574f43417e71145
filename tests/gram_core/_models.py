"""Tiny models, batches and recorded gradients for the core's tests: real architectures, float64, CPU.

CF modules, methods and their settings come from the registry, so that a new file is tested unedited.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

from bench import registry
from bench.methods import PACKAGES, registered_class
from gram_core.batch import Batch, ItemTable, Texts
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.pooling import Dense, Normalize
from gram_core.exactness import GradientRecorder
from gram_core.training import Optimization, Training

MODELS = {"bert": BertModel, "roberta": RobertaModel, "mpnet": MPNetModel, "distilbert": DistilBertModel}
try:
    from transformers import ModernBertConfig, ModernBertModel
except ImportError:  # transformers of before December 2024
    pass
else:
    MODELS["modernbert"] = ModernBertModel

torch.set_num_threads(1)

ITEMS = 24
TEXT_LENGTH = 8
VOCABULARY = 40
FIRST_TOKEN = 5
"""Token ids below it are special: no family pads with an id that a text holds."""

FAMILIES = tuple(MODELS)
POOLINGS = ("mean", "cls", "last", "max", "attention")
PADDINGS = ("max_length", "longest")
PAD_TOKEN_ID = {"bert": 0, "roberta": 1, "mpnet": 1, "distilbert": 0, "modernbert": 0}


def _config(family: str, dropout: float, layers: int) -> Any:
    shape = dict(
        vocab_size=VOCABULARY, pad_token_id=PAD_TOKEN_ID[family], max_position_embeddings=32, initializer_range=0.1
    )
    deep = dict(num_hidden_layers=layers, num_attention_heads=4, intermediate_size=40)
    drop = dict(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    if family == "bert":
        return BertConfig(hidden_size=32, **shape, **deep, **drop)
    if family == "roberta":
        return RobertaConfig(hidden_size=48, **shape, **deep, **drop)
    if family == "mpnet":
        return MPNetConfig(hidden_size=48, **shape, **deep, **drop)
    if family == "distilbert":
        half = dict(n_layers=layers, n_heads=4, hidden_dim=40)
        return DistilBertConfig(dim=32, dropout=dropout, attention_dropout=dropout, **shape, **half)
    return ModernBertConfig(
        hidden_size=32,
        global_attn_every_n_layers=2,
        local_attention=4,
        attention_dropout=dropout,
        embedding_dropout=dropout,
        mlp_dropout=dropout,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
        **shape,
        **deep,
    )


@cache
def _pretrained(family: str, dropout: float, layers: int) -> PreTrainedModel:
    torch.manual_seed(11)
    model = MODELS[family](_config(family, dropout, layers)).double()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # the libraries start them at zero, where a lost bias would not be noticed
            nn.init.normal_(parameter, std=0.02)
    return model


def make_encoder(
    family: str = "bert",
    pooling: Any = "mean",
    padding: Any = "max_length",
    dropout: float = 0.0,
    with_head: bool = False,
    layers: int = 2,
) -> HuggingFaceEncoder:
    """A fresh encoder in training mode; equal arguments give equal weights. with_head: one that projects and scales."""
    model = copy.deepcopy(_pretrained(family, dropout, layers))
    torch.manual_seed(12)
    width, head = int(model.config.hidden_size), None
    if with_head:
        head = nn.Sequential(Dense(width, 16, activation=nn.Tanh(), residual=True), Normalize())
    encoder = HuggingFaceEncoder(
        model, pad_token_id=PAD_TOKEN_ID[family], text_length=TEXT_LENGTH, pooling=pooling, padding=padding, head=head
    )
    return encoder.train()


def registered(package: str) -> dict[str, Any]:
    """The class that each module of a registry defines, by its name."""
    return {name: registered_class(registry.load(package, name), name) for name in registry.names(package)}


CF_MODULES = registered("gram_core.cf_modules")
METHODS = {
    name: method for package in PACKAGES for name, method in registered(package).items() if method.requires() is None
}
"""Ours and the peers, less those whose library is not installed."""
TRAINING_THE_ENCODER = {name: method for name, method in METHODS.items() if method.exactness != "other-model"}
PEERS = frozenset(METHODS) - frozenset(registry.names("gram_core.methods"))
EXACT = {name: method for name, method in METHODS.items() if method.exactness == "exact"}


def make_cf_module(name: str, width: int) -> nn.Module:
    """A fresh CF module in float64 and training mode; equal arguments give equal weights."""
    torch.manual_seed(13)
    module = CF_MODULES[name](width).double().train()
    with torch.no_grad():  # so that attention is far from uniform and every parameter matters
        for parameter in module.parameters():
            parameter.mul_(3)
    return module


def settings_of(method: Any, **values: Any) -> Any:
    """The method's settings, with those of `values` that it has."""
    known = {field.name for field in fields(method.Settings)}
    return method.Settings(**{name: value for name, value in values.items() if name in known})


def make_table(items: int = ITEMS, seed: int = 3) -> ItemTable:
    """Random texts of 2 to TEXT_LENGTH tokens, the first one special as an encoder's is."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, TEXT_LENGTH, (items,), generator=generator)
    words = [torch.randint(FIRST_TOKEN, VOCABULARY, (int(n),), generator=generator).tolist() for n in lengths]
    return ItemTable.from_lists([3, *text] for text in words)


def with_other_text(table: ItemTable, item: int) -> ItemTable:
    """The table with the last token of `item` exchanged."""
    tokens = table.tokens.clone()
    last = int(table.offsets[item + 1]) - 1
    tokens[last] = FIRST_TOKEN + (int(tokens[last]) - FIRST_TOKEN + 1) % (VOCABULARY - FIRST_TOKEN)
    return ItemTable(tokens, table.offsets)


def make_training(
    encoder: HuggingFaceEncoder | None = None,
    cf_module: str = "nrms",
    table: ItemTable | None = None,
    optimization: Optimization | None = None,
    **options: Any,
) -> Training:
    """A training run on fresh models whose optimizers only write gradients down, unless `optimization` is given."""
    encoder = encoder or make_encoder()
    cf = make_cf_module(cf_module, encoder.width)
    recording = Optimization(GradientRecorder(encoder), GradientRecorder(cf))
    return Training(table or make_table(), encoder, cf, optimization or recording, **options)


def with_adamw(training: Training, rate: float = 1e-3, **options: Any) -> Training:
    """The same run, with optimizers that move."""
    training.optimization = Optimization(
        torch.optim.AdamW(training.encoder.parameters(), lr=rate),
        torch.optim.AdamW(training.cf_module.parameters(), lr=rate),
        **options,
    )
    return training


def step_gradients(
    method: str, training: Training, batch: Batch, max_grad_norm: float | None = None, seed: int = 0, **settings: Any
) -> dict[str, Tensor]:
    """What one step of the method hands to the optimizers, by parameter name; nothing moves."""
    encoder, cf = GradientRecorder(training.encoder), GradientRecorder(training.cf_module)
    training.optimization = Optimization(encoder, cf, max_grad_norm=max_grad_norm)
    for optimizer in (encoder, cf):
        optimizer.zero_grad()
    torch.manual_seed(seed)
    METHODS[method](training, settings_of(METHODS[method], **settings)).step(batch)
    return {
        f"{prefix}.{name}": grad
        for prefix, part in (("encoder", encoder), ("cf", cf))
        for name, grad in part.last.items()
    }


def modules_of(training: Training) -> dict[str, nn.Module]:
    """Encoder and CF module, by the prefixes that `step_gradients` uses."""
    return {"encoder": training.encoder, "cf": training.cf_module}


HISTORY = 5
CANDIDATES = 3


def batch_of(task: str, history: Tensor, mask: Tensor, candidates: Tensor, shown: Tensor, clicked: Tensor) -> Batch:
    if task == "ranking":
        return Batch(torch.cat([history, candidates], 1), torch.cat([mask, shown], 1), clicked, history.shape[1])
    mask = mask.clone()
    mask[:, 0] = True  # nothing can be predicted for a user without a response
    return Batch(history, mask, (history % 2).double(), history.shape[1])


def make_batch(
    task: str = "ranking", users: int = 4, seed: int = 5, items: int = ITEMS, history: int = HISTORY
) -> Batch:
    """A batch with repeats, padding slots, an empty history and candidates that are not shown."""
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randint(0, items, (max(2, users * 2),), generator=generator)
    draw = lambda *shape: pool[torch.randint(0, len(pool), shape, generator=generator)]  # noqa: E731
    mask = torch.rand(users, history, generator=generator) < 0.7
    mask[0], mask[-1] = True, False
    clicked = torch.randint(0, CANDIDATES, (users,), generator=generator)
    shown = torch.rand(users, CANDIDATES, generator=generator) < 0.9
    shown[torch.arange(users), clicked] = True
    return batch_of(task, draw(users, history), mask, draw(users, CANDIDATES), shown, clicked)


@dataclass
class SpyEncoder:
    """A content encoder that is no `nn.Module` and notes the texts of every call; d = 16, a bag of tokens.

    seen: one list of texts per call, each text a tuple of its token ids.
    """

    seen: list[list[tuple[int, ...]]]
    table: nn.Embedding
    width: int = 16

    @classmethod
    def fresh(cls) -> SpyEncoder:
        """With reproducible weights."""
        torch.manual_seed(14)
        return cls([], nn.Embedding(VOCABULARY, 16).double())

    def __call__(self, texts: Texts) -> Tensor:
        """The mean token embedding, [n, d]."""
        parts = texts.tokens.split(texts.lengths.tolist())
        self.seen.append([tuple(part.tolist()) for part in parts])
        return torch.stack([self.table(part).mean(0) for part in parts])

    def computed_tokens(self, lengths: Tensor) -> Tensor:
        """Unpadded."""
        return lengths

    def parameters(self) -> Any:
        """What moves."""
        return self.table.parameters()

    def calls(self) -> int:
        """Texts seen, repeats counted."""
        return sum(len(texts) for texts in self.seen)


def texts_of(table: ItemTable, items: Sequence[int] | Tensor) -> list[tuple[int, ...]]:
    """Items' texts as tuples, the slow way."""
    return [tuple(table.tokens[int(table.offsets[i]) : int(table.offsets[i + 1])].tolist()) for i in items]
