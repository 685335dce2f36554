"""What a step with the large priors costs on one GPU, in minutes, without network or weights.

    python -m tests.gpu.priors --out results [--only CASE] [--device cuda] [--tiny]

Needs one GPU, a checkout, torch with CUDA and the packages of ``requirements.txt`` beside this file; dreamforge itself
need not be installed. A machine without network gets the packages as wheels, about 50 MB: run in a checkout on a
machine that has a network and the same system (``--python-version``: the GPU machine's, where it differs)

    pip download --no-deps --only-binary=:all: -c constraints.txt -r tests/gpu/requirements.txt -d wheels

bring the folder ``wheels`` over, and there

    pip install --no-index --no-deps --find-links wheels -r tests/gpu/requirements.txt

This file looks for them before anything else is imported; what is measured is in ``measure.py``.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

TORCH = "torch>=2.10"
REQUIREMENTS = "tests/gpu/requirements.txt"


def main(arguments: Sequence[str] | None = None) -> int:
    if missing([TORCH]):
        print(f"{TORCH} is what is to be measured, but it is not installed: install it with CUDA.", file=sys.stderr)
        return 2
    if absent := missing(required()):
        print(how_to_get(absent), file=sys.stderr)
        return 2
    from tests.gpu import measure

    return measure.main(arguments)


def required() -> list[str]:
    """The lines of ``requirements.txt``: names, some with ``>=`` and the least version."""
    lines = (Path(__file__).parent / "requirements.txt").read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def missing(requirements: Iterable[str]) -> list[str]:
    """Those that are not installed, or older than they must be."""
    absent = []
    for requirement in requirements:
        name, _, least = requirement.partition(">=")
        try:
            if _numbers(version(name)) < _numbers(least):
                absent.append(requirement)
        except PackageNotFoundError:
            absent.append(requirement)
    return absent


def how_to_get(absent: Sequence[str]) -> str:
    """One sentence: what is missing, and the commands that bring it as wheels."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    fetch = f"pip download --no-deps --only-binary=:all: --python-version {python} -c constraints.txt"
    install = f"{sys.executable} -m pip install --no-index --no-deps --find-links wheels"
    return (
        f"These packages are missing or too old: {', '.join(absent)}; in a checkout on a machine with a network and "
        f"the same system run `{fetch} -r {REQUIREMENTS} -d wheels`, bring the folder wheels here, and run "
        f"`{install} -r {REQUIREMENTS}`."
    )


def _numbers(text: str) -> list[int]:
    """2.13.0+cpu -> [2, 13]; an empty text -> [], which is older than everything."""
    return [int(number) for number in re.findall(r"\d+", text)[:2]]


if __name__ == "__main__":
    sys.exit(main())
