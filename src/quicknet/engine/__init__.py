"""The integer network in C: bit for bit what `qnz/reference.py` computes, and a few hundred times faster.

The C sources (`csrc/`) stand alone, so that other programs can embed them; this folder holds their binding. A wheel
brings the compiled library; in a source tree it is compiled at first use, where a C compiler is there.
"""

from quicknet.engine.binding import Engine, available, decode, instruction_sets, peak_rate, status

__all__ = ["Engine", "available", "decode", "instruction_sets", "peak_rate", "status"]
