#!/usr/bin/env bash
# Expected: FlopCounterMode counts the products of every layer, so that counts of two models can be compared: attention
#   has 4*B*H*L*L*d operations, an LSTM more than a GRU of the same width.
# Seen: on a processor scaled_dot_product_attention and nn.LSTM count as zero, forward and backward, for they run as one
#   operator without a formula; nn.GRU of the same width is counted in full. No warning.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
python - <<'PY'
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count(call):
    with FlopCounterMode(display=False) as counter:
        call().sum().backward()
    return counter.get_total_flops()


q = torch.randn(1, 2, 8, 16, requires_grad=True)
x = torch.randn(2, 5, 16)
lstm, gru = nn.LSTM(16, 16, batch_first=True), nn.GRU(16, 16, batch_first=True)
seen = {
    "attention, fused": count(lambda: nn.functional.scaled_dot_product_attention(q, q, q)),
    "attention, two products": count(lambda: torch.softmax(q @ q.transpose(-1, -2), dim=-1) @ q),
    "LSTM": count(lambda: lstm(x)[0]),
    "GRU": count(lambda: gru(x)[0]),
}
print(seen)
assert seen["attention, fused"] == 0 and seen["LSTM"] == 0, seen
assert seen["attention, two products"] == 3 * 4 * 2 * 8 * 8 * 16, seen
assert seen["GRU"] > 0, seen
PY
