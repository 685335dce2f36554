"""``import dreamforge`` is light: no library that is slow or optional before somebody needs it."""

import json
import subprocess
import sys

HEAVY = ("diffusers", "transformers", "trimesh", "skimage", "scipy", "PIL", "fast_simplification")


def after(code: str) -> tuple[set[str], float]:
    """Run ``code`` in a fresh process: the modules that it loaded, and the CPU seconds that it took."""
    program = f"""
import json, sys, time
began = time.process_time()
{code}
names = sorted({{name.partition(".")[0] for name in sys.modules}})
print(json.dumps({{"modules": names, "seconds": time.process_time() - began}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    return set(answer["modules"]), float(answer["seconds"])


def test_the_package_alone_needs_no_torch() -> None:
    modules, seconds = after("import dreamforge; dreamforge.__version__")
    assert not {"torch", "numpy", *HEAVY} & modules
    assert seconds < 0.5


def test_help_needs_no_torch() -> None:
    modules, _ = after(
        "from dreamforge import cli\ntry:\n    cli.main(['generate', '--help'])\nexcept SystemExit: pass"
    )
    assert not {"torch", "omegaconf", *HEAVY} & modules


def test_generate_is_there_and_light_after_torch() -> None:
    # "import torch" before the clock starts would need a second program; torch takes what it takes.
    modules, seconds = after("import torch; began = time.process_time()\nimport dreamforge; dreamforge.generate")
    assert "torch" in modules
    assert not set(HEAVY) & modules
    assert seconds < 1.0


def test_an_unknown_name_is_an_attribute_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import dreamforge; dreamforge.generat"], capture_output=True, text=True
    )
    assert "AttributeError: module 'dreamforge' has no attribute 'generat'" in done.stderr
