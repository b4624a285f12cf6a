"""Energy that an image would take by counted operations and memory accesses: an estimate, no measurement.

Sources, energy of an operation in a 45 nm process, in picojoules: Horowitz 2014, Computing's energy problem (and what
we can do about it), ISSCC, at 0.9 V, for arithmetic, of 8 bits too; Han et al. 2015, Learning both weights and
connections for efficient neural networks (arXiv:1506.02626), Table 1, for memory. Where both have a figure they agree.
"""

from __future__ import annotations

from quicknet.core.card import Costs

FLOAT_MULTIPLY_PJ, FLOAT_ADD_PJ = 3.7, 0.9
INT8_MULTIPLY_PJ, INT32_ADD_PJ = 0.2, 0.1  # products of 8 bits, added in 32
SRAM_PJ, DRAM_PJ = 5.0, 640.0  # of a word of 32 bits

ASSUMPTIONS = (
    "Energy is an estimate from counts, in microjoules an image, of a 45 nm process, pJ. Arithmetic by Horowitz 2014 "
    f"(ISSCC, Computing's energy problem): float32 multiply {FLOAT_MULTIPLY_PJ:g}, add {FLOAT_ADD_PJ:g}; int8 "
    f"multiply {INT8_MULTIPLY_PJ:g}, int32 add {INT32_ADD_PJ:g}. Memory by Han et al. 2015 (arXiv:1506.02626), "
    f"Table 1: a 32-bit word from SRAM {SRAM_PJ:g}, from DRAM {DRAM_PJ:g}. Assumed: each weight is read once an image "
    "from DRAM; each feature map is written once to SRAM and read once from it; int8 packs four values in a word, and "
    "adds its products in 32 bits."
)


def energy_uj(costs: Costs, bits: int) -> float:
    """Return the microjoules that one image takes with numbers of 32 (float) or 8 (integer) bits.

    >>> costs = Costs(parameters=1000, macs=10_000, activation_bytes=4000, peak_activation_bytes=0)
    >>> round(energy_uj(costs, 32), 3), round(energy_uj(costs, 8), 4)
    (0.696, 0.1655)
    """
    multiply_add = FLOAT_MULTIPLY_PJ + FLOAT_ADD_PJ if bits == 32 else INT8_MULTIPLY_PJ + INT32_ADD_PJ
    words_of_weights = costs.parameters * bits / 32
    words_of_maps = costs.activation_bytes / 4 * bits / 32
    picojoules = costs.macs * multiply_add + words_of_weights * DRAM_PJ + 2 * words_of_maps * SRAM_PJ
    return picojoules / 1e6
