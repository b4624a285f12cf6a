"""Weights by name: found in the package, in the cache or on a server, and refused where they are not what they were."""

import functools
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import quicknet
from integers import data_for, receipted, small_network, write_qnz
from quicknet.cli.main import run
from quicknet.core import download
from quicknet.core.errors import DataError, FormatError, QuickNetError, ToolError
from quicknet.core.files import sha256_file
from quicknet.inference import shipped
from quicknet.inference.artifact import open_artifact
from quicknet.inference.shipped import RUN_FILES, list_weights, locate, read_index
from quicknet.measure.facts import model_facts, model_files
from quicknet.measure.subjects import find_subjects
from serving import Server

NAME = "quicknet_xs.drawn"


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with NAME.qnz and NAME/, whose two files stand for a run's: `locate` does not look into them."""
    folder, network = tmp_path_factory.mktemp("made"), small_network()
    write_qnz(folder / f"{NAME}.qnz", network, receipted(network, data_for(network)))
    (folder / NAME).mkdir()
    for file in RUN_FILES:
        (folder / NAME / file).write_bytes(file.encode() * 1000)
    return folder


def part(path: Path, file: str, away: bool) -> dict:
    blob = path.read_bytes()
    fields = {"file": file, "sha256": hashlib.sha256(blob).hexdigest(), "size_bytes": len(blob)}
    return {**fields, "url": file.replace("/", ".")} if away else fields


def entry(folder: Path, away: bool = False) -> dict:
    measured = {"top1": 0.75, "n": 60, "split": "test"}
    files = [f"{NAME}/{file}" for file in RUN_FILES]
    return {
        "network": "quicknet_xs",
        "data": "drawn",
        "protocol": "standard",
        "file": {**measured, "parts": [part(folder / f"{NAME}.qnz", f"{NAME}.qnz", away)]},
        "run": {**measured, "parts": [part(folder / file, file, away) for file in files]},
    }


def write_index(folder: Path, weights: dict) -> Path:
    (folder / "index.json").write_text(json.dumps({"format": 1, "weights": weights}))
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, with a cache of its own, where every attempt at the network fails."""
    monkeypatch.setenv("QUICKNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("QUICKNET_WEIGHTS_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(download, "fetch", functools.partial(download.fetch, sleep=lambda seconds: None))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def package(artifacts: Path, tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's folder, with the weights in it."""
    shutil.copytree(artifacts, tmp_path / "package")
    monkeypatch.setattr(shipped, "PACKAGED", write_index(tmp_path / "package", {NAME: entry(artifacts)}))
    return tmp_path / "package"


@pytest.fixture
def server(artifacts: Path, tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A release page; the package has the digests only."""
    (tmp_path / "package").mkdir()
    monkeypatch.setattr(shipped, "PACKAGED", write_index(tmp_path / "package", {NAME: entry(artifacts, away=True)}))
    server = Server()
    files = [f"{NAME}.qnz", *(f"{NAME}/{file}" for file in RUN_FILES)]
    server.files = {f"/release/{file.replace('/', '.')}": (artifacts / file).read_bytes() for file in files}
    monkeypatch.setenv("QUICKNET_WEIGHTS_URL", f"{server.url}/release/")
    yield server
    server.close()


def cached(place: Path) -> list[str]:
    """Return the files in the cache, but for locks."""
    return sorted(path.name for path in (place.parent / "cache").rglob("*") if path.is_file() and path.name[0] != ".")


# --- what ships -----------------------------------------------------------------------------


def test_the_package_holds_what_its_own_index_says_and_nothing_else():
    index = read_index(shipped.PACKAGED)
    listed = {"index.json"}
    for name, weights in index.weights.items():
        assert name.startswith(f"{weights.network}.")
        for artifact in (weights.file, weights.run):
            for one in artifact.parts if artifact else ():
                if one.url is None:
                    path = shipped.PACKAGED / one.file
                    assert (path.stat().st_size, sha256_file(path)) == (one.size_bytes, one.sha256), path
                    listed.add(one.file)
    actual = {str(path.relative_to(shipped.PACKAGED)) for path in shipped.PACKAGED.rglob("*") if path.is_file()}
    assert actual == listed


def test_the_checkout_holds_the_rest_as_files_of_the_release():
    release = shipped.PACKAGED.parents[2] / "release"
    weights = read_index(shipped.PACKAGED).weights.values()
    artifacts = [artifact for one in weights for artifact in (one.file, one.run) if artifact]
    listed = {one.url: (one.size_bytes, one.sha256) for artifact in artifacts for one in artifact.parts if one.url}
    files = release.iterdir() if release.is_dir() else ()
    actual = {path.name: (path.stat().st_size, sha256_file(path)) for path in files}
    assert actual == listed


def test_names_are_listed_by_pattern(package: Path, artifacts: Path):
    other = "quicknet_s.cifar10"
    write_index(package, {NAME: entry(artifacts), other: {**entry(artifacts), "file": None, "run": None}})
    assert list_weights() == [other, NAME]
    assert list_weights("*.cifar10") == [other]
    assert list_weights("cifar") == []


# --- in the package -------------------------------------------------------------------------


def test_a_name_is_its_file_or_its_run_folder(package: Path, place: Path):
    assert locate(NAME, "file") == package / f"{NAME}.qnz"
    assert locate(Path(NAME), "run") == package / NAME
    assert not (place.parent / "cache").exists()


def test_a_path_that_exists_wins_and_another_name_stays_as_it_is(package: Path, place: Path):
    (place / NAME).write_bytes(b"")
    assert locate(NAME, "file") == Path(NAME)
    for other in ("quicknet_xs", "runs/quicknet_xs.drawn", "../x.qnz", "x.qnz", "", "a\0b", "x" * 5000):
        assert locate(other, "file") == Path(other)


def test_predict_takes_a_name_without_network(package: Path, place: Path, capfd: pytest.CaptureFixture[str]):
    Image.new("RGB", (64, 48), "red").save(place / "photo.jpg")
    assert run(["predict", NAME, "photo.jpg", "--json", "--quiet"]) == 0
    by_name = json.loads(capfd.readouterr().out)
    assert run(["predict", str(package / f"{NAME}.qnz"), "photo.jpg", "--json", "--quiet"]) == 0
    assert by_name == json.loads(capfd.readouterr().out)
    assert quicknet.load(NAME).source == package / f"{NAME}.qnz"


def test_verify_and_inspect_take_a_name(package: Path, capfd: pytest.CaptureFixture[str]):
    assert run(["verify", NAME, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["holds"]
    assert run(["inspect", NAME, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["receipt"]["n"] == 60


def test_benchmark_takes_a_name(package: Path):
    (subject,) = find_subjects([NAME], ["reference"], [1])
    assert subject.model == NAME  # what a table shows
    artifact = open_artifact(NAME)
    assert artifact.intact and model_facts(NAME, artifact).size_bytes == (package / f"{NAME}.qnz").stat().st_size
    assert list(model_files(artifact.path)) == [f"{NAME}.qnz"]


@pytest.mark.parametrize("verb", [["predict", "x.jpg"], ["verify"], ["inspect"], ["benchmark"]])
def test_what_is_missing_names_near_weights(
    verb: list[str], package: Path, place: Path, capfd: pytest.CaptureFixture[str]
):
    assert run([verb[0], "quicknet_xs.drwan", *verb[1:]]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("quicknet: error: ") and f"(did you mean {NAME}?)" in line


def test_training_from_a_missing_run_names_near_weights(package: Path, place: Path, capfd: pytest.CaptureFixture[str]):
    assert run(["train", "cifar10", "--from", "quicknet_xs.drwan", "--quiet"]) == 2
    assert f"(did you mean {NAME}?)" in capfd.readouterr().err


def test_a_file_is_named_where_training_needs_a_run_folder(
    package: Path, artifacts: Path, place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """It was said to hold no card.json, which training would write."""
    named, other = tmp_path / f"{NAME}.qnz", tmp_path / "other.onnx"
    for file in (named, other):
        shutil.copyfile(package / f"{NAME}.qnz", file)
    needs = "is a file, and training starts from a run folder"
    for file in (named, other, package / NAME / "model.safetensors"):
        assert run(["train", "cifar10", "--from", str(file), "--quiet"]) == 2
        said = capfd.readouterr().err
        assert f"{file} {needs}" in said
        expected = f"name its folder, {file.parent}" if file.parent != tmp_path else f"that have one: {NAME}"
        assert expected in said
    assert run(["train", "--resume", str(named)]) == 2
    assert f"{named} is a file, and --resume needs a run folder" in capfd.readouterr().err
    for finished in (NAME, str(package / NAME)):
        assert run(["train", "--resume", finished]) == 2
        assert f"--from {finished}" in capfd.readouterr().err


def test_a_kind_that_does_not_ship_is_said(package: Path, artifacts: Path):
    write_index(package, {NAME: {**entry(artifacts), "run": None}})
    with pytest.raises(ToolError, match=f"{NAME} ships without a run folder"):
        locate(NAME, "run")


def test_an_installation_that_lacks_a_file_is_said(package: Path):
    (package / NAME / "card.json").unlink()
    with pytest.raises(ToolError, match="install it again"):
        locate(NAME, "run")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[:-20], "is not JSON"),
        (lambda text: "", "is not JSON"),
        (lambda text: "[]", "is damaged"),
        (lambda text: '{"format": 2, "weights": {}}', "is damaged"),
        (lambda text: text.replace(f'"{NAME}.qnz"', '"../../../tmp/x.qnz"', 1), "lacks"),
        (lambda text: text.replace(f'"{NAME}/card.json"', '"/etc/passwd"', 1), "lacks"),
        (lambda text: text.replace(f'"{NAME}": ', '"../x.qnz": '), "is damaged"),
        (lambda text: text.replace('"sha256": "', '"sha256": "zz'), "is damaged"),
        (lambda text: text.replace('"size_bytes": ', '"size_bytes": -'), "is damaged"),
        (lambda text: text.replace('"n": 60', '"n": 1e999'), "is damaged"),
        (lambda text: text.replace('"parts": [{', '"parts": [{"url": "a.qnz/../../b", '), "is damaged"),
        (lambda text: text.replace('"parts": [{', '"parts": [{"url": "a.qnz", '), "in two places"),
        (lambda text: "[" * 100_000, "is not JSON"),
        (lambda text: " " * (2 << 20), "over the limit"),
    ],
)
def test_a_damaged_index_is_one_line(damage, words: str, package: Path, capfd: pytest.CaptureFixture[str]):
    text = (package / "index.json").read_text()
    (package / "index.json").write_text(damage(text))
    with pytest.raises(FormatError, match=words):
        locate(NAME, "file")
    assert run(["predict", NAME, "x.jpg"]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_an_index_that_is_not_there_is_one_line(package: Path):
    (package / "index.json").unlink()
    with pytest.raises(FormatError, match="QuickNet's list of weights"):
        locate(NAME, "file")


# --- from the release -----------------------------------------------------------------------


def test_a_name_is_fetched_once(server: Server, artifacts: Path, place: Path, monkeypatch: pytest.MonkeyPatch):
    path = locate(NAME, "file", quiet=True)
    assert path.name == f"{NAME}.qnz" and path.read_bytes() == (artifacts / f"{NAME}.qnz").read_bytes()
    assert path.is_relative_to(place.parent / "cache" / "weights")
    folder = locate(NAME, "run", quiet=True)
    assert [(folder / file).read_bytes() for file in RUN_FILES] == [
        (artifacts / NAME / f).read_bytes() for f in RUN_FILES
    ]
    asked = [f"/release/{NAME}.qnz", *(f"/release/{NAME}.{file}" for file in RUN_FILES)]
    assert server.paths == asked
    monkeypatch.setenv("QUICKNET_WEIGHTS_URL", "http://127.0.0.1:9")
    assert (locate(NAME, "file"), locate(NAME, "run")) == (path, folder)
    assert cached(place) == sorted([f"{NAME}.qnz", *RUN_FILES])


def test_predict_fetches_what_it_is_asked_for(server: Server, place: Path, capfd: pytest.CaptureFixture[str]):
    Image.new("RGB", (64, 48), "red").save(place / "photo.jpg")
    assert run(["predict", NAME, "photo.jpg", "--quiet"]) == 0
    output = capfd.readouterr()
    assert output.out.startswith("photo.jpg\tclass ") and output.err == ""


def test_an_interrupted_download_goes_on(server: Server, place: Path):
    whole = server.files[f"/release/{NAME}.qnz"]
    server.die_after = [5000] + [0] * 20
    with pytest.raises(ToolError, match="run the same command again to continue where it stopped") as error:
        locate(NAME, "file", quiet=True)
    assert "or put the file at " in str(error.value)
    assert cached(place) == [f"{NAME}.qnz.part"]
    server.die_after, server.asked = [], []
    assert locate(NAME, "file", quiet=True).read_bytes() == whole
    assert server.asked == ["bytes=5000-"]
    assert cached(place) == [f"{NAME}.qnz"]


def test_a_file_put_there_by_hand_is_taken(server: Server, artifacts: Path, place: Path):
    server.status = 404
    with pytest.raises(ToolError, match=r"HTTP 404.*or put the file at ") as error:
        locate(NAME, "file", quiet=True)
    target = Path(str(error.value).rpartition("put the file at ")[2])
    shutil.copy(artifacts / f"{NAME}.qnz", target)
    assert locate(NAME, "file", quiet=True) == target


def test_two_at_once_fetch_once(server: Server, place: Path):
    actual: list[Path] = []
    threads = [threading.Thread(target=lambda: actual.append(locate(NAME, "file", quiet=True))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(actual) == 4 and len(set(actual)) == 1
    assert server.paths == [f"/release/{NAME}.qnz"]


def test_other_content_is_refused_and_not_kept(server: Server, place: Path, capfd: pytest.CaptureFixture[str]):
    path = f"/release/{NAME}.qnz"
    server.files[path] = server.files[path][:-1] + b"?"
    with pytest.raises(DataError, match="wrong checksum"):
        locate(NAME, "file", quiet=True)
    assert cached(place) == []
    assert run(["predict", NAME, "x.jpg", "--quiet"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "wrong checksum" in line and "try again later, or update QuickNet" in line


@pytest.mark.parametrize(
    ("lie", "words"),
    [({"length": 1 << 40}, "has at most"), ({"length": -1, "endless": True}, "it goes on past")],
)
def test_a_server_that_lies_or_never_ends_is_cut_off(lie: dict, words: str, server: Server, place: Path):
    for name, value in lie.items():
        setattr(server, name, value)
    with pytest.raises(ToolError, match=words):
        locate(NAME, "file", quiet=True)
    assert sum(path.stat().st_size for path in (place.parent / "cache").rglob("*")) < 2_000_000


def test_a_damaged_copy_in_the_cache_is_fetched_anew(server: Server, place: Path):
    path = locate(NAME, "file", quiet=True)
    blob = path.read_bytes()
    for damaged in (blob[:100], blob[:-1] + b"?", b""):
        path.write_bytes(damaged)
        assert locate(NAME, "file", quiet=True).read_bytes() == blob


def test_weights_of_another_release_are_not_taken_for_these(
    server: Server, artifacts: Path, place: Path, tmp_path: Path
):
    old = locate(NAME, "file", quiet=True)
    network = small_network(1)
    new = write_qnz(tmp_path / "package" / "new.qnz", network, receipted(network, data_for(network)))
    fields = entry(artifacts, away=True)
    fields["file"]["parts"] = [{**part(new, "new.qnz", True), "file": f"{NAME}.qnz"}]
    write_index(tmp_path / "package", {NAME: fields})
    server.files["/release/new.qnz"] = new.read_bytes()
    path = locate(NAME, "file", quiet=True)
    assert path != old and path.read_bytes() == new.read_bytes()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense", "file:///", "http://127.0.0.1:port"])
def test_no_network_and_no_address_are_one_line(
    url: str, server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("QUICKNET_WEIGHTS_URL", url)
    assert run(["predict", NAME, "x.jpg", "--quiet"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("quicknet: error: cannot download") and "put the file at" in line


@pytest.fixture
def folder(server: Server, artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The release's files in a folder."""
    (tmp_path / "release").mkdir()
    for file in [f"{NAME}.qnz", *(f"{NAME}/{file}" for file in RUN_FILES)]:
        shutil.copy(artifacts / file, tmp_path / "release" / file.replace("/", "."))
    monkeypatch.setenv("QUICKNET_WEIGHTS_URL", str(tmp_path / "release"))
    return tmp_path / "release"


def test_a_release_may_be_a_folder(folder: Path, server: Server, artifacts: Path, place: Path):
    assert locate(NAME, "file", quiet=True).read_bytes() == (artifacts / f"{NAME}.qnz").read_bytes()
    assert cached(place) == [f"{NAME}.qnz"]
    assert server.paths == []


def test_a_checkout_has_the_release_beside_its_source(
    folder: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("QUICKNET_WEIGHTS_URL")
    (tmp_path / "src" / "quicknet").mkdir(parents=True)
    monkeypatch.setattr(shipped, "PACKAGED", Path(shutil.move(tmp_path / "package", tmp_path / "src" / "quicknet")))
    assert locate(NAME, "file", quiet=True).is_file()
    assert server.paths == []


def test_a_folder_that_lacks_the_file_or_has_another_is_one_line(
    folder: Path, place: Path, capfd: pytest.CaptureFixture[str]
):
    whole = (folder / f"{NAME}.qnz").read_bytes()
    for damaged, words in [(whole + b"?", "is not the file of"), (whole[:-1] + b"?", "is not"), (None, "cannot copy")]:
        (folder / f"{NAME}.qnz").unlink()
        if damaged is not None:
            (folder / f"{NAME}.qnz").write_bytes(damaged)
        assert run(["predict", NAME, "x.jpg", "--quiet"]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert words in line
        assert cached(place) == []


@pytest.mark.parametrize("blocked", ["cache", "cache/weights"])
def test_a_cache_that_cannot_be_written_is_one_line(
    blocked: str, server: Server, place: Path, capfd: pytest.CaptureFixture[str]
):
    """A file where a folder should be: also what root may not write."""
    (place.parent / blocked).parent.mkdir(exist_ok=True)
    (place.parent / blocked).write_bytes(b"")
    assert run(["predict", NAME, "x.jpg", "--quiet"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "cannot write the cache" in line and "QUICKNET_CACHE" in line


def test_a_read_only_cache_that_has_the_file_is_enough(server: Server, place: Path, monkeypatch: pytest.MonkeyPatch):
    located = locate(NAME, "file", quiet=True)

    def refuse(path: Path) -> None:
        raise AssertionError(path)

    monkeypatch.setattr(shipped, "locked", refuse)
    assert locate(NAME, "file", quiet=True) == located


def test_every_failure_is_the_project_s_own(server: Server):
    server.status = 500
    with pytest.raises(QuickNetError, match="Internal Server Error"):
        locate(NAME, "file", quiet=True)
