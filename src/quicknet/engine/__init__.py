"""The integer network in C: bit for bit what `lite/reference.py` computes, and a few hundred times faster.

The C sources (`csrc/`) stand alone, for whoever embeds them; here is the binding. A wheel brings
the library compiled; from a source tree it is compiled at first use, where there is a C compiler.
"""

from quicknet.engine.binding import Engine, available, instruction_sets, peak_rate, status

__all__ = ["Engine", "available", "instruction_sets", "peak_rate", "status"]
