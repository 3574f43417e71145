#!/usr/bin/env bash
# Expected: a Parquet file with INT96 timestamps (Spark, Impala, Hive) read by pyarrow gives what was written, or an
#   error where a date does not fit, as a cast to nanoseconds raises one.
# Seen: reading puts INT96 into nanoseconds without a check: 9999-12-31, the usual "open end", comes back as a day of
#   1816. pyarrow's own write and read do not return the table, and sorting a log by time puts such rows first.
. "$(dirname "$0")/_environment.sh"
environment pyarrow==26.0.1
python - <<'PY'
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq

table = pa.table({"until": pa.array([datetime(9999, 12, 31)], pa.timestamp("us"))})
pq.write_table(table, "log.parquet", use_deprecated_int96_timestamps=True)
read = pq.read_table("log.parquet")["until"]
checked = pq.read_table("log.parquet", coerce_int96_timestamp_unit="us")["until"]
year = read.cast(pa.timestamp("s"), safe=False)[0].as_py().year
print(f"wrote {table['until'][0]}, read a day of {year} ({read.type}); with a unit of microseconds {checked[0]}")
try:
    table["until"].cast(pa.timestamp("ns"))
except pa.ArrowInvalid as error:
    print("the cast of the same value raises:", error)
else:
    raise AssertionError("the cast is no longer checked")
assert (read.type, year) == (pa.timestamp("ns"), 1816), (read.type, year)
assert checked.cast(pa.timestamp("us")).equals(table["until"])
PY
