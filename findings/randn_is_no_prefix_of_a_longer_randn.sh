#!/usr/bin/env bash
# Expected: with one seed the first n numbers do not depend on how many follow, so a table of 11 items starts with the
#   rows of the table of 10; torch.rand does this.
# Seen: torch.randn on a processor does so only below 16 numbers. From 16 on it works in blocks of 16 and draws the last
#   16 anew where the length is no multiple: one more item changes rows before it, or all of them at the border.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
python - <<'PY'
import torch


def first(draw, n, total):
    torch.manual_seed(0)
    return draw(total)[:n]


def agreeing(draw, n):
    """How many of n numbers are the same where n + 1 are drawn."""
    return (first(draw, n, n) == first(draw, n, n + 1)).sum().item()


lengths = (14, 15, 16, 17, 32, 100)
seen = {draw.__name__: [agreeing(draw, n) for n in lengths] for draw in (torch.rand, torch.randn)}
print("of", lengths, "numbers the same with one more drawn:", seen)
assert seen["rand"] == list(lengths), seen
assert seen["randn"][0] == 14 and all(a < n for a, n in zip(seen["randn"][1:], lengths[1:], strict=True)), seen
assert seen["randn"][1] == 0, seen
PY
