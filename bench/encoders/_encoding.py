"""How a loaded model's token states become encodings: as its folder says, as its kind asks for, or as configured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from bench.encoders._base import LoadedEncoder, PromptedTokenizer
from bench.encoders._usage import DenseFiles, Usage, read_usage

if TYPE_CHECKING:
    from torch import nn

    from gram_core.encoders.huggingface import HuggingFaceEncoder
    from gram_core.encoders.pictures import PictureEncoder, PicturePooling
    from gram_core.encoders.pooling import Pooling

_WORDS: dict[str, str] = {
    "mean": "mean of all tokens",
    "cls": "first token",
    "last": "last token",
    "max": "maximum over all tokens",
    "attention": "additive attention, with weights of its own",
    "head": "the model's own head",
}


@dataclass(frozen=True, eq=False)
class Encoding:
    """pooling, head: of token states, in this order. loaded: the model, with a tokenizer that puts the prompt before
    its texts, and as long texts as are meant. description: all that in one line. prompt: "" for none."""

    pooling: PicturePooling
    head: nn.Sequential | None
    loaded: LoadedEncoder
    prompt: str
    normalised: bool
    description: str

    def encoder(
        self, text_length: int, padding: Literal["max_length", "longest"] = "max_length"
    ) -> HuggingFaceEncoder | PictureEncoder:
        """The content encoder. Raises ValueError where it cannot be one, as for batch normalisation."""
        from gram_core.encoders.huggingface import HuggingFaceEncoder
        from gram_core.encoders.pictures import PictureEncoder

        if (picture := self.loaded.picture) is not None:
            return PictureEncoder(self.loaded.model, mean=picture.mean, std=picture.std, pooling=self.pooling)
        assert self.pooling != "head", "a pooling of picture models"
        return HuggingFaceEncoder(
            self.loaded.model,
            pad_token_id=self.loaded.pad_token_id,
            text_length=text_length,
            pooling=self.pooling,
            padding=padding,
            head=self.head,
        )


def encoding_of(loaded: LoadedEncoder, asked: Pooling | Literal["auto"], encoder: str) -> Encoding:
    """What `model.pooling` makes of an encoder, which the sweep names `encoder`.

    "auto" follows the files of a sentence-transformers folder; where there are none, or they name no pooling, it takes
    the last token of a causal model and the mean of any other. Everything else is that pooling alone, without the
    prompt, head and length of such files. Raises ValueError where those ask for something that is not computed here.
    """
    if asked != "auto":
        return _plain(loaded, asked, "as model.pooling says")
    if loaded.folder is not None:
        try:
            usage = read_usage(loaded.folder.root, loaded.folder.model or loaded.folder.root)
            if usage is not None:
                return _as_published(loaded, usage)
        except ValueError as error:
            raise ValueError(f'encoder "{encoder}": {error}') from error
    if loaded.pooling is not None:
        return _plain(loaded, loaded.pooling, "as it is published")
    if loaded.causal:
        return _plain(loaded, "last", "the model is causal")
    return _plain(loaded, "mean", "the model is not causal")


def check_length(loaded: LoadedEncoder, encoder: str, text_length: int) -> None:
    """Raises ValueError where texts are to be longer than the encoder takes them."""
    if text_length > loaded.longest_text:
        raise ValueError(
            f"text_length {text_length} is more than the {loaded.longest_text} tokens of {encoder}; lower "
            "sweep.text_length"
        )


def _plain(loaded: LoadedEncoder, pooling: PicturePooling, why: str) -> Encoding:
    prompt = ", no prompt" if loaded.picture is None else ""
    return Encoding(pooling, None, loaded, "", False, f"{_WORDS[pooling]} ({why}){prompt}, not normalised")


def _word(part: DenseFiles | Literal["normalize"]) -> str:
    return (
        "normalised" if part == "normalize" else f"dense {part.config['in_features']} -> {part.config['out_features']}"
    )


def _as_published(loaded: LoadedEncoder, usage: Usage) -> Encoding:
    pooling, tokenizer = usage.pooling, loaded.tokenizer
    if tokenizer is not None and (usage.prompt or usage.lower_case):
        tokenizer = PromptedTokenizer(tokenizer, usage.prompt, usage.lower_case)
    longest = min(loaded.longest_text, usage.longest or loaded.longest_text)
    normalised = usage.head[-1:] == ("normalize",)
    behind = "".join(f", {_word(part)}" for part in (usage.head[:-1] if normalised else usage.head))
    others = f" (others: {', '.join(usage.prompts)})" if usage.prompts else ""
    prompt = f"prompt {usage.prompt!r}" if usage.prompt else "no prompt"
    return Encoding(
        pooling,
        usage.build_head(),
        replace(loaded, tokenizer=tokenizer, longest_text=longest),
        usage.prompt,
        normalised,
        f"{_WORDS[pooling]} (its folder says so){behind}, {prompt}{others}, "
        f"{'normalised' if normalised else 'not normalised'}",
    )
