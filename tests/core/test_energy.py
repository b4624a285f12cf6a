"""Energy counters, in a folder laid out as Linux does."""

from pathlib import Path

import pytest

from quicknet.core.energy import EnergyMeter, total_joules


def put(folder: Path, zone: str, microjoules: int, limit: int = 1_000_000_000) -> None:
    (folder / zone).mkdir(exist_ok=True)
    (folder / zone / "energy_uj").write_text(f"{microjoules}\n")
    (folder / zone / "max_energy_range_uj").write_text(f"{limit}\n")


def test_packages_add_up_and_their_parts_are_not_counted_twice(tmp_path: Path) -> None:
    put(tmp_path, "intel-rapl:0", 5_000_000)
    put(tmp_path, "intel-rapl:0:0", 1_000_000)
    put(tmp_path, "intel-rapl:1", 999_000_000)
    meter = EnergyMeter(tmp_path)
    assert meter.joules() == 0
    put(tmp_path, "intel-rapl:0", 7_500_000)
    put(tmp_path, "intel-rapl:0:0", 3_000_000)
    put(tmp_path, "intel-rapl:1", 1_000_000)  # began anew at its limit of 1,000 J
    assert meter.joules() == pytest.approx(4.5)
    assert meter.joules() == pytest.approx(4.5)


def test_a_machine_that_does_not_tell_is_not_guessed(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path / "none").joules() is None
    put(tmp_path, "intel-rapl:0", 1)
    (tmp_path / "intel-rapl:0" / "max_energy_range_uj").unlink()
    assert EnergyMeter(tmp_path).joules() is None
    put(tmp_path, "intel-rapl:0", 1)
    meter = EnergyMeter(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.joules() is None


def test_a_total_with_an_unknown_part_is_unknown() -> None:
    assert total_joules([{"energy_joules": 1.5}, {"energy_joules": 2.0}]) == 3.5
    assert total_joules([{"energy_joules": 1.5}, {"energy_joules": None}]) is None
    assert total_joules([{"seconds": 3.0}]) is None
    assert total_joules([]) is None
