"""The page and the package for browsers refuse the pictures that `predict --unknown` refuses."""

import json

import numpy as np
import pytest

from native import ENGINE, run, tool
from quicknet.inference.metrics import confidences

SCALE, TEMPERATURE = 0.02, 1.3

ASK = """
const [code, rows, noneClass] = process.argv.slice(1);
const { Classifier } = await import(code);
const model = Object.assign(Object.create(Classifier.prototype), {
  names: ["a", "b", "c"], logitScale: 0.02, temperature: 1.3, noneClass: noneClass === "1",
});
const logits = JSON.parse(rows).map((row) => Int32Array.from(row));
const asked = (row) => [0.3, 0.6, 0.9].map((minConfidence) => model.answer(row, { minConfidence }).label);
console.log(JSON.stringify(logits.map((row) => [model.confidence(row), asked(row)])));
"""


@pytest.mark.parametrize("none_class", [False, True])
def test_the_confidence_is_that_of_python(none_class: bool) -> None:
    logits = np.random.default_rng(0).integers(-300, 300, (40, 3))
    logits[0], logits[1] = (-2_000_000, -2_000_000, -2_000_001), (90_000, -90_000, 0)  # exp overflows
    program = (tool("node"), "--input-type=module", "-e", ASK, (ENGINE / "js" / "quicknet.mjs").as_uri())
    answers = json.loads(run(*program, json.dumps(logits.tolist()), str(int(none_class))))
    expected = confidences(logits * SCALE, TEMPERATURE, none_class)
    np.testing.assert_allclose([confidence for confidence, _ in answers], expected, rtol=1e-9, atol=1e-15)
    for confidence, (_, labels) in zip(expected, answers, strict=True):
        assert [label is not None for label in labels] == [confidence >= least for least in (0.3, 0.6, 0.9)]
