"""What --json prints, verb by verb, as JSON Schema; `--json-schema` and docs/commands.md show it.

The schemas are written here and not derived from the records, because the records of `train` and
`export` lie in modules that import torch, and `--json-schema` works without it. A test holds the
schemas to the records' fields and types.
"""

from __future__ import annotations

from quicknet.cli.schemas.answers import EPOCH, EVALUATION, PREDICTION, RESULT, UNREADABLE
from quicknet.cli.schemas.compare import COMPARISON
from quicknet.cli.schemas.files import COMPRESSED, ONNX, PAGE, QNZ, VERIFICATION
from quicknet.cli.schemas.machine import BENCHMARK, EXAMINATION, INSPECTION, NETWORK, REALTIME
from quicknet.cli.schemas.parts import Schema, verb

SCHEMAS: dict[str, Schema] = {
    "train": verb("train", EPOCH, RESULT),
    "evaluate": verb("evaluate", EVALUATION),
    "predict": verb("predict", PREDICTION, UNREADABLE),
    "export": verb("export", QNZ, ONNX),
    "compress": verb("compress", COMPRESSED),
    "page": verb("page", PAGE),
    "verify": verb("verify", VERIFICATION),
    "benchmark": verb("benchmark", BENCHMARK, REALTIME),
    "compare": verb("compare", COMPARISON),
    "inspect": verb("inspect", INSPECTION, NETWORK),
    "doctor": verb("doctor", EXAMINATION),
}
