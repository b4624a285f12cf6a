import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("from quicknet.data import load_data, examine, draw_scenes, Dataset", {"torch"}),
        ("import quicknet.data.download, quicknet.data.folders", {"torch"}),
        ("import quicknet.data, quicknet.cli.doctor", {"torch", "numpy", "PIL"}),
    ],
)
def test_imports_stay_light(statement, heavy):
    code = f"{statement}; import sys; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
