"""Pictures with the statistics of photographs, drawn, and folders and git repositories of them."""

import io
import subprocess

import numpy as np
from PIL import Image


def photo(seed: int, size=(96, 80)) -> Image.Image:
    """Something like a photograph: smooth at large, with detail, its channels alike."""
    rng = np.random.default_rng(seed)
    grey, colour = rng.integers(20, 236, (12, 14, 1)), rng.integers(-20, 21, (12, 14, 3))
    image = Image.fromarray(np.clip(grey + colour, 0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = np.repeat(rng.integers(0, 256, (48, 40, 1), np.uint8), 3, axis=2)
    return Image.blend(image, Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), 0.25)


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def numbered(seeds, folder: str) -> dict[str, bytes]:
    return {f"{folder}/{seed}.JPEG": jpeg(photo(seed)) for seed in seeds}


def put(root, files: dict[str, bytes]):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def git(*arguments, given=None) -> str:
    run = subprocess.run(["git", *map(str, arguments)], check=True, capture_output=True, input=given)
    return run.stdout.decode()


def repository(root, files: dict[str, bytes], work=None):
    """Return the bare git directory of one commit of `files` or of the folder `work`."""
    git("init", "--quiet", "--bare", root)
    work = put(work or root.with_name(f"{root.name}.work"), files)
    at = ("--git-dir", root, "--work-tree", work)
    git(*at, "add", "--all")
    git(*at, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "pictures")
    return root
