"""Which calibration a plan takes, what it says of one that is not this machine's, and damaged files."""

from __future__ import annotations

import pytest

from bench.errors import UsageError
from bench.inputs import assets
from bench.planning import coefficients
from bench.planning.coefficients import choose
from tests.bench.planning._parts import calibration


def chosen(wanted, *found):
    return choose(wanted.key, [(f"{number}.json", each) for number, each in enumerate(found)])


def test_this_machines_own_comes_first_whatever_else_differs() -> None:
    own, other = calibration(torch="1.0", precision="bf16"), calibration(device="another processor")
    found = chosen(calibration(), other, own)
    assert found.own
    assert found.calibration == own
    assert found.notes == ("coefficients are of precision bf16, not float32", "coefficients are of torch 1.0, not 2.0")


def test_another_machines_coefficients_are_said_to_be() -> None:
    found = chosen(calibration(), calibration(device="another processor", cores=64))
    assert not found.own
    assert found.notes == (
        "coefficients are another machine's (another processor, 64 cores; this is a processor, 2 cores)",
    )


def test_as_many_cores_are_another_machine_than_fewer() -> None:
    assert not chosen(calibration(cores=2), calibration(cores=8)).own


@pytest.mark.parametrize("change", [{"engine": "fast"}, {"tier": "packed"}, {"device_kind": "cuda", "cores": None}])
def test_another_engine_tier_or_kind_of_device_says_nothing(change) -> None:
    assert chosen(calibration(), calibration(**change)) is None


def test_a_calibration_is_kept_and_replaced(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path))
    coefficients.keep(calibration())
    path = coefficients.keep(calibration(log_sd=0.2))
    coefficients.keep(calibration(precision="bf16"))
    kept = dict(coefficients.cached())
    assert len(kept) == 2
    assert kept[str(path)].log_sd == 0.2


def test_a_damaged_calibration_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path))
    path = coefficients.keep(calibration())
    path.write_text(path.read_text().replace('"log_sd": 0.05', '"log_sd": -1'))
    with pytest.raises(UsageError, match=r"not a calibration \(log_sd: .*gram-bench calibrate again"):
        coefficients.cached()


def test_committed_calibrations_can_be_read() -> None:
    for origin, each in coefficients.committed():
        assert each.device_coefficients, origin
