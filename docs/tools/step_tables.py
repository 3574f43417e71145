"""Tables of measured steps: time and memory over repetition ratios, engines, and the peers."""

from __future__ import annotations

import statistics

from bench.results.analysis.stats import REFERENCE
from docs.tools.gallery import (
    code,
    conditions,
    interval,
    measured,
    memory,
    ms,
    one,
    ratio,
    rows,
    run,
    share,
    table,
)
from reports import numbers, words

RATIO = "asked_repetition_ratio"
WAYS = ("local", "global", "auto")
"""In which processes share items, see docs/several-gpus.md."""


def fast_by_ratio() -> str:
    """One H100: what engine and method are worth, with 32 users."""
    eager, fast = measured("h100-full").summary, measured("h100-fast").summary
    lines = []
    for reference in rows(fast.sort_values(["text_length", RATIO]), method=REFERENCE, batch_size=32):
        case = {name: reference[name] for name in ("batch_size", "text_length", RATIO)}
        padded = {
            method: one(eager, method=method, workload="synthetic", **case) for method in (REFERENCE, "single_step")
        }
        single, *multi = (rows(fast, method=method, **case) for method in ("single_step", "multi_step"))
        lines.append([
            f"{case['text_length']:g} tokens", ratio(reference),
            *map(ms, padded.values()), ms(reference), ms(single[0]),
            numbers.speed_up(single[0]), numbers.speed_up(multi[0][0]) if multi[0] else numbers.MISSING,
            memory(reference), memory(single[0]),
        ])  # fmt: skip
    head = [
        "texts of up to", "repetition ratio", "`e2e` eager", "`single_step` eager", "`e2e` fast", "`single_step` fast",
        "speed-up in fast", "`multi_step` N=16 (stale)", "memory `e2e`", "`single_step`",
    ]  # fmt: skip
    said = conditions("h100-fast", rows(fast, batch_size=32), "encoder", "precision", "slots", "processes")
    return f"{said}\n\n{table(head, lines)}"


def eager_by_ratio() -> str:
    """The same shape in the engine eager, texts of up to 128 tokens."""
    summary = measured("h100-full").summary
    case = {"workload": "synthetic", "batch_size": 32, "text_length": 128}
    lines = []
    for reference in rows(summary.sort_values(RATIO), method=REFERENCE, **case):
        methods = [
            one(summary, method=method, **case, **{RATIO: reference[RATIO]})
            for method in ("e2e_unique", "single_step", "multi_step")
        ]
        peaks = (memory(row) for row in (reference, *methods[1:]))
        lines.append([ratio(reference), ms(reference), *map(numbers.speed_up, methods), *peaks])
    head = [
        "repetition ratio", "`e2e` a step", "`e2e_unique`", "`single_step`", "`multi_step` N=16 (stale)",
        "memory `e2e`", "`single_step`", "`multi_step`",
    ]  # fmt: skip
    said = conditions(
        "h100-full", rows(summary, **case), "encoder", "precision", "engine", "slots", "texts", "processes"
    )
    return f"{said}\n\n{table(head, lines)}"


def shapes() -> str:
    """One H200: `single_step` in both engines on each shape of texts."""
    names = ("h200-shapes", "h200-larger-shapes")
    found = [row for name in names for row in rows(measured(name).summary, workload="synthetic")]
    eager = {row["encoder"]: row for row in found if row["engine"] == "eager"}
    fast = {row["encoder"]: row for row in found if row["engine"] == "fast"}
    both = [(eager[encoder], fast[encoder]) for encoder in eager if encoder in fast]
    lines = [
        [code(words.encoder(slow)), ms(slow), ms(quick), f"{slow['median_s'] / quick['median_s']:.1f}{numbers.TIMES}"]
        for slow, quick in both
    ]
    compared = [row for pair in both for row in pair]
    said = conditions(names[0], compared, "precision", "users", "texts", "ratio", "processes")
    return f"{said}\n\n{table(['encoder', '`eager`', '`fast`', '`fast` is faster by'], lines)}"


def own_loops() -> str:
    """One H200: a loop of one's own beside `single_step`, in both engines."""
    names = ("h200-own-loop-qwen3", "h200-own-loop")
    found = [row for name in names for row in measured(name).summary.to_dict("records")]
    case = ("encoder", "engine", "text_length", "asked_repetition_ratio")
    by_line = {tuple(row[axis] for axis in (*case, "method")): row for row in found}
    lines = []
    for key, single in by_line.items():
        own = by_line.get((*key[:-1], "own_loop"))
        if key[-1] == "single_step" and own is not None:
            items, tokens = single["unique_items"], single["encoded_tokens"] / single["unique_items"]
            lines.append([
                code(words.encoder(single)), f"{items:g} x {tokens:.0f}", f"`{single['engine']}`", ms(single), ms(own),
                f"{own['median_s'] / single['median_s']:.2f}",
            ])  # fmt: skip
    said = conditions(names[1], found, "precision", "users", "processes")
    head = ["encoder", "items x tokens computed", "engine:", "`single_step`", "`own_loop`", "ratio"]
    return f"{said}\n\n{table(head, lines)}"


def pictures() -> str:
    """One H200: end to end and by `single_step` on pictures."""
    lines = []
    for name in ("h200-shapes", "h200-larger-shapes"):
        e2e, single = (
            one(measured(name).summary, workload="pictures", method=method) for method in (REFERENCE, "single_step")
        )
        lines.append([
            f"{e2e['batch_size']:g} users", ms(e2e), ms(single), numbers.speed_up(single), memory(e2e), memory(single),
            share(single),
        ])  # fmt: skip
    said = conditions("h200-shapes", rows(measured("h200-shapes").summary, workload="pictures"), "encoder", "precision")
    head = ["batch", "`e2e`", "`single_step`", "speed-up", "memory `e2e`", "`single_step`", "share"]
    return f"{said}\n\n{table(head, lines)}"


def movielens() -> str:
    """MiniLM's real weights on MovieLens-100k, in the engine eager."""
    found = rows(measured("h100-full").summary, workload="movielens")
    lines = [
        [code(row["label"]), row["exactness"], ms(row), numbers.speed_up(row), memory(row), share(row)] for row in found
    ]
    head = ["method", "gradient:", "a step", "speed-up", "peak memory", "of `e2e`'s"]
    said = conditions("h100-full", found, "encoder", "precision", "engine", "users", "texts", "ratio", "processes")
    return f"{said}\n\n{table(head, lines)}"


def gate_intervals() -> str:
    """Speed-ups with intervals over blocks."""
    summary = measured("h100-gate").summary
    lines = [
        [ratio(row), f"{row['users']:g}", f"{row['text_length']:g} tokens", code(row["label"]), row["exactness"],
         f"{numbers.speed_up(row)} {interval(row, 'speed_up')}",
         numbers.times(row["canary"], row["canary_low"], row["canary_high"])]
        for row in summary.sort_values([RATIO, "label"], ascending=[False, False]).to_dict("records")
        if row["method"] != REFERENCE
    ]  # fmt: skip
    head = ["repetition ratio", "users", "texts of up to", "method:", "gradient:", "speed-up (95 % interval)",
            "`e2e` against itself"]  # fmt: skip
    said = conditions("h100-gate", rows(summary), "encoder", "precision", "engine", "processes")
    return f"{said}\n\n{table(head, lines)}"


def large_batch() -> str:
    """A larger batch lets Multi-step's encoder move less often."""
    found = rows(measured("h100-fast").summary, batch_size=256)
    lines = [[code(row["label"]), row["exactness"], ms(row), memory(row)] for row in found]
    said = conditions("h100-fast", found, "encoder", "precision", "engine", "slots", "texts", "ratio")
    return f"{said}\n\n{table(['method', 'gradient:', 'a step', 'peak memory'], lines)}"


PAPER_MEMORY = {
    ("toeic", 8): (4.8, 38.6),
    ("toeic", 32): (6.5, 38.6),
    ("mind_body", 8): (5.1, 38.4),
    ("mind_body", 32): (14.1, 38.4),
}
"""GB of Multi-step GRAM and of end-to-end training in the paper's Table 6, by log and texts per encoder minibatch."""
LOGS = {"toeic": "TOEIC", "mind_body": "MIND with bodies"}


def paper_memory() -> str:
    """Peak memory as in the paper's Table 6."""
    lines, found = [], []
    for (log, texts), (theirs, whole) in PAPER_MEMORY.items():
        cells = [f"{LOGS[log]}, {texts}"]
        for engine in ("eager", "fast"):
            summary = measured(f"h100-memory/{log}-{texts}-{engine}").summary
            e2e, multi_step = (one(summary, method=method) for method in (REFERENCE, "multi_step"))
            found += [e2e, multi_step]
            cells += [memory(e2e), memory(multi_step)]
            if engine == "eager":
                cells += [share(multi_step), f"{theirs} of {whole} GB, {numbers.percent(theirs / whole)}"]
        lines.append(cells)
    fixed = [
        f"{numbers.gibibytes(run(f'h100-memory/{log}-8-eager').records[0].fixed_memory_bytes)} ({name})"
        for log, name in LOGS.items()
    ]
    head = [
        "log of the size of, texts per encoder minibatch", "`e2e`, eager, float32", "`multi_step`", "of `e2e`'s",
        "in the paper", "`e2e`, fast, bf16", "`multi_step`",
    ]  # fmt: skip
    within = f"weights and optimizer state in all of them: {words.listing(fixed)}"
    said = conditions("h100-memory/toeic-8-eager", found, "encoder", "users", more=[within])
    return f"{said}\n\n{table(head, lines)}"


def processor_engines() -> str:
    """Two processor cores: what padding costs."""
    records = run("cpu-fast").records
    seconds = {(r.method, r.engine, r.block): statistics.median(r.samples_s) for r in records}
    lines = []
    for method in (REFERENCE, "single_step"):
        gains = [seconds[method, "eager", r.block] / seconds[method, "fast", r.block]
                 for r in records if (r.method, r.engine) == (method, "fast")]  # fmt: skip
        lines.append([code(method), f"{statistics.median(gains):.1f}{numbers.TIMES}",
                      f"{min(gains):.1f} to {max(gains):.1f}{numbers.TIMES}"])  # fmt: skip
    whole = next(r for r in records if (r.method, r.engine) == (REFERENCE, "eager"))
    real = numbers.percent((whole.real_tokens or 0) / (whole.padded_tokens or 1))
    said = conditions(
        "cpu-fast",
        rows(measured("cpu-fast").summary),
        "encoder",
        "precision",
        "slots",
        "texts",
        "processes",
        more=[f"{real} of the padded tokens are real"],
    )
    return f"{said}\n\n{table(['method', '`fast` against `eager`, median block', 'range of the blocks'], lines)}"


def peers() -> str:
    """Every method and peer, over repetition ratios: speed-up and memory."""
    summary = measured("h100-peers").summary
    synthetic = summary[summary["workload"] == "synthetic"].sort_values(RATIO)
    ratios = words.order(synthetic[RATIO])
    lines = []
    for exactness in ("exact", "stale", "other-model"):
        found = [row for row in rows(synthetic, exactness=exactness) if row[RATIO] == 4]
        for row in sorted(found, key=lambda row: -row["speed_up"]):
            own = rows(synthetic, label=row["label"])
            real = one(summary, workload="movielens", label=row["label"])
            lines.append([
                code(row["label"]), exactness, *(numbers.speed_up(each) for each in (*own, real)),
                *(memory(own[ratios.index(each)]) for each in (1, 4)),
            ])  # fmt: skip
    real = one(summary, workload="movielens", method=REFERENCE)
    head = [
        "speed-up at a repetition ratio of", "gradient:", *(f"{each:g}" for each in ratios),
        f"MovieLens ({ratio(real)})", "memory at 1", "at 4",
    ]  # fmt: skip
    return f"{_peers_conditions()}\n\n{table(head, lines)}"


def exact_peers() -> str:
    """The exact ones alone, at three ratios: speed-up and memory."""
    summary = measured("h100-peers").summary
    synthetic = summary[(summary["workload"] == "synthetic") & (summary["exactness"] == "exact")]
    shown = (1, 4, 16)
    lines = []
    for row in sorted(rows(synthetic, **{RATIO: 4}), key=lambda row: -row["speed_up"]):
        own = [one(synthetic, label=row["label"], **{RATIO: each}) for each in shown]
        lines.append([code(row["label"]), *map(numbers.speed_up, own), *map(memory, own)])
    head = ["method", *(f"speed-up at {each}" if each == 1 else f"at {each}" for each in shown),
            *(f"memory at {each}" if each == 1 else f"at {each}" for each in shown)]  # fmt: skip
    return f"{_peers_conditions()}\n\n{table(head, lines)}"


def _peers_conditions() -> str:
    found = rows(measured("h100-peers").summary, workload="synthetic")
    return conditions("h100-peers", found, "encoder", "precision", "engine", "slots", "texts", "processes")


def equal_memory() -> str:
    """Single-step in chunks beside gradient caching in the same chunks."""
    lines, found = [], []
    for tokens in (8192, 32768):
        summary = measured(f"h100-peers-memory/chunks-of-{tokens}").summary
        for ours in rows(summary.sort_values(RATIO), method="single_step"):
            peer = one(summary, method="gradient_cache_unique", **{RATIO: ours[RATIO]})
            found += [ours, peer]
            more = ours["memory_bytes"] / peer["memory_bytes"] - 1
            lines.append([f"{tokens:,} tokens", ratio(ours), memory(ours), memory(peer), f"{100 * more:+.1f} %",
                          ms(ours), ms(peer)])  # fmt: skip
    head = ["chunks of up to", "repetition ratio", "`single_step`", "`gradient_cache_unique`", "memory",
            "`single_step`, a step", "`gradient_cache_unique`"]  # fmt: skip
    said = conditions("h100-peers-memory/chunks-of-8192", found, "encoder", "precision", "engine", "slots", "texts")
    return f"{said}\n\n{table(head, lines)}"


def two_gpus() -> str:
    """Steps of one GPU and of two, each with users of its own."""
    summary = measured("h200x2-fast").summary
    keys = ["workload", "encoder", "adapter", "method", "text_length"]
    lines = []
    for case, found in summary.groupby(keys, sort=False):
        alone, *_ = rows(found, world_size=1)
        several = {row["deduplicate"]: row for row in rows(found, world_size=2)}
        best = min(several.values(), key=lambda row: row["median_s"])
        lines.append([
            f"`{case[0]}`, `{words.encoder(alone)}`, {alone['users']:g} users, texts of up to {case[4]:g} tokens",
            code(alone["label"]), ms(alone), *(ms(several[way]) if way in several else numbers.MISSING for way in WAYS),
            numbers.times(best["users_per_s"] / alone["users_per_s"]),
            numbers.percent(best["communication_s"] / best["median_s"]),
        ])  # fmt: skip
    head = ["a GPU has:", "method:", "one GPU", *(f"two, {way}" for way in WAYS), "users per second",
            "communication that nothing hides"]  # fmt: skip
    said = conditions("h200x2-fast", rows(summary), "precision", "engine", "processes")
    return f"{said.replace('One NVIDIA', 'NVIDIA', 1)}\n\n{table(head, lines)}"


def four_gpus() -> str:
    """Steps of one GPU, of two where they were taken, and of four, each with users of its own, items shared."""
    summary = measured("h200x4-fast").summary
    lines = []
    for case, found in summary.groupby(["workload", "encoder", "adapter", "method", "text_length"], sort=False):
        by_size = {row["world_size"]: row for row in rows(found)}
        alone, four = by_size[1], by_size[4]
        lines.append([
            f"`{case[0]}`, `{words.encoder(alone)}`, {alone['users']:g} users, texts of up to {case[4]:g} tokens",
            code(alone["label"]), ms(alone), ms(by_size[2]) if 2 in by_size else numbers.MISSING, ms(four),
            numbers.times(four["users_per_s"] / alone["users_per_s"]),
            numbers.percent(four["communication_s"] / four["median_s"]),
        ])  # fmt: skip
    head = ["a GPU has:", "method:", "one GPU", "two", "four", "users per second of four",
            "communication that nothing hides"]  # fmt: skip
    said = conditions("h200x4-fast", rows(summary), "precision", "engine", "processes")
    return f"{said.replace('One NVIDIA', 'NVIDIA', 1)}\n\n{table(head, lines)}"
