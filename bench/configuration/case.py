"""A case: the point of a sweep at which methods are compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from bench.results.schema import AxisValue


@dataclass(frozen=True)
class Case:
    """One point of the sweep: what every method is given alike.

    layers: the encoder's first so many layers, None for all of them; history_length, text_length: per user and
    per item, of a picture the tokens that the encoder makes of it; item_repetition_ratio: as asked for, None where the
    workload's own log decides; cf_module: what reads the encodings. world_size: processes that train together, each on
    batch_size users of its own; deduplicate: whether each of them encodes its own unique items ("local"), or all
    together each item once ("global"). adapter: what of the encoder is trained, all ("none") or adapters of low rank in
    it ("lora").
    """

    workload: str
    encoder: str
    layers: int | None
    batch_size: int
    history_length: int
    text_length: int
    item_repetition_ratio: float | None
    precision: str
    cf_module: str = "nrms"
    world_size: int = 1
    deduplicate: str = "local"
    adapter: str = "none"

    def axes(self) -> dict[str, AxisValue]:
        """What a `Record` stores as its `case`."""
        return asdict(self)

    def __str__(self) -> str:
        depth = "" if self.layers is None else f" layers={self.layers}"
        ratio = "" if self.item_repetition_ratio is None else f" ratio={self.item_repetition_ratio:g}"
        ranks = "" if self.world_size == 1 else f" ranks={self.world_size} deduplicate={self.deduplicate}"
        adapter = "" if self.adapter == "none" else f" adapter={self.adapter}"
        return (
            f"{self.workload} {self.encoder}{depth}{adapter} batch={self.batch_size} history={self.history_length} "
            f"text={self.text_length}{ratio} {self.cf_module} {self.precision}{ranks}"
        )
