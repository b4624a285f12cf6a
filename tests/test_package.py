"""The built wheel: what is in it, and that it classifies without torch."""

import json
import os
import pkgutil
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import quicknet

ROOT = Path(__file__).resolve().parent.parent
LIGHT = ("core", "engine", "image", "onnx", "qnz", "data", "inference", "report", "cli")


def python(program: str, interpreter: str | Path = sys.executable, **options) -> str:
    completed = subprocess.run(
        [str(interpreter), "-c", program], capture_output=True, text=True, timeout=120, **options
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


# --- what is imported when ----------------------------------------------------------------


def light_modules() -> list[str]:
    """Return every module that must do without torch."""
    modules = []
    for part in LIGHT:
        package = ROOT / "src" / "quicknet" / part
        modules += [
            f"quicknet.{part}",
            *(info.name for info in pkgutil.walk_packages([str(package)], f"quicknet.{part}.")),
        ]
    return [name for name in modules if not name.startswith("quicknet.data.augment")]


def test_the_light_modules_never_import_torch():
    """In a fresh interpreter, since import-linter does not see imports inside of functions run at import."""
    names = light_modules()
    assert len(names) > 25
    program = f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
    program += "print([name for name in ('torch', 'matplotlib', 'onnx') if name in sys.modules])"
    assert python(program).strip() == "[]"


def test_help_and_the_package_itself_import_next_to_nothing():
    heavy = "('torch', 'numpy', 'PIL', 'rich', 'msgspec', 'onnxruntime', 'safetensors')"
    report = f"print([name for name in {heavy} if name in sys.modules])"
    assert python(f"import sys, quicknet\n{report}").strip() == "[]"
    program = f"import sys\nfrom quicknet.cli.main import run\nassert run(['--help']) == 0\n{report}"
    assert python(program).splitlines()[-1] == "[]"


def test_train_is_the_function_however_often_it_is_named():
    """The package of its code is called `training`, so that Python binds nothing else to the name."""
    program = "import inspect, quicknet, quicknet.training.recipe\n"
    program += "for _ in range(2): print(list(inspect.signature(quicknet.train).parameters)[:2])\n"
    assert python(program).splitlines() == ["['source', 'run']"] * 2
    assert python(program.replace(", quicknet.training.recipe", "")).splitlines() == ["['source', 'run']"] * 2
    assert dir(quicknet) == sorted(quicknet.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        getattr(quicknet, "tarin")  # noqa: B009


# --- the wheel ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path):
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name == f"quicknet_vision-{quicknet.__version__}-py3-none-{platform}.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    package = {name for name in names if name.startswith("quicknet/")}
    assert {name for name in names - package if ".dist-info/" not in name} == set()
    sources = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "quicknet").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert package - sources == {"quicknet/engine/_engine.so"}
    assert sources <= package  # py.typed, recipes, the style sheet, the sources in C
    for needed in ("py.typed", "training/recipes/fast.toml", "report/style.css", "weights/index.json"):
        assert f"quicknet/{needed}" in package
    assert any(name.startswith("quicknet/models/fused/") and name.endswith(".cpp") for name in package)
    pictures = {".png", ".jpg", ".jpeg", ".bin", ".npy", ".npz", ".safetensors", ".gz", ".pkl", ".so"}
    actual = {name for name in names if Path(name).suffix in pictures and not name.startswith("quicknet/weights/")}
    assert actual == {"quicknet/engine/_engine.so"}
    assert wheel.stat().st_size < 10_000_000
    required = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata, re.MULTILINE)
    assert sorted(required) == ["click", "msgspec", "numpy", "pillow", "rich"]
    for needed, extra in (("onnxruntime", "onnx"), ("onnxruntime", "export"), ("safetensors", "train")):
        assert re.search(rf"^Requires-Dist: {needed}>=.*; extra == '{extra}'$", metadata, re.MULTILINE)


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with the wheel and what it requires: no torch, no ONNX Runtime."""
    folder = tmp_path_factory.mktemp("light") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    constraints = ROOT / "constraints.txt"
    installed = subprocess.run(
        [*command, "--no-compile", "-c", str(constraints), str(wheel)], capture_output=True, text=True, timeout=280
    )
    assert installed.returncode == 0, installed.stderr
    return folder / "bin"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "cache"))
    for name in ("PYTHONPATH", "QUICKNET_RUNTIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(light: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([str(light / "quicknet"), *arguments], capture_output=True, text=True, timeout=60)


def test_the_light_environment_is_light_and_has_the_command(light: Path, place: Path):
    heavy = ("torch", "onnxruntime", "safetensors", "onnx", "matplotlib", "av")
    program = f"import importlib.util as u, quicknet; print([n for n in {heavy} if u.find_spec(n)], quicknet.__file__)"
    present, _, where = python(program, light / "python").strip().partition(" ")
    assert present == "[]"
    assert where.startswith(str(light.parent))
    size_bytes = sum(file.lstat().st_size for file in light.parent.rglob("*") if not file.is_dir())
    assert size_bytes < 100_000_000  # 97; `du` says 147 MiB of one with pip, setuptools and compiled modules, too
    completed = command(light, "--help")
    assert (completed.returncode, completed.stderr) == (0, "")
    assert "doctor" in completed.stdout
    for verb in re.findall(r"^  ([a-z]+)  ", completed.stdout, re.MULTILINE):
        assert command(light, verb, "--help").returncode == 0, verb


def test_the_wheels_own_engine_is_used(light: Path, place: Path):
    """Not one that is compiled at first use: who installs a wheel may have no compiler."""
    program = "import quicknet.engine as e; print(e.available(), e.status())"
    completed = python(program, light / "python", env={"PATH": "", "HOME": str(place)})
    assert completed.startswith("True ")
    assert "site-packages/quicknet/engine/_engine.so" in completed


def draw_things(folder: Path) -> dict[str, str]:
    """Draw four things that a network of CIFAR-10 tells apart; return file name → class."""
    from PIL import Image, ImageDraw

    def drawn(name: str, sky: str, ground: str | None, shapes: list[tuple[str, str, list[int]]]) -> None:
        picture = Image.new("RGB", (128, 128), sky)
        draw = ImageDraw.Draw(picture)
        if ground:
            draw.rectangle((0, 92, 128, 128), ground)
        for kind, colour, points in shapes:
            getattr(draw, kind)(points, fill=colour)
        picture.save(folder / name)

    hull = [("polygon", "#781e1e", [12, 70, 116, 70, 100, 96, 26, 96])]
    cabin = [("rectangle", "white", [40, 50, 90, 70]), ("rectangle", "#3c3c3c", [62, 26, 74, 50])]
    drawn("1.png", "#96bee6", "#285082", [*hull, *cabin])
    wings = [("polygon", "#c8c8cd", [58, 64, 80, 64, 50, 104, 38, 104])]
    wings += [("polygon", "#d2d2d7", [62, 60, 78, 60, 56, 34, 48, 34])]
    tail = [("polygon", "#b4b4be", [18, 62, 32, 60, 18, 38, 10, 38])]
    drawn("2.png", "#82b4eb", None, [("ellipse", "white", [14, 56, 114, 74]), *wings, *tail])
    load = [("rectangle", "white", [8, 30, 84, 92]), ("rectangle", "#c81e1e", [86, 48, 120, 92])]
    window = [("rectangle", "#28323c", [96, 54, 116, 70])]
    wheels = [("ellipse", "black", [x, 82, x + 22, 104]) for x in (16, 40, 92)]
    drawn("3.png", "#c8d2dc", "#6e6e6e", [*load, *window, *wheels])
    body = [("rectangle", "#c81414", [6, 60, 122, 92]), ("polygon", "#b41414", [30, 62, 44, 40, 88, 40, 104, 62])]
    window = [("polygon", "#28323c", [38, 60, 48, 45, 84, 45, 95, 60])]
    wheels = [("ellipse", "black", [x, 78, x + 26, 104]) for x in (18, 86)]
    drawn("4.png", "#c8d2dc", "#6e6e6e", [*body, *window, *wheels])
    return {"1.png": "ship", "2.png": "airplane", "3.png": "truck", "4.png": "automobile"}


@pytest.mark.parametrize("name", quicknet.list_weights("*.cifar10"))
def test_shipped_weights_classify_right_after_installation(name: str, light: Path, place: Path):
    expected = draw_things(place)
    completed = command(light, "predict", name, *expected, "--json")
    assert (completed.returncode, completed.stderr) == (0, "")
    answers = [json.loads(line) for line in completed.stdout.splitlines()]
    assert {answer["name"]: answer["label"] for answer in answers} == expected
    assert min(answer["probability"] for answer in answers) > 0.8


@pytest.mark.parametrize("arguments", [["predict", "m.onnx", "sky.png"], ["verify", "m.onnx"], ["benchmark", "m.onnx"]])
def test_what_needs_onnx_runtime_says_how_to_get_it(arguments: list[str], light: Path, place: Path):
    from PIL import Image

    from exported import make_run, write_pictures
    from quicknet.data import DataRequest
    from quicknet.deploy.export import export

    make_run(place / "run", write_pictures(place / "pictures", n=2), request=DataRequest(size=32, quiet=True))
    export(place / "run", place / "m.onnx")
    Image.new("RGB", (64, 48), "skyblue").save(place / "sky.png")
    completed = command(light, *arguments)
    assert (completed.returncode, completed.stdout) == (2, "")
    (line,) = completed.stderr.splitlines()
    assert line.startswith("quicknet: error: ")
    assert "needs onnxruntime, which is not installed; run `pip install 'quicknet-vision[onnx]'`" in line


def test_doctor_looks_over_a_folder_without_torch(light: Path, place: Path):
    from PIL import Image

    for name, colours in {"reds": ["red", "darkred"], "blues": ["blue", "navy"]}.items():
        (place / "photos" / name).mkdir(parents=True)
        for colour in colours:
            Image.new("RGB", (64, 48), colour).save(place / "photos" / name / f"{colour}.jpg")
    (place / "photos" / "reds" / "broken.jpg").write_bytes(b"no image")
    completed = command(light, "doctor", "photos", "--json")
    assert completed.returncode == 1
    report = json.loads(completed.stdout)
    assert any("broken.jpg" in str(finding["groups"]) for finding in report["findings"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "run", "x.jpg"],
        ["evaluate", "run", "photos"],
        ["train", "photos"],
    ],
)
def test_what_needs_torch_says_how_to_get_it(arguments: list[str], light: Path, place: Path):
    (place / "run").mkdir()
    (place / "run" / "card.json").write_text("{}")
    completed = command(light, *arguments)
    assert (completed.returncode, completed.stdout) == (2, "")
    (line,) = completed.stderr.splitlines()
    assert line.startswith("quicknet: error: ")
    assert "needs torch, which is not installed; run `pip install 'quicknet-vision[train]'`" in line


def test_python_says_the_same(light: Path, place: Path):
    program = """
import quicknet
for use in (lambda: quicknet.create_model, lambda: quicknet.train):
    try:
        use()
    except quicknet.QuickNetError as error:
        print(error)
"""
    lines = python(program, light / "python").splitlines()
    assert len(lines) == 2
    assert all("pip install 'quicknet-vision[train]'" in line for line in lines)


def test_pictures_become_arrays_without_torch(light: Path, place: Path):
    from PIL import Image

    Image.new("RGB", (64, 48), "red").save(place / "red.png")
    program = """
from quicknet import PreprocessSpec
from quicknet.image.preprocess import load_image
array = load_image("red.png", PreprocessSpec(size=32))
print(array.shape, array.dtype, array[0, 0].tolist())
"""
    assert python(program, light / "python", env={**os.environ}) == "(32, 32, 3) uint8 [255, 0, 0]\n"
