"""Build the compiled core with CMake when the package is built; without a C++ compiler go on without it."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from runpy import run_path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")


class CoreBuildHook(BuildHookInterface):
    """``dreamforge/_native/dreamforge_core.so``, in the wheel and in the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        name = f"dreamforge_core{SUFFIX}"
        place = Path(self.root) / "dreamforge" / "_native" / name
        place.unlink(missing_ok=True)
        self.folder = tempfile.mkdtemp()
        try:
            library = self.build(Path(self.root) / "extensions", Path(self.folder)) / name
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", "") or str(error)
            self.app.display_warning(f"The compiled core was not built, everything will run slower: {said.strip()}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{next(sys_tags()).platform}"
        # In the checkout too: Python started there finds the package there, whatever is installed.
        place.parent.mkdir(exist_ok=True)
        shutil.copy2(library, place)
        if version != "editable":
            build_data["force_include"][str(library)] = f"dreamforge/_native/{name}"

    def build(self, sources: Path, to: Path) -> Path:
        """The folder with the library. Raises OSError or CalledProcessError where it cannot be built."""
        hash_of = run_path(str(Path(self.root) / "dreamforge" / "ops" / "sources.py"))["hash_of"]
        for step in (
            ["cmake", "-S", str(sources), "-B", str(to), "-G", "Ninja", f"-DSOURCES_HASH={hash_of(sources)}"],
            ["cmake", "--build", str(to)],
        ):
            subprocess.run(step, check=True, text=True, capture_output=True)
        return to

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
