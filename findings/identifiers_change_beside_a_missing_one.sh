#!/usr/bin/env bash
# Expected: `Table.to_pandas`, whose `safe=True` is said to check for lost data, raises where 64-bit identifiers with a
#   missing value do not fit into float64, as pyarrow's cast of the same column does.
# Seen: the cast raises, to_pandas rounds. Two hashed identifiers next to each other become one item, silently, as soon
#   as any row of the column is missing; without it they stay int64.
. "$(dirname "$0")/_environment.sh"
environment pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6
python - <<'PY'
import pyarrow as pa

identifiers = [2**53, 2**53 + 1]
seen = {}
for name, values in (("complete", identifiers), ("with a missing one", [*identifiers, None])):
    table = pa.table({"item": pa.array(values, pa.int64())})
    column = table.to_pandas(safe=True)["item"]
    seen[name] = (str(column.dtype), column.nunique())
    print(f"{name}: {column.dtype}, {column.nunique()} different of {len(identifiers)}")
try:
    table["item"].cast(pa.float64())
except pa.ArrowInvalid as error:
    print("the cast raises:", error)
else:
    raise AssertionError("the cast is no longer checked")
assert seen == {"complete": ("int64", 2), "with a missing one": ("float64", 1)}, seen
PY
