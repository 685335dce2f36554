"""The command line. The only place that parses arguments, prints results and decides the exit code.

stdout carries results: its last line is the path of what was made, or one line of JSON with ``--json``. Progress,
warnings and errors go to stderr. Exit codes: 0 done, 2 wrong input, 1 failed or interrupted.
"""

import argparse
import errno
import json
import os
import re
import sys
from collections.abc import Sequence

import dreamforge

DONE, FAILED, WRONG_INPUT = 0, 1, 2
OVERRIDE = re.compile(r"[A-Za-z_][\w.\[\]]*=.*", re.DOTALL)
USERS_TO_MEND = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parse(arguments)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # 'use: my_lab.Mine' finds my_lab.py here; as the last entry it shadows nothing
    # Large tensors in large pages: a first touch costs a third, a lookup in a table misses fewer pages. Linux only.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it when it first takes memory
    import torch

    from dreamforge import commands
    from dreamforge.runs import Interrupted
    from dreamforge.types import DreamforgeError

    try:
        outcome = getattr(commands, options.run)(options)
    except DreamforgeError as error:
        return _fail(options, str(error), WRONG_INPUT)
    except OSError as error:
        named = f" '{error.filename}'" if error.filename else ""
        code = WRONG_INPUT if error.errno in USERS_TO_MEND else FAILED
        return _fail(options, f"The system refused{named}: {error.strerror or error}.", code)
    except (Interrupted, FloatingPointError, MemoryError) as error:
        return _fail(options, str(error) or "The memory is used up: use smaller sizes.", FAILED)
    except torch.OutOfMemoryError:
        return _fail(options, "The device's memory is used up: take a smaller --vram, views or prior.size.", FAILED)
    except KeyboardInterrupt:
        return _fail(options, "interrupted; 'dreamforge resume RUN' goes on from the last checkpoint", FAILED)
    lines = [json.dumps(outcome.facts)] if options.json else outcome.lines
    print("\n".join(lines), flush=True)
    return FAILED if outcome.failed else DONE


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; ``key=value`` may stand anywhere among them."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if "overrides" in options:
        options.overrides = [*options.overrides, *(text for text in rest if OVERRIDE.fullmatch(text))]
        if "prompt" in options and options.prompt is not None and OVERRIDE.fullmatch(options.prompt):
            options.overrides, options.prompt = [options.prompt, *options.overrides], None
        rest = [text for text in rest if not OVERRIDE.fullmatch(text)]
    if rest:
        parser.error(f"not understood: {' '.join(rest)}; see 'dreamforge --help'")
    return options


def _fail(options: argparse.Namespace, message: str, code: int) -> int:
    print(f"dreamforge: {message}", file=sys.stderr)
    if options.json:
        print(json.dumps({"status": "wrong input" if code == WRONG_INPUT else "failed", "error": message}), flush=True)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dreamforge", description=dreamforge.__doc__)
    parser.add_argument("--version", action="version", version=f"dreamforge {dreamforge.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _generate(_command(commands, "generate", "make an asset of a prompt, or go on with a stopped run"))
    _run_argument(_command(commands, "resume", "go on with a stopped run"))
    export = _command(commands, "export", "write the mesh of a run in another format")
    _run_argument(export)
    export.add_argument("--format", default="glb", help="glb, obj or ply (default: glb)")
    _convert(_command(commands, "convert", "make another kind of scene of a finished run"))
    _run_argument(_command(commands, "render", "render the turntable of a run again"))
    evaluate = _command(commands, "eval", "let the evaluator judge the assets of runs", run="evaluate")
    evaluate.add_argument("paths", nargs="+", metavar="RUN", help="folder of a run")
    _compare(_command(commands, "compare", "compare runs of two settings, paired by prompt and seed"))
    _reproduce(_command(commands, "reproduce", "measure published claims about methods again"))
    listed = _command(commands, "list", "say what there is to choose from", run="list_choices")
    listed.add_argument("what", choices=["recipes", "guidance", "priors", "scenes"])
    _prior(_command(commands, "prior", "train, sample or describe the embedded prior").add_subparsers(required=True))
    toybox = _command(commands, "toybox", "the objects that the embedded prior learns from")
    show = _command(toybox.add_subparsers(required=True), "show", "draw a sheet of every kind", run="toybox_show")
    show.add_argument("--out", default="toybox.png", help="the picture to write (default: toybox.png)")
    _bench(_command(commands, "bench", "measure where the time goes on this machine"))
    _doctor(_command(commands, "doctor", "check this installation and say what is slow or wrong, and why"))
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, help: str, run: str = ""
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    parser.set_defaults(run=run or name)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead")
    return parser


def _generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what to make (default: the recipe's own)")
    parser.add_argument("--recipe", default="default", help="a name of 'dreamforge list recipes', or a YAML file")
    start = "start from a mesh, points or Gaussians of your own: .glb, .gltf, .obj or .ply, +Y up, the front to +Z"
    parser.add_argument("--from", dest="start", metavar="FILE", help=start)
    parser.add_argument("--out", help="folder of the run (default: runs/PROMPT-SEED)")
    parser.add_argument("--seed", type=int, help="same seed, same bytes (default: the recipe's own, mostly 0)")
    parser.add_argument("--device", help="auto, cpu, cuda or mps (default: the recipe's own, mostly auto)")
    _vram(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run in the folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any key, as guidance.cfg_scale=30")


def _convert(parser: argparse.ArgumentParser) -> None:
    _run_argument(parser)
    parser.add_argument("--to", required=True, metavar="KIND", help="mesh, gaussians or hash_nerf")
    parser.add_argument("--out", help="folder of the new run (default: RUN-KIND)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run in the folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any key of the new scene, as count=50000")


def _compare(parser: argparse.ArgumentParser) -> None:
    for name, metavar in (("first", "A"), ("second", "B")):
        parser.add_argument(name, metavar=metavar, help="a run, a folder of runs, or the table.json of a suite")
    parser.add_argument("--out", default="compare.csv", help="a row for each pair and metric (default: compare.csv)")


def _reproduce(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", choices=["canvas-claims"], help="claims about guidances, measured on flat pictures")
    parser.add_argument("--out", help="folder of the result (default: runs/SUITE); a stopped command goes on in it")
    parser.add_argument("--prior", action="append", default=[], metavar="NAME", help="toybox or latent (default: all)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--estimate", action="store_true", help="only say how long it would take")
    parser.add_argument("--quick", action="store_true", help="a few prompts and steps: shows that it works, no result")


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", help="say instead what memory and time this recipe takes")
    parser.add_argument("--device", help="auto, cpu, cuda or mps (default: the recipe's own, mostly auto)")
    _vram(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any key of the recipe")


def _bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prior", action="store_true", help="a step instead: network, encode, scene, rest")
    parser.add_argument("--only", default="", metavar="NAME", help="one row of the operations, as hashgrid_backward")
    parser.add_argument("--growth", metavar="FOLDER", help="splatting over sizes instead: growth.json and growth.png")
    parser.add_argument("--recipe", default="default", help="a name of 'dreamforge list recipes', or a YAML file")
    parser.add_argument("--steps", type=int, default=60, help="steps of each stage (default: 60)")
    parser.add_argument("--warmup", type=int, default=10, help="first steps that do not count (default: 10)")
    parser.add_argument("--device", help="auto, cpu, cuda or mps (default: the recipe's own, mostly auto)")
    _vram(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any key of the recipe")


def _vram(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vram", type=int, metavar="GB", help="keep pretrained priors to 6, 8, 12, 24 or 80 GB")


def _run_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN", help="folder of a run")


def _prior(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    train = _command(commands, "train", "train a prior on toybox pictures, or go on training", run="prior_train")
    train.add_argument("--out", required=True, help="folder of the prior")
    models = "toybox in pixels and told cameras (default), latent a Stable Diffusion pipeline in small"
    train.add_argument("--model", choices=["toybox", "latent"], default="toybox", help=models)
    train.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the training: steps=2000")
    sample = _command(commands, "sample", "draw what the prior believes", run="prior_sample")
    sample.add_argument("prompt", metavar="PROMPT")
    sample.add_argument("--n", type=int, default=8, help="number of pictures (default: 8)")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--folder", default="", help="folder of a prior, or toybox-latent (default: the one in pixels)")
    sample.add_argument("--out", default="samples.png", help="the picture to write (default: samples.png)")
    info = _command(commands, "info", "print the card of a prior", run="prior_info")
    info.add_argument("--folder", default="", help="folder of a prior, or toybox-latent (default: the one in pixels)")
