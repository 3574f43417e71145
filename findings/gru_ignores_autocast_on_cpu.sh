#!/usr/bin/env bash
# Expected: autocast to bfloat16 on a processor treats nn.RNN, nn.LSTM and nn.GRU alike.
# Seen: RNN and LSTM return bfloat16, GRU returns float32, and so does a cell of an LSTM. A comparison of the recurrent
#   layers under autocast compares two precisions, and a bfloat16 layer behind a GRU gets float32.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
python - <<'PY'
import torch
from torch import nn

x = torch.randn(2, 5, 16)
with torch.autocast("cpu", torch.bfloat16):
    seen = {layer.__name__: layer(16, 16)(x)[0].dtype for layer in (nn.RNN, nn.LSTM, nn.GRU)}
    seen["LSTMCell"] = nn.LSTMCell(16, 16)(x[:, 0])[0].dtype
print(seen)
assert seen == {"RNN": torch.bfloat16, "LSTM": torch.bfloat16, "GRU": torch.float32, "LSTMCell": torch.float32}, seen
PY
