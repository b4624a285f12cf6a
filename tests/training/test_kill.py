"""SIGKILL at any moment never costs more than the epoch in progress.

The child processes are forks of one that has imported torch already, which makes 40 kills cheap.
"""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from helpers import TINY, same_tensors

# Forks children that train (resuming where there is something), kills each, checks the folder.
DRIVER = """
    import json, os, random, signal, sys, time
    from pathlib import Path
    import torch
    from quicknet import training
    from quicknet.training.checkpoint import load_model
    torch.set_num_threads(1)
    folder, settings, mode = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
    CPU = torch.device("cpu")

    def work(kill_at, said):
        if kill_at is not None:
            kill_in_mid_save(kill_at)
        saved = (folder / "last.json").exists()
        if not saved:  # killed before anything was saved: what is there is a recipe and an empty log
            run = training.start(training.load_recipe("fast", settings), folder, CPU)
        else:
            run = training.resume(folder, CPU)
        os.write(said, b"!")
        for _ in training.fit(run):
            pass

    def kill_in_mid_save(countdown):
        # Die just before or just after the Nth rename or fsync from now.
        counter = [countdown]
        def dying(real, after):
            def call(*args, **kwargs):
                if after:
                    result = real(*args, **kwargs)
                counter[0] -= 1
                if counter[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result if after else real(*args, **kwargs)
            return call
        os.replace = dying(os.replace, countdown % 2 == 0)
        os.fsync = dying(os.fsync, countdown % 2 == 1)

    def check(epochs_before):
        if not (folder / "last.json").exists():
            return 0
        from quicknet.core.files import settle_pair
        counters = settle_pair(folder / "last.json", folder / "last.safetensors")
        assert counters["epoch"] >= epochs_before, (counters["epoch"], epochs_before)
        if counters["epoch"]:
            load_model(folder)
        return counters["epoch"]

    rng, epochs, kills = random.Random(int(sys.argv[4])), 0, 0
    for attempt in range(200):
        kill_at = rng.randint(1, 22) if mode == "saving" and kills < 25 else None
        heard, said = os.pipe()
        child = os.fork()
        if child == 0:
            work(kill_at, said)
            os._exit(0)
        os.close(said)
        if mode == "random" and kills < 25:
            os.read(heard, 1)  # it trains now, or is dead
            time.sleep(rng.uniform(0.0, 0.25))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(heard)
        if os.WIFSIGNALED(status):
            kills += 1
            epochs = check(epochs)
        elif os.WEXITSTATUS(status) == 0:
            break
        else:
            sys.exit(f"the child failed after {kills} kills")
    print(json.dumps({"kills": kills, "epochs": check(epochs)}))
"""


@pytest.mark.parametrize("mode", ["random", "saving"])
def test_a_kill_costs_at_most_the_epoch_in_progress(tiny_cifar, tmp_path, mode):
    settings = [
        *TINY,
        f"data.source={json.dumps(str(tiny_cifar))}",
        "train.epochs=60",
        "train.save_minutes=0.001",
    ]

    def drive(folder: Path, mode: str) -> dict:
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(DRIVER), str(folder), json.dumps(settings), mode, "1"],
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        return json.loads(result.stdout)

    outcome = drive(tmp_path / "killed", mode)
    assert outcome["kills"] >= 20
    assert outcome["epochs"] == 60
    assert len((tmp_path / "killed" / "log.jsonl").read_text().splitlines()) == 60
    drive(tmp_path / "whole", "never")
    for name in ("model.safetensors", "last.safetensors"):
        assert same_tensors(tmp_path / "killed" / name, tmp_path / "whole" / name)
