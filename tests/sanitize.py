"""The kernels' tests under the compiler's sanitizers: ``python -m tests.sanitize address`` or ``thread``. Linux, GCC.

``address``: memory and undefined behaviour of the CPU's core and of the CUDA kernels' host build. ``thread``: races of
the CUDA kernels' host build, whose blocks are threads of the system. What a sanitizer finds ends the tests.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from dreamforge import data
from dreamforge.ops.sources import hash_of

FLAGS = {
    "address": "-fsanitize=address,undefined -fno-sanitize-recover=all -g",
    "thread": "-fsanitize=thread -g",
}
LIBRARIES = {"address": ["libasan.so", "libubsan.so"], "thread": ["libtsan.so"]}
CORE = ["tests/test_adam.py", "tests/test_hashgrid.py", "tests/test_march.py", "tests/test_mlp.py"]
CORE += ["tests/test_antialias.py", "tests/test_rasterize.py", "tests/test_texture.py"]
CORE += ["tests/test_flexicubes.py", "tests/test_flexicubes_gradients.py", "tests/test_marching_tetrahedra.py"]
CORE += ["tests/test_splat.py", "tests/test_splat_degenerate.py"]
TESTS = {"address": [*CORE, "tests/test_cuda_kernels.py"], "thread": ["tests/test_cuda_kernels.py"]}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sanitize", description=__doc__)
    parser.add_argument("sanitizer", choices=list(FLAGS))
    kind = parser.parse_args().sanitizer
    sources = data.extensions()
    with tempfile.TemporaryDirectory() as folder:
        options = [f"-DCMAKE_CXX_FLAGS={FLAGS[kind]}", f"-DSOURCES_HASH={hash_of(sources)}"]
        subprocess.run(["cmake", "-S", str(sources), "-B", folder, *options], check=True)
        subprocess.run(["cmake", "--build", folder, "--target", "dreamforge_core", "dreamforge_host_cuda"], check=True)
        found = [_library(name) for name in LIBRARIES[kind]]
        environment = {
            **os.environ,
            "LD_PRELOAD": " ".join(found),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
            "TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1",
        }
        built = [f"--host-kernels={Path(folder) / 'dreamforge_host_cuda.so'}"]
        if kind == "address":
            built.append(f"--core={Path(folder) / 'dreamforge_core.so'}")
        command = [sys.executable, "-m", "pytest", "-q", "-s", "-k", "not compile", *built, *TESTS[kind]]
        return subprocess.run(command, env=environment).returncode


def _library(name: str) -> str:
    found = subprocess.run(["c++", f"-print-file-name={name}"], check=True, capture_output=True, text=True)
    return found.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
