"""What a user's type checker knows of `quicknet`, which says by `py.typed` that it has types."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import quicknet

ROOT = Path(__file__).resolve().parent.parent
CLIENT = """
import quicknet

model = quicknet.load("quicknet_s.cifar10")
reveal_type(model)
reveal_type(model.card.classes)
for answer in quicknet.predict(model, "x.png", quicknet.PredictSettings(top=1)):
    reveal_type(answer)
data = quicknet.load_data("photos", quicknet.DataRequest(spec=model.card.preprocess))
reveal_type(quicknet.evaluate(model, data, split="test").top1)
for record in quicknet.train("photos", "runs/photos"):
    reveal_type(record.val_accuracy)
reveal_type(quicknet.export("runs/photos", "photos.onnx", data=data))
reveal_type(quicknet.create_model("quicknet_xs", num_classes=2))
reveal_type(quicknet.doctor("photos"))
reveal_type(quicknet.list_weights())
"""
STRICT = "disallow-untyped-defs, disallow-incomplete-defs, disallow-untyped-calls, disallow-any-generics"
STRICT += ", warn-return-any, strict-equality, enable-error-code=union-attr"
REVEALED = [
    "quicknet.inference.classifier.Classifier",
    "tuple[str, ...]",
    "quicknet.inference.predict.Prediction | quicknet.inference.predict.Unreadable",
    "float",
    "float | None",
    "quicknet.deploy.export.Exported",
    "quicknet.models.network.Network",
    "list[quicknet.data.doctor.Finding]",
    "list[str]",
]


def check(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run mypy in its strict mode, by the project's settings: `make check` has filled the cache for those.

    What they leave out of `--strict`, for the tests, the client's first line adds again.
    """
    client = folder / "client.py"
    client.write_text(f"# mypy: {STRICT}\n{code}")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(client)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


def test_a_client_sees_types(tmp_path: Path) -> None:
    done = check(CLIENT, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    revealed = re.findall(r'Revealed type is "(.+)"', done.stdout)
    assert [re.sub(r"\bbuiltins\.", "", name) for name in revealed] == REVEALED


def test_a_clients_slips_are_seen(tmp_path: Path) -> None:
    slips = ['quicknet.tarin("photos", "run")', "quicknet.load(3)", 'quicknet.load("x").labels']
    done = check("\n".join(["import quicknet", *slips]), tmp_path)
    assert re.findall(r":(\d+): error: .*\[(.+)\]$", done.stdout, re.MULTILINE) == [
        ("3", "attr-defined"),
        ("4", "arg-type"),
        ("5", "attr-defined"),
    ]


def typed_names() -> dict[str, str]:
    """Return public name → "module:attribute" as the TYPE_CHECKING block of `quicknet` says it."""
    tree = ast.parse(Path(quicknet.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    names: dict[str, str] = {}
    private: dict[str, str] = {}
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                (private if alias.asname is None else names)[alias.asname or alias.name] = f"{node.module}:{alias.name}"
        else:
            assert isinstance(node, ast.Assign) and isinstance(node.value, ast.Name), ast.unparse(node)
            names[ast.unparse(node.targets[0])] = private[node.value.id]
    return names


def test_the_types_and_the_table_name_the_same_things() -> None:
    assert typed_names() == quicknet._PUBLIC


@pytest.mark.parametrize("name", sorted(quicknet._PUBLIC))
def test_a_public_name_is_what_the_table_says(name: str) -> None:
    """Under its own name, of the module where it is written, and documented."""
    value = getattr(quicknet, name)
    assert value.__name__ == quicknet._PUBLIC[name].partition(":")[2]
    assert value.__module__.startswith("quicknet.") and value.__doc__
