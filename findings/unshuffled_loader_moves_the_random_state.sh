#!/usr/bin/env bash
# Expected: iterating over a DataLoader with shuffle=False and no workers draws no random numbers: validating between
#   two epochs leaves dropout and negative sampling of training as they were.
# Seen: every `iter(loader)` draws a base seed from the global generator, workers or not. A run that validates and one
#   that does not differ from there on. A generator of the loader's own avoids it.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
python - <<'PY'
import torch
from torch.utils.data import DataLoader

seen = {}
for name, options in (("default", {}), ("generator of its own", {"generator": torch.Generator()})):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches = [batch.tolist() for batch in DataLoader(range(4), batch_size=2, shuffle=False, **options)]
    assert batches == [[0, 1], [2, 3]]
    seen[name] = torch.equal(before, torch.get_rng_state())
print("global random state untouched:", seen)
assert seen == {"default": False, "generator of its own": True}, seen
PY
