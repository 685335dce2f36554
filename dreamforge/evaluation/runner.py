"""One asset of a table: ``generate`` in a process of its own, so that its memory and time are its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamforge.types import DreamforgeError


class Stopped(Exception):
    """The process of a run was interrupted or killed; the same command goes on with it."""


def make(prompt: str, recipe: str, out: Path, log: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Run ``dreamforge generate`` with seed 0, or go on with what ``out`` holds; its progress goes to ``log``.

    Answers its JSON line, with ``seconds`` (from command to GLB; None for a run that had been begun before) and
    ``peak_mb`` (largest resident memory of the process, None where the system does not say). A run that failed by
    itself is an answer, ``status`` "failed". Raises Stopped for a killed one, DreamforgeError for wrong settings.
    """
    fresh = not (out / "recipe.yaml").exists()
    command = [sys.executable, "-m", "dreamforge", "generate", prompt, "--recipe", recipe, "--out", str(out)]
    began = time.perf_counter()
    code, printed, peak = _watched([*command, "--seed", "0", "--json", *overrides], log)
    seconds = time.perf_counter() - began
    if code < 0:
        raise Stopped(f"the run of {prompt!r} was killed by signal {-code}")
    lines = printed.strip().splitlines()
    answer: dict[str, Any] = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {"status": "failed"}
    if code == 2:
        raise DreamforgeError(answer.get("error", f"'generate' refused {prompt!r}: see {log}."))
    if code != 0 and str(answer.get("error", "")).startswith("interrupted"):
        raise Stopped(f"the run of {prompt!r} was interrupted")
    answer |= {"seconds": round(seconds, 1) if fresh else None, "peak_mb": peak if fresh else None}
    return answer


def _watched(command: Sequence[str], log: Path) -> tuple[int, str, float | None]:
    """Exit code (minus the signal's number for a killed process), stdout, and peak resident memory in MB.

    A SIGTERM to this process is passed on, the other's end waited for, so that it writes its checkpoint, and Stopped
    raised: without that the other would go on alone.
    """
    asked: list[int] = []
    process: subprocess.Popen[str] | None = None

    def pass_on(number: int, frame: object) -> None:
        asked.append(number)
        if process is not None:
            process.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        with log.open("a", encoding="utf-8") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8")
        if asked:  # while it was being started
            process.terminate()
        found = _ended(process)
    finally:
        signal.signal(signal.SIGTERM, before)
    if asked:
        raise Stopped("asked to end (SIGTERM)")
    return found


def _ended(process: subprocess.Popen[str]) -> tuple[int, str, float | None]:
    """Wait for the end of a process; see ``_watched``."""
    with process:
        assert process.stdout is not None
        try:
            printed = process.stdout.read()
        except KeyboardInterrupt:
            process.wait()  # it got the signal too, and writes its checkpoint
            raise
        if not hasattr(os, "wait4"):
            return process.wait(), printed, None
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return process.returncode, printed, round(usage.ru_maxrss / unit, 1)
