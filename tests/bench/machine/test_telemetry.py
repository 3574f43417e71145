"""What is seen of a device from outside, and which rounds that drops."""

from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from bench.machine import telemetry
from bench.machine.telemetry import NvmlSource, Reading, Sampler, Stretch, Unwatched, why_dropped
from bench.results.schema import Telemetry

STEADY = {"sm_clock_mhz": 1980.0, "throttle_reasons": frozenset()}


class TestDropping:
    @pytest.mark.parametrize("reason", sorted(telemetry.SLOWDOWNS))
    def test_a_slowdown_drops_the_window(self, reason):
        readings = [Reading(0, **STEADY), Reading(1, 1980.0, throttle_reasons=frozenset({reason, "sw_power_cap"}))]
        assert why_dropped(readings) == reason

    @pytest.mark.parametrize("clock", [1700.0, 1300.0, 300.0])
    def test_a_clock_that_power_holds_back_is_how_a_device_runs(self, clock):
        """A heavy encoder draws the clock to 65 % of its maximum in every window: all its rounds would be gone."""
        capped = frozenset({"sw_power_cap"})
        assert why_dropped([Reading(0, 1980.0), *[Reading(1, clock, throttle_reasons=capped)] * 9]) is None
        assert why_dropped([Reading(0, clock)]) is None, "nor without a reason told"

    def test_what_is_not_told_drops_nothing(self):
        assert why_dropped([]) is None
        assert why_dropped([Reading(0)]) is None


def counted(changes: list[tuple[float, float]], step_s: float = 0.005) -> list[Reading]:
    """What is read of a counter that stands at 900 J and changes so, a look every so often from 0.7 to 1.6 s."""
    looks = [0.7 + step_s * number for number in range(int(0.9 / step_s))]
    return [Reading(at, energy_j=max([900.0, *(joules for when, joules in changes if when <= at)])) for at in looks]


class TestSummary:
    def test_a_device_that_tells_nothing_leaves_nulls(self):
        assert telemetry.summary([Stretch(0, 1, Unwatched().between(0, 1))], 100.0) == Telemetry()
        assert telemetry.summary([]) == Telemetry()

    def test_energy_is_power_between_changes_of_the_counter_by_the_windows_time(self):
        """The neighbour's 900 W, counted until 0.05 s into the window, are in no number; nor is what follows it."""
        readings = counted(
            [(1.05, 1000.0), (1.15, 1040.0), (1.25, 1070.0), (1.35, 1100.0), (1.45, 1130.0), (1.5, 1300)]
        )
        told = telemetry.summary([Stretch(1.0, 1.48, readings, own_from_s=0.8)] * 2, 5000.0)
        assert told.energy_j == pytest.approx(2 * 0.48 * (1130 - 1000) / 0.4, rel=0.01)
        assert told.energy_per_1000_interactions_j == pytest.approx(told.energy_j / 5)

    def test_what_the_counter_may_owe_to_the_one_before_is_left_out(self):
        readings = counted([(1.05, 1000.0), (1.15, 1040.0), (1.25, 1070.0), (1.35, 1100.0)])
        told = telemetry.summary([Stretch(1.0, 1.4, readings)])  # what was counted at 1.05 began before 1.0
        assert told.energy_j == pytest.approx(0.4 * 300, rel=0.01)

    @pytest.mark.parametrize(
        ("changes", "step_s"),
        [
            ([(1.15, 1030.0)], 0.005),
            ([(1.15, 1030.0), (1.25, 1060.0)], 0.02),
            ([(1.15, 1030.0), (1.25, 1060.0), (1.35, 1090.0)], 0.04),
        ],
        ids=["one change", "two, looked at every 20 ms", "three, looked at every 40 ms"],
    )
    def test_energy_that_is_not_known_to_3_percent_is_no_number(self, changes, step_s):
        told = telemetry.summary([Stretch(1.0, 1.4, counted(changes, step_s), own_from_s=0.8)], 5000.0)
        assert (told.energy_j, told.energy_per_1000_interactions_j) == (None, None)

    def test_neighbours_readings_are_not_a_windows(self):
        """A window without any of its own, of a millisecond, has those beside it."""
        beside = [Reading(0.99, 1980.0, power_w=100.0), Reading(1.5, 1900.0, power_w=200.0)]
        own = [beside[0], Reading(1.2, 1500.0, power_w=690.0), beside[1]]
        assert telemetry.summary([Stretch(1.0, 1.4, own)]).sm_clock_mhz.max == 1500
        assert telemetry.summary([Stretch(1.0, 1.4, own)]).power_w == 690
        assert telemetry.summary([Stretch(1.0, 1.001, beside)]).power_w == 150

    def test_extremes_means_and_reasons(self):
        readings = [
            Reading(0, 1980.0, power_w=300.0, temperature_c=50.0, throttle_reasons=frozenset({"sync_boost"})),
            Reading(1, 1800.0, power_w=500.0, temperature_c=61.0, throttle_reasons=frozenset({"sw_power_cap"})),
            Reading(2, 1900.0),
        ]
        told = telemetry.summary([Stretch(0, 2, readings)])
        assert (told.sm_clock_mhz.min, told.sm_clock_mhz.median, told.sm_clock_mhz.max) == (1800, 1900, 1980)
        assert (told.power_w, told.temperature_c) == (400, 61)
        assert told.throttle_reasons == ("sw_power_cap", "sync_boost")

    def test_processes_beyond_ours_are_foreign(self):
        """By count: in a container the driver's numbers are not the worker's."""
        seen = [Reading(0, processes={71: 5, 72: 5, 99: 1}), Reading(1, processes={71: 8, 72: 5}), Reading(2)]
        told = telemetry.summary([Stretch(0, 2, seen)], pid=71, residents=2)
        assert (told.foreign_processes, told.process_memory_bytes) == (1, 8)
        hidden = telemetry.summary([Stretch(0, 2, [Reading(0, processes={})])], pid=71, residents=2)
        assert (hidden.foreign_processes, hidden.process_memory_bytes) == (None, None)


class Counting:
    """A device whose energy counter is how often it was asked."""

    def __init__(self):
        self.asked = 0
        self.at_s = 0.0

    def read(self, with_processes):
        self.asked += 1
        self.at_s += 1.0
        return Reading(self.at_s, energy_j=float(self.asked), processes={} if with_processes else None)

    def energy_j(self):
        return None


class TestSampler:
    def test_a_stretch_gets_its_neighbours_and_what_is_forgotten_is_gone(self):
        sampler = Sampler(Counting(), period_s=60.0)
        assert [reading.at_s for reading in sampler.between(0.5, 0.9)] == [1]
        for _ in range(4):
            sampler.between(0, 1e9)
        assert [reading.at_s for reading in sampler.between(1.5, 2.5)] == [1, 2, 3]
        assert [reading.at_s for reading in sampler.between(2.0, 3.0)] == [2, 3]
        sampler.forget()
        assert [reading.at_s for reading in sampler.between(0.0, 4.5)] == [5]

    def test_it_reads_beside_whatever_goes_on_and_ends(self):
        source = Counting()
        with Sampler(source, period_s=0.001) as sampler:
            while source.asked < 25:
                pass
        assert not sampler._thread.is_alive()
        readings = sampler.between(0.0, 20.5)
        assert [reading.processes is not None for reading in readings[:11]] == [True, *[False] * 9, True]

    def test_the_energy_counter_is_looked_at_more_often_than_all_else(self):
        source = Counting()
        source.energy_j = lambda: 7.0
        with Sampler(source, period_s=0.001) as sampler:
            while source.asked < 4:
                pass
        readings = sampler.between(0.0, float("inf"))
        energies = [reading.energy_j for reading in readings[: 2 * telemetry.READINGS_EVERY]]
        assert energies == [1.0, 7.0, 7.0, 7.0, 2.0, 7.0, 7.0, 7.0]


class FakeNvml:
    """The driver's library, of a device that supports what `answers` holds."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU, NVML_SUCCESS, NVML_FI_DEV_POWER_INSTANT = 1, 0, 0, 186

    class NVMLError(Exception):
        pass

    def __init__(self, **answers):
        self.answers = answers

    def __getattr__(self, question):
        if not question.startswith("nvml"):
            raise AttributeError(question)

        def ask(handle, *arguments):
            if question not in self.answers:
                raise self.NVMLError("not supported")
            return self.answers[question]

        return ask


class TestNvml:
    def test_what_a_device_does_not_support_is_none(self):
        source = NvmlSource(FakeNvml(), handle=None)
        reading = source.read(with_processes=True)
        assert reading == Reading(reading.at_s, runnable=reading.runnable)

    def test_units_are_ours(self):
        field = SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=512_000))
        nvml = FakeNvml(
            nvmlDeviceGetClockInfo=1755,
            nvmlDeviceGetFieldValues=[field],
            nvmlDeviceGetPowerUsage=100_000,
            nvmlDeviceGetTotalEnergyConsumption=7_500,
            nvmlDeviceGetTemperature=60,
            nvmlDeviceGetCurrentClocksThrottleReasons=0x1 | 0x4 | 0x40,
            nvmlDeviceGetComputeRunningProcesses=[SimpleNamespace(pid=7, usedGpuMemory=None)],
        )
        source = NvmlSource(nvml, handle=None)
        reading = source.read(with_processes=True)
        assert reading.sm_clock_mhz == 1755
        assert (reading.power_w, reading.energy_j, reading.temperature_c) == (512.0, 7.5, 60)
        assert reading.throttle_reasons == {"sw_power_cap", "hw_thermal_slowdown"}, "idleness is no throttling"
        assert reading.processes == {7: None}
        assert source.read(with_processes=False).processes is None
        assert source.energy_j() == 7.5

    def test_power_over_a_second_has_to_do_where_there_is_no_other(self):
        source = NvmlSource(FakeNvml(nvmlDeviceGetPowerUsage=100_000), handle=None)
        assert source.read(with_processes=False).power_w == 100.0

    def test_without_a_gpu_the_load_is_watched(self):
        with ExitStack() as stack:
            seen = telemetry.watch(stack, None)
            assert isinstance(seen, Unwatched if telemetry.runnable_tasks() is None else Sampler)
            assert all(reading.sm_clock_mhz is None for reading in seen.between(0.0, float("inf")))


class TestLoad:
    @pytest.mark.parametrize(
        ("text", "expected"), [("8.97 8.90 6.01 8/147 18891\n", 8), ("", None), ("1 2 3 x/y 5", None)]
    )
    def test_the_system_tells_how_many_tasks_want_a_core(self, text, expected, tmp_path):
        (tmp_path / "loadavg").write_text(text)
        assert telemetry.runnable_tasks(tmp_path / "loadavg") == expected
        assert telemetry.runnable_tasks(tmp_path / "none") is None

    def test_others_are_those_beyond_the_workers_threads_and_the_one_that_looks(self, monkeypatch):
        monkeypatch.setattr(telemetry.os, "cpu_count", lambda: 2)
        readings = [
            Reading(0.9, runnable=99),
            *(Reading(1.0 + at / 10, runnable=tasks) for at, tasks in enumerate((7, 9))),
        ]
        window = Stretch(1.0, 1.2, readings)
        assert telemetry.summary([window], threads=2).load == (8 - 2 - 1) / 2
        assert telemetry.summary([window], threads=9).load == 0.0
        assert telemetry.summary([Stretch(2.0, 3.0, readings)]).load is None
