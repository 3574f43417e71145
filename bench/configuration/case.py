"""A case: the point of a sweep at which methods are compared."""

from dataclasses import asdict, dataclass

from bench.results.identity import AxisValue, case_title


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
        return case_title(self.axes())
