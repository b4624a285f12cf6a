"""From a trained network to the integers of FORMAT.md: `quantize` after training, `fine_tune` on top of it.

ranges (how far each map reaches) → rounding (filters to integers) → outputs (shift, multipliers) →
build (layer after layer); simulate and student (the same arithmetic in torch) → qat (fine-tuning).
"""

from quicknet.deploy.quantize.build import Quantized, calibration_count, quantize, require_expressible
from quicknet.deploy.quantize.qat import Lesson, QatSettings, Tuned, fine_tune
from quicknet.qnz.format import WIDTHS, Bits

__all__ = [
    "WIDTHS",
    "Bits",
    "Lesson",
    "QatSettings",
    "Quantized",
    "Tuned",
    "calibration_count",
    "fine_tune",
    "quantize",
    "require_expressible",
]
