#!/usr/bin/env bash
# Expected: the t interval of measurements that are all equal is (mean, mean), from scipy.stats.t.interval with
#   scale=0 as from the confidence interval of a t test.
# Seen: t.interval and norm.interval give (nan, nan) for scale=0, ttest_1samp's interval gives (mean, mean), bootstrap
#   gives (nan, nan) by its default method and (mean, mean) by percentiles. A gate failing at `high > limit` passes.
. "$(dirname "$0")/_environment.sh"
environment scipy==1.17.1 numpy==2.4.6
python - <<'PY'
import numpy as np
from scipy import stats

times = np.array([1.0, 1.0, 1.0])
seen = {
    "t.interval": stats.t.interval(0.95, df=2, loc=times.mean(), scale=stats.sem(times)),
    "norm.interval": stats.norm.interval(0.95, loc=times.mean(), scale=stats.sem(times)),
    "ttest_1samp": tuple(stats.ttest_1samp(times, 0).confidence_interval()),
    "bootstrap BCa": tuple(stats.bootstrap((times,), np.mean, rng=0).confidence_interval),
    "bootstrap percentile": tuple(stats.bootstrap((times,), np.mean, method="percentile", rng=0).confidence_interval),
}
for name, (low, high) in seen.items():
    print(f"{name:21} ({low}, {high})")
undefined = {name for name, interval in seen.items() if np.isnan(interval).all()}
assert undefined == {"t.interval", "norm.interval", "bootstrap BCa"}, undefined
assert all(seen[name] == (1.0, 1.0) for name in seen.keys() - undefined), seen
PY
