"""The gate's verdicts on recorded runs: what passes, what fails, what cannot be told, and why."""

import pytest

from bench.configuration.gate_settings import GateSettings
from bench.gating.gate import judge, strictly
from bench.gating.references import make
from bench.results.analysis.lines import lines
from bench.results.schema import Inputs, PeakMemory, Spread, Telemetry
from bench.results.store import LoadedRun
from tests.bench import _gated_runs as runs
from tests.bench._gated_runs import MIB, PEAK, blocks, case


@pytest.fixture
def loaded(tmp_path):
    """A function: records -> the run that they are."""

    def run(records, header=None) -> LoadedRun:
        records = tuple(records)
        header = (header or runs.info()).model_copy(update={"planned_records": len(records)})
        return LoadedRun(tmp_path, header, records, ())

    return run


def against(loaded, then, now, **settings):
    """The report on `now` with `then` as reference."""
    return judge(loaded(now), GateSettings(**settings), make(loaded(then)))


def only(report, method="single_step"):
    """The report's one line of a method."""
    (line,) = [line for line in report.lines if line.label == method]
    return line


def check_of(report, name, method="single_step"):
    return next(check for check in only(report, method).checks if check.name == name)


def test_the_same_again_passes(loaded):
    report = against(loaded, case(seed=1), case(seed=2))
    assert (report.verdict, report.code, report.exit_code) == ("PASS", "passed", 0)
    assert {line.label for line in report.lines} == {"e2e", "single_step"}
    assert check_of(report, "reference").code == "no-loss"
    assert check_of(report, "memory").code == "memory-held"


@pytest.mark.parametrize("slower", [1.08, 1.10, 1.3])
def test_a_loss_beyond_the_tolerance_fails(loaded, slower):
    report = against(loaded, case(4.0, seed=1), case(4.0 / slower, seed=2))
    assert (report.verdict, report.exit_code) == ("FAIL", 3)
    check = check_of(report, "reference")
    assert check.code == "speed-lost"
    assert f"{100 * (1 / slower - 1):.0f}"[:2] in check.reason
    assert "in the reference" in check.reason
    assert only(report, "e2e").verdict == "PASS"


def test_a_gain_passes(loaded):
    assert against(loaded, case(4.0, seed=1), case(5.0, seed=2)).verdict == "PASS"


def test_a_loss_near_the_tolerance_is_undecided_and_strictness_gives_it_an_exit_code(loaded):
    report = against(loaded, case(4.0, seed=1), case(4.0 * 0.95, seed=2))
    assert (report.verdict, report.code, report.exit_code) == ("INCONCLUSIVE", "inconclusive", 0)
    assert check_of(report, "reference").code == "unclear"
    assert strictly(report).exit_code == 4
    assert strictly(against(loaded, case(seed=1), case(seed=2))).exit_code == 0


def test_the_references_own_uncertainty_counts(loaded):
    """Held against a point, the noise of the reference would become a loss."""
    noisy, now = case(4.4, seed=1, noise=0.12), case(4.0, seed=2)
    check = check_of(against(loaded, noisy, now, canary_limit=0.9), "reference")
    assert check.verdict == "INCONCLUSIVE"
    certain = check_of(against(loaded, case(4.4, seed=1), now), "reference")
    assert certain.verdict == "FAIL"


def test_many_comparisons_are_one_family(loaded):
    """A loss that is just beyond chance by itself is none among 48 comparisons."""
    ratios = [float(ratio) for ratio in range(2, 50)]
    then = [record for ratio in ratios for record in case(4.0, ratio=ratio, seed=1, canary=None, noise=0.02)]
    lossy = case(4.0 * 0.88, ratio=2.0, seed=5, canary=None, noise=0.02)
    fine = [record for ratio in ratios[1:] for record in case(4.0, ratio=ratio, seed=2, canary=None, noise=0.02)]
    alone = judge(loaded(lossy), GateSettings(), make(loaded([r for r in then if r.case == lossy[0].case])))
    assert check_of(alone, "reference").verdict == "FAIL"
    report = against(loaded, then, [*lossy, *fine])
    (check,) = [
        check
        for line in report.lines
        if line.case == lossy[0].case and line.label == "single_step"
        for check in line.checks
        if check.name == "reference"
    ]
    assert (check.verdict, check.code) == ("INCONCLUSIVE", "loss-among-many")
    assert "48 comparisons" in check.reason
    assert check.p_fail == pytest.approx(48 * check_of(alone, "reference").p_fail)


@pytest.mark.parametrize(
    ("at_least", "verdict", "code"),
    [(3.5, "PASS", "above-floor"), (4.5, "FAIL", "below-floor"), (4.0, "INCONCLUSIVE", "floor-unclear")],
)
def test_a_floor_has_three_states(loaded, at_least, verdict, code):
    report = judge(loaded(case(4.0)), GateSettings(**runs.floor(at_least, item_repetition_ratio=8)))
    check = check_of(report, "floor")
    assert (check.verdict, check.code) == (verdict, code)
    assert f"{at_least:.3g}x" in check.reason
    assert report.verdict == verdict


def test_a_floor_of_another_device_or_case_is_not_this_lines(loaded):
    floors = [
        {"method": "single_step", "at_least": 100.0, "device": "cpu"},
        {"method": "single_step", "at_least": 3.0, "item_repetition_ratio": 8},
    ]
    report = judge(loaded([*case(4.0), *case(1.0, ratio=1.0)]), GateSettings(floor=floors))
    assert [line.case["item_repetition_ratio"] for line in report.lines] == [8.0]
    assert report.verdict == "PASS"


def test_a_floor_that_no_line_fits_fails(loaded):
    report = judge(loaded(case(4.0, ratio=7.0)), GateSettings(**runs.floor(2.0, item_repetition_ratio=8)))
    assert report.exit_code == 3
    assert only(report).deciding.code == "missing"
    assert "item_repetition_ratio = 8" in only(report).case_title


def test_a_floor_needs_its_line_and_e2e_measured(loaded):
    settings = GateSettings(**runs.floor(2.0))
    gone = judge(loaded(case(outcome="oom", reason="out of memory at 79 GiB")), settings)
    assert (gone.verdict, only(gone).deciding.code) == ("FAIL", "oom")
    without = [*blocks("e2e", 0.1, outcome="oom", reason="out of memory"), *blocks("single_step", 0.02)]
    report = judge(loaded(without), settings)
    assert (report.verdict, only(report).deciding.code) == ("FAIL", "no-ratio")
    assert "e2e ran out of memory" in only(report).deciding.reason


@pytest.mark.parametrize("outcome", ["oom", "timeout", "error", "skipped"])
def test_what_was_measured_and_now_is_not_fails(loaded, outcome):
    report = against(loaded, case(seed=1), case(seed=2, outcome=outcome, reason="this and that"))
    check = only(report).deciding
    assert (report.exit_code, check.code) == (3, f"newly-{outcome}")
    assert "this and that" in check.reason
    assert "was measured in the reference" in check.reason


def test_one_block_that_fails_is_a_failure(loaded):
    """A method that fails now and then fails, even where the other blocks are as fast as ever."""
    now = case(seed=2)
    now[-1] = blocks("single_step", 0.025, outcome="error", reason="worker died of signal 9", count=6)[-1]
    check = only(against(loaded, case(seed=1), now)).deciding
    assert check.code == "newly-error"
    assert "1 of 6 blocks" in check.reason


def test_out_of_memory_as_before_passes_and_an_error_instead_does_not(loaded):
    then = case(seed=1, outcome="oom", reason="out of memory")
    then += case(seed=1, ratio=2.0)
    again = [*case(seed=2, outcome="oom", reason="out of memory"), *case(seed=2, ratio=2.0)]
    assert against(loaded, then, again).verdict == "PASS"
    broken = [*case(seed=2, outcome="error", reason="TypeError"), *case(seed=2, ratio=2.0)]
    assert against(loaded, then, broken).exit_code == 3
    mended = [*case(seed=2), *case(seed=2, ratio=2.0)]
    report = against(loaded, then, mended)
    assert report.verdict == "PASS"
    assert "fixed" in {check.code for line in report.lines for check in line.checks}


def test_a_renamed_case_fails_and_says_what_it_may_be_called_now(loaded):
    then = [*case(seed=1), *case(seed=1, ratio=2.0)]
    report = against(loaded, then, [*case(seed=2), *case(seed=2, ratio=3.0)])
    failed = report.of("FAIL")
    assert report.exit_code == 3
    assert {line.label for line in failed} == {"e2e", "single_step"}
    assert {line.deciding.code for line in failed} == {"renamed"}
    assert "item_repetition_ratio = 3.0 instead of 2.0" in failed[0].deciding.reason
    assert any("not judged" in note for note in report.notes)


def test_a_missing_case_fails(loaded):
    report = against(loaded, [*case(seed=1), *case(seed=1, ratio=2.0)], case(seed=2))
    assert report.exit_code == 3
    assert {line.deciding.code for line in report.of("FAIL")} == {"missing"}


@pytest.mark.parametrize(
    ("then", "now", "code"),
    [
        (PEAK, round(PEAK * 1.05), "memory-grown"),
        (PEAK, round(PEAK * 1.01) + 8 * MIB, "memory-held"),
        (PEAK, round(PEAK * 1.01) + 9 * MIB, "memory-grown"),
        (100 * MIB, 105 * MIB, "memory-held"),  # within the slack: a workspace more
        (PEAK, PEAK // 2, "memory-held"),
        (PEAK, None, "memory-unknown"),
    ],
)
def test_allocated_memory_has_a_tight_bound(loaded, then, now, code):
    report = against(loaded, case(seed=1, allocated=then), case(seed=2, allocated=now))
    check = check_of(report, "memory")
    assert check.code == code
    assert report.verdict == {"memory-grown": "FAIL", "memory-held": "PASS", "memory-unknown": "INCONCLUSIVE"}[code]


@pytest.mark.parametrize(("growth", "verdict"), [(1.05, "PASS"), (1.10, "PASS"), (1.2, "FAIL")])
def test_a_processors_resident_memory_has_a_wide_one(loaded, growth, verdict):
    def records(seed, peak):
        return [
            record.model_copy(update={"peak_memory_bytes": PeakMemory(process=round(peak))})
            for record in case(seed=seed)
        ]

    report = against(loaded, records(1, PEAK), records(2, PEAK * growth))
    assert check_of(report, "memory").verdict == verdict
    assert "resident peak" in check_of(report, "memory").reason


@pytest.mark.parametrize("canary", [0.95, 1.04])
def test_a_canary_out_of_bounds_makes_everything_inconclusive(loaded, canary):
    then = case(4.0, seed=1)
    for now in (case(3.0, seed=2, canary=canary), case(4.0, seed=2, canary=canary, allocated=2 * PEAK)):
        report = against(loaded, then, now)
        assert (report.verdict, report.code, report.exit_code) == ("INCONCLUSIVE", "untrusted", 0)
        assert {line.verdict for line in report.lines} == {"INCONCLUSIVE"}
        assert "too unsteady" in report.reason


def test_what_needs_no_clock_fails_whatever_the_canary_says(loaded):
    """Else a broken method passes on every noisy machine."""
    then = [*case(seed=1), *case(seed=1, ratio=2.0)]
    report = against(loaded, then, case(seed=2, canary=1.2))
    assert {line.deciding.code for line in report.of("FAIL")} == {"missing"}
    report = against(loaded, case(seed=1), case(seed=2, canary=1.2, outcome="error", reason="TypeError"))
    assert only(report).deciding.code == "newly-error"
    assert report.exit_code == 3


def test_the_canarys_limit_is_three_percent_on_a_processor(loaded):
    records = case(4.0, canary=1.02)
    settings = GateSettings(**runs.floor(2.0))
    assert judge(loaded(records), settings).code == "untrusted"
    assert judge(loaded(records, runs.info("cpu")), settings).verdict == "PASS"
    assert judge(loaded(records), settings.model_copy(update={"canary_limit": 0.1})).verdict == "PASS"


def test_a_single_block_has_no_verdict(loaded):
    report = against(loaded, case(seed=1), case(seed=2, count=1, canary=None))
    check = check_of(report, "reference")
    assert (check.verdict, check.code) == ("INCONCLUSIVE", "one-block")
    assert "run.blocks" in check.reason


def test_nothing_measured_has_its_own_code(loaded):
    failed = [
        *blocks("e2e", 0.1, outcome="error", reason="no such device"),
        *blocks("single_step", 0.1, outcome="error", reason="no such device"),
    ]
    for records in ([], failed):
        report = judge(loaded(records), GateSettings(**runs.floor(2.0)))
        assert (report.verdict, report.code, report.exit_code) == ("FAIL", "nothing-measured", 5)


def test_clocks_that_were_steady_on_both_sides_tighten_the_tolerance(loaded):
    steady = {"telemetry": runs.STEADY}

    def told(records):
        return [record.model_copy(update=steady) for record in records]

    assert against(loaded, told(case(seed=1)), told(case(seed=2))).tolerance == 0.03
    assert against(loaded, case(seed=1), told(case(seed=2))).tolerance == 0.05
    assert against(loaded, told(case(seed=1)), case(seed=2)).tolerance == 0.05
    shared = runs.STEADY.model_copy(update={"foreign_processes": 1})
    visited = [*told(case(seed=2))[1:], case(seed=2)[0].model_copy(update={"telemetry": shared})]
    assert against(loaded, told(case(seed=1)), visited).tolerance == 0.05
    assert against(loaded, case(seed=1), case(seed=2), tolerance=0.1).tolerance == 0.1


def test_a_clock_that_only_the_power_cap_moves_is_the_methods_own(loaded):
    """A GPU that works is at its cap: with the wider tolerance a loss of 5 % would never be found there."""
    capped = Telemetry(sm_clock_mhz=Spread(min=1545, median=1700, max=1920), foreign_processes=0)

    def told(records, reasons):
        telemetry = capped.model_copy(update={"throttle_reasons": reasons})
        return [record.model_copy(update={"telemetry": telemetry}) for record in records]

    def tolerance(reasons):
        return against(loaded, told(case(seed=1), reasons), told(case(seed=2), reasons)).tolerance

    assert tolerance(("sw_power_cap",)) == 0.03
    assert tolerance(("applications_clocks_setting",)) == tolerance(()) == tolerance(None) == 0.05


def at_loads(records, *loads):
    """The records, in whose blocks others' tasks wanted so many cores, and whose ratio moved with that."""
    made = []
    for record in records:
        load = loads[record.block]
        slower = (1 + load) ** (0.35 if record.method == "e2e" else 0.0)
        samples = tuple(each * slower for each in record.samples_s)
        made.append(record.model_copy(update={"telemetry": Telemetry(load=load), "samples_s": samples}))
    return made


def test_runs_at_other_loads_are_compared_at_one(loaded):
    """By block values alone the speed-up lost a fifth; the load did that, and the reader is told so."""
    busy, calm = (2.0, 2.6, 2.9, 1.6, 2.4, 2.8), (0.6, 1.8, 0.5, 1.4, 0.9, 2.0)
    then, now = at_loads(case(seed=1), *busy), at_loads(case(seed=2), *calm)
    check = check_of(against(loaded, then, now), "reference")
    assert check.now / check.then < 0.86
    assert check.verdict == "PASS"
    assert "compared at one load, since load was 0.5 to 2.0 tasks per core now, 1.6 to 2.9 in the" in check.reason
    lost = check_of(against(loaded, then, at_loads(case(3.0, seed=2), *calm)), "reference")
    assert (lost.verdict, lost.change) == ("FAIL", pytest.approx(-0.25, abs=0.03))
    assert "others' tasks per processor core moved between 0.5 and 2.0" in " ".join(against(loaded, then, now).notes)


def test_runs_at_loads_far_apart_are_not_compared(loaded):
    then = at_loads(case(seed=1), *[2.9, 3.0, 2.95, 3.0, 2.9, 2.98])
    now = at_loads(case(seed=2), *[0.1, 0.12, 0.1, 0.14, 0.1, 0.11])
    check = check_of(against(loaded, then, now), "reference")
    assert (check.verdict, check.code) == ("INCONCLUSIVE", "load")
    assert "load was 0.1 tasks per core now, 2.9 to 3.0 in the reference, too far apart to compare" in check.reason


def test_a_batch_of_less_repetition_is_named_as_the_cause(loaded):
    """The loss is the input's then, and nobody should look for it in the code."""
    now = [record.model_copy(update={"item_repetition_ratio": 4.0}) for record in case(2.0, seed=2)]
    report = against(loaded, case(4.0, seed=1), now)
    assert report.exit_code == 3
    assert "repeat items 4 times, the reference's 8 times" in check_of(report, "reference").reason


def test_other_repetition_is_told_with_every_verdict(loaded):
    """PASS included: a speed-up that holds on other input says nothing of the code."""
    now = [record.model_copy(update={"item_repetition_ratio": 7.0}) for record in case(seed=2)]
    report = against(loaded, case(seed=1), now)
    assert report.verdict == "PASS"
    told = "its batches repeat items 7 times, the reference's 8 times: the input differs"
    assert all(told in line.deciding.reason for line in report.lines)
    grown = against(
        loaded, case(seed=1), [*now[:12], *case(seed=2, item_repetition_ratio=7.0, allocated=2 * PEAK)[12:]]
    )
    assert {line.verdict for line in grown.lines} == {"PASS", "FAIL"}
    assert all(told in line.deciding.reason for line in grown.lines)
    same = against(loaded, case(seed=1), case(seed=2))
    assert not any("the input differs" in check.reason for line in same.lines for check in line.checks)


def test_another_log_or_encoder_is_told_with_every_verdict(loaded):
    def of(records, **inputs):
        return [record.model_copy(update={"inputs": Inputs(**inputs)}) for record in records]

    then = of(case(seed=1), log={"items": "1" * 64}, encoder={"weights": "2" * 64})
    for inputs, told in (
        ({"log": {"items": "3" * 64}, "encoder": {"weights": "2" * 64}}, "the log of synthetic"),
        ({"log": {"items": "1" * 64}, "encoder": {"weights": "3" * 64}}, "the encoder shape:tinybert-6-768"),
    ):
        report = against(loaded, then, of(case(seed=2), **inputs))
        assert report.verdict == "PASS"
        assert all(f"{told} is another one: the input differs" in line.deciding.reason for line in report.lines)
        assert any(note.startswith(f"not measured on the same as the reference: {told}") for note in report.notes)
    assert not any("same" in note or "not known" in note for note in against(loaded, then, then).notes)
    (unknown,) = [note for note in against(loaded, case(seed=1), then).notes if "keeps no hash" in note]
    assert "the log of synthetic; the encoder shape:tinybert-6-768" in unknown
    failed = [*then[:12], *blocks("single_step", 0.02, seed=1, outcome="oom")]
    assert not any("keeps no hash" in note for note in against(loaded, then, failed).notes), "its neighbours tell"


def test_a_reference_keeps_its_canary_and_the_gate_tells_it(loaded):
    steady, unsteady = make(loaded(case(seed=1))), make(loaded(case(seed=1, canary=1.2)))
    assert steady.canary.trusted
    assert steady.canary.low < steady.canary.ratio < steady.canary.high
    assert not unsteady.canary.trusted
    for reference, told in (
        (steady, f"the reference's canary: e2e against itself was {steady.canary.in_words}"),
        (unsteady, "that machine was too unsteady to trust"),
        (steady.model_copy(update={"canary": None}), "the reference keeps no canary"),
    ):
        notes = judge(loaded(case(seed=2)), GateSettings(), reference).notes
        assert any(told in note for note in notes), notes


def test_a_reference_keeps_what_its_run_says_and_survives_its_file(loaded, tmp_path):
    reference = make(loaded(case(seed=1)))
    again = type(reference).model_validate_json(reference.model_dump_json())
    assert again == reference
    assert again.lines == lines(case(seed=1))
    assert again.lines[1].speed_up.standard_error > 0
