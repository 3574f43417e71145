"""An encoder that is an asset: real weights and tokenizer, its texts' tokens pooled by their mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.encoders._base import Files, Limits, LoadedEncoder, Loading, files_of
from bench.inputs import assets

if TYPE_CHECKING:
    from gram_core.encoders.pooling import Pooling


@dataclass(frozen=True)
class Published:
    """What a file of this package defines. asset: its name, and the encoder's; name: as it is published."""

    asset: str
    name: str

    def check(self, argument: str | None) -> None:
        """Raises ValueError where an argument is given."""
        if argument is not None:
            raise ValueError(f'encoder "{self.asset}:{argument}": {self.asset} takes no argument, write "{self.asset}"')

    def contents(self, argument: str | None) -> Files:
        """The asset's files; nothing where it has not been fetched yet."""
        asset = assets.ASSETS[self.asset]
        return files_of(asset.folder) if assets.is_present(asset) else {}

    def limits(self, argument: str | None) -> Limits:
        """See `bench.encoders._base.limits`."""
        return Limits(512, has_tokenizer=True)

    def pooling(self, argument: str | None) -> Pooling:
        """What it is published with."""
        return "mean"

    def load(self, argument: str | None, asked: Loading) -> LoadedEncoder:
        """See `bench.encoders._base.load`; the seed is not used, no weight is random."""
        from bench.encoders._huggingface import load_pretrained

        loaded = load_pretrained(assets.fetch(self.asset), replace(asked, base=None), name=self.name)
        return replace(loaded, pooling=self.pooling(argument))
