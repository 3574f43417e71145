#!/usr/bin/env bash
# Expected: `--benchmark-compare-fail=min:50%` exits non-zero if nothing is compared, as it does if there is no earlier
#   run to compare with.
# Seen: it fails a benchmark that is 20 times slower, but passes the same code once the benchmark is renamed, and passes
#   it unmeasured where pytest-xdist is active, which switches benchmarks off with a warning.
. "$(dirname "$0")/_environment.sh"
environment pytest==9.2.0 pytest-benchmark==5.3.1 pytest-xdist==3.8.0
cat > test_speed.py <<'PY'
import time


def test_encode(benchmark):
    benchmark.pedantic(time.sleep, (0.002,), rounds=5)
PY
gate() { # prints the exit status
  local status=0
  python -m pytest -q "$@" --benchmark-compare-fail=min:50% >output 2>&1 || status=$?
  echo $status
}
missing=$(gate --benchmark-compare)
python -m pytest -q --benchmark-autosave >/dev/null
sed -i 's/0\.002/0.04/' test_speed.py
slower=$(gate --benchmark-compare)
parallel=$(gate --benchmark-compare -n 1)
sed -i 's/test_encode/test_encoder/' test_speed.py
renamed=$(gate --benchmark-compare)
echo "exit status: no earlier run $missing, slower $slower, slower under xdist $parallel, slower and renamed $renamed"
[ "$missing" != 0 ] && [ "$slower" != 0 ] && [ "$parallel" = 0 ] && [ "$renamed" = 0 ]
