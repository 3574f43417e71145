"""Texts and pictures: an encoder reads one of them, and the items of a workload are one of them."""

from bench.encoders import _base as encoders
from bench.encoders._base import PictureFormat
from bench.workloads import _base as workloads


def has_pictures(workload: str) -> bool:
    """Whether a workload's items are pictures, as its module says (`PICTURES`); else they are texts."""
    return bool(getattr(workloads.load(workload), "PICTURES", False))


def picture_of(encoder: str) -> PictureFormat | None:
    """What pictures an encoder reads; None where it reads texts, as those do that only loading them shows."""
    found = encoders.limits(encoder)
    return None if found is None else found.picture


def refuse_other_items(workload: str, encoder: str) -> None:
    """Raises ValueError where the encoder does not read what the workload's items are."""
    reads_pictures = picture_of(encoder) is not None
    if reads_pictures and not has_pictures(workload):
        raise ValueError(
            f"{encoder} reads pictures, and the workload {workload} holds texts; take the workload pictures, or an "
            "encoder of texts"
        )
    if has_pictures(workload) and not reads_pictures:
        from bench.encoders.shape import SHAPES

        others = ", ".join(f"shape:{name}" for name, shape in SHAPES.items() if shape.picture is not None)
        raise ValueError(
            f"the workload {workload} holds pictures, and {encoder} is loaded as an encoder of texts; take one of "
            f"{others}, or a workload of texts"
        )
