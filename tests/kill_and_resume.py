"""Kill a run with SIGKILL at moments spread over its whole life, resume it, and compare the bytes.

    python -m tests.kill_and_resume --recipe smoke --moments 20 [key=value ...]

A moment is a file operation of the run (a file opened, synced, renamed, deleted, a line logged): the process kills
itself in the middle of it, so a moment is the same every time. The operations of an unkilled run are counted first.
Each run is a fork of a process that has imported everything and computed nothing. Needs a POSIX system.
"""

import argparse
import builtins
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from dreamforge import config, runs

# Imported late by a run; imported here once instead of in every fork.
LATE = (
    "torch._dynamo",
    "safetensors.torch",
    "PIL.Image",
    "PIL.WebPImagePlugin",
    "dreamforge.export.prepare",
    "skimage.measure",
)
PROMPT = "a red mushroom"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="smoke")
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args(arguments)
    for module in LATE:
        import_module(module)
    recipe = config.load(options.recipe, options.overrides, {"prompt": PROMPT})
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        count = Path(folder) / "count"
        assert in_fork(partial(counted, partial(runs.generate, recipe, whole), count)) == 0
        total, expected = int(count.read_text()), fingerprint(whole)
        moments = sorted({1 + i * (total - 1) // max(options.moments - 1, 1) for i in range(options.moments)})
        wrong, out = 0, Path(folder) / "killed"
        for moment in moments:
            status = in_fork(partial(counted, partial(runs.generate, recipe, out), count, kill_at=moment))
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
            resumed = in_fork(partial(runs.generate, recipe, out))
            same = resumed == 0 and fingerprint(out) == expected
            wrong += not same
            print(f"killed at operation {moment} of {total}: {'same bytes' if same else 'DIFFERENT'}", flush=True)
            shutil.rmtree(out, ignore_errors=True)
    print(f"{len(moments) - wrong} of {len(moments)} runs ended in the same bytes")
    return 1 if wrong else 0


def fingerprint(path: Path) -> dict[str, str]:
    """What must not differ: recipe, asset, checkpoints, previews, turntable, and the log without its times."""
    kinds = {".glb", ".png", ".safetensors", ".webp", ".yaml"}
    files = [file for file in path.rglob("*") if file.suffix in kinds]
    found = {file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    found["metrics"] = json.dumps([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
    found["result"] = (path / "result.json").read_text()
    found["files"] = " ".join(sorted(p.relative_to(path).as_posix() for p in path.rglob("*")))
    return found


def in_fork(work: Callable[[], Any]) -> int:
    """The wait status of a fork that does ``work``: 0 if it came through."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def counted(work: Callable[[], Any], count: Path, kill_at: int = 0) -> None:
    """Do ``work`` with every file operation counted; the process ends itself in the middle of number ``kill_at``."""
    done = 0

    def watch(module: Any, name: str, is_counted: Callable[..., bool] = lambda *a: True) -> None:
        original = getattr(module, name)

        def operation(*args: Any, **more: Any) -> Any:
            nonlocal done
            done += is_counted(*args)
            if done == kill_at and is_counted(*args):
                try:
                    if done % 2:  # half of the kills come just after the operation
                        original(*args, **more)
                finally:
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **more)

        setattr(module, name, operation)

    for name in ("replace", "fsync", "unlink", "mkdir"):
        watch(os, name)
    watch(json, "dumps")  # a line of the log, a description
    watch(builtins, "open", lambda *a: len(a) > 1 and a[1][0] in "wax")
    work()
    with Path(count).open("r+" if count.exists() else "x") as file:
        file.write(str(done))


if __name__ == "__main__":
    sys.exit(main())
