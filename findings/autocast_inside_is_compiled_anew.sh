#!/usr/bin/env bash
# Expected: torch keeps compiled functions on disk, so that a second process takes each from there.
# Seen: not one with an autocast block inside, whichever way it switches. Its forward and backward graphs are traced and
#   partitioned anew in every process (a counter says bypass, a debug log why; no warning); kernels alone are found.
#   The same function with the block around its call is taken from the cache.
# Needs a C++ compiler, as torch.compile does on a processor.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 numpy==2.4.6
cat > compiled.py <<'PY'
import sys

import torch
from torch._dynamo.utils import counters


def outside(x, w):
    return (x @ w).relu()


def inside(x, w):
    with torch.autocast("cpu", enabled=False):
        return (x @ w).relu()


function = torch.compile({"inside": inside, "outside": outside}[sys.argv[1]])
x, w = torch.randn(4, 8), torch.randn(8, 8, requires_grad=True)
with torch.autocast("cpu", enabled=False):
    function(x, w).sum().backward()
found = counters["aot_autograd"]
print(*(name for name in ("autograd_cache_miss", "autograd_cache_hit", "autograd_cache_bypass") if found[name]))
PY
export TORCHINDUCTOR_CACHE_DIR="$work/compiled"
for where in outside inside; do
  first=$(python compiled.py "$where")
  second=$(python compiled.py "$where")
  echo "autocast $where: first process $first, second $second"
  if [ "$where" = outside ]; then
    [ "$first" = autograd_cache_miss ] && [ "$second" = autograd_cache_hit ]
  else
    [ "$first" = autograd_cache_bypass ] && [ "$second" = autograd_cache_bypass ]
  fi
done
