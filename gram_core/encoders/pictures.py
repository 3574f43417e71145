"""A vision transformer of Hugging Face as content encoder: pictures as bytes -> encodings.

n pictures, P states a picture (patches and, where the model has one, a class token), d width.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gram_core.encoders.pooling import Pooling, pooling_module
from gram_core.modes import refuse_batch_statistics

PicturePooling = Pooling | Literal["head"]
"""head: by the head that comes with the model, SigLIP's attention for one."""


class PictureEncoder(nn.Module):
    """Pictures uint8 [n, channels, height, width] -> encodings [n, d] through `model` and a pooling of its states.

    Grey pictures have one channel, which stands for each of the model's.
    mean, std: per channel, of pixels as numbers between 0 and 1: what the model is published with. Bytes are moved to
    the device as they are, and become numbers there.
    Where `pooling` is not "head", the model's own head, which nothing would train, is taken out of it.
    Raises ValueError for batch normalisation anywhere in it, and for "head" where the model has no head.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, model: PreTrainedModel, *, mean: Sequence[float], std: Sequence[float], pooling: PicturePooling = "cls"
    ):
        super().__init__()
        refuse_batch_statistics(model, "the encoder's model")
        self.model = model
        self.width = int(model.config.hidden_size)
        self.pooling: nn.Module | None = None
        if pooling != "head":
            _without_head(model)
            self.pooling = pooling_module(pooling, self.width).to(model.device, model.dtype)
        elif _head_of(model) is None:
            raise ValueError(f"a {model.config.model_type} has no head of its own; choose another pooling")
        scale, shift = (torch.tensor(part, dtype=torch.float64)[:, None, None] for part in (std, mean))
        self.register_buffer("scale", (1 / (255 * scale)).to(model.device, model.dtype), persistent=False)
        self.register_buffer("shift", (shift / scale).to(model.device, model.dtype), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodings [n, d], in the dtype of the weights whatever autocast computes in."""
        if not len(pixels):  # models compute no empty batch, and a process without items has to take part in backward
            return self(pixels.new_zeros(1, *pixels.shape[1:]))[:0]
        dtype = self.model.dtype
        values = pixels.to(self.model.device, non_blocking=True).to(dtype) * self.scale - self.shift
        output = self.model(pixel_values=values)
        if self.pooling is None:
            return output.pooler_output.to(dtype)
        states = output.last_hidden_state.to(dtype)
        with torch.autocast(states.device.type, enabled=False):
            return self.pooling(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))

    def computed_tokens(self, lengths: Tensor) -> Tensor:
        """All of them: pictures are alike in size, so that none is padded."""
        return lengths


_HEADS = ("pooler", "head")
"""Names of what makes one vector of all states."""


def _head_of(model: PreTrainedModel) -> nn.Module | None:
    heads = (getattr(model, name, None) for name in _HEADS)
    return next((head for head in heads if isinstance(head, nn.Module)), None)


def _without_head(model: PreTrainedModel) -> None:
    for name in _HEADS:
        if isinstance(getattr(model, name, None), nn.Module):
            model.register_module(name, None)
    if hasattr(model, "use_head"):  # asked before the head, by SigLIP
        setattr(model, "use_head", False)  # noqa: B010 - modules type what is set as a tensor or a module
