"""Energy that the machine's processors have used, where the machine counts it.

Linux counts it per package in /sys/class/powercap (RAPL, on Intel and AMD), since 2020 readable
by the administrator alone (CVE-2020-8694) unless `chmod a+r` says otherwise. The whole package is
counted, all processes together; memory, graphics cards and losses of the power supply are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Counts the joules of all packages since it was created."""

    def __init__(self, folder: Path = POWERCAP) -> None:
        # intel-rapl:0 is a package, intel-rapl:0:1 a part of it
        zones = sorted(folder.glob("intel-rapl:*"))
        self._zones = [zone for zone in zones if zone.name.count(":") == 1]
        self._last = [_microjoules(zone / "energy_uj") for zone in self._zones]
        self._limits = [_microjoules(zone / "max_energy_range_uj") for zone in self._zones]
        self._joules = 0.0
        self._readable = bool(self._zones) and None not in (*self._last, *self._limits)

    def joules(self) -> float | None:
        """Return the joules since the meter was created, None where the machine does not count them.

        Must be called before a counter starts again from 0: once in a quarter of an hour is enough.
        """
        if not self._readable:
            return None
        for place, (zone, limit) in enumerate(zip(self._zones, self._limits, strict=True)):
            now, last = _microjoules(zone / "energy_uj"), self._last[place]
            if now is None or last is None or limit is None:
                self._readable = False
                return None
            self._joules += (now - last if now >= last else now - last + limit) / 1e6
            self._last[place] = now
        return self._joules


def total_joules(epochs: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the energy of all epochs' records, None where one of them does not have it."""
    values = [epoch.get("energy_joules") for epoch in epochs]
    known = [float(joules) for joules in values if joules is not None]
    return sum(known) if known and len(known) == len(values) else None


def _microjoules(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
