"""Compiles the engine into the wheel, where there is a C compiler; without one the wheel is pure Python.

Where users have a compiler, a pure wheel compiles at first use; QUICKNET_REQUIRE_ENGINE=1 (set
for the wheels that are published) makes a missing compiler an error instead.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")


class EngineHook(BuildHookInterface):
    """Puts `_engine.so` (.dylib, .dll) beside `quicknet/engine/build.py`."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, for a wheel; an editable install compiles at first use."""
        if self.target_name != "wheel" or version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory(prefix="quicknet-engine-")
        library = Path(self._folder.name) / f"_engine{_SUFFIX}"
        failure = self._compile(library)
        if failure is None:
            build_data["force_include"][str(library)] = f"quicknet/engine/{library.name}"
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"
        elif os.environ.get("QUICKNET_REQUIRE_ENGINE") == "1":
            raise RuntimeError(f"the engine was not compiled: {failure}")
        else:
            self.app.display_warning(f"the engine is not in this wheel: {failure}")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the library's temporary folder."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()

    def _compile(self, target: Path) -> str | None:
        """Return what failed, or None. The package's own recipe (standard library only) does it."""
        sys.path.insert(0, str(Path(self.root) / "src"))
        try:
            # not `import quicknet.engine`, which needs numpy
            where = Path(self.root) / "src" / "quicknet" / "engine" / "build.py"
            spec = importlib.util.spec_from_file_location("quicknet_engine_build", where)
            assert spec is not None and spec.loader is not None
            build = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(build)
            failure: str | None = build.compile_to(target)
            return failure
        finally:
            sys.path.pop(0)
