"""``key=value`` on top of a recipe: how values given on the command line and restated blocks are laid over others."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dreamforge.types import DreamforgeError

MERGED = ("prior", "scene", "guidance", "timesteps", "noise", "cameras", "prompts", "optimiser", "export")


def parse(texts: Sequence[str]) -> dict[str, object]:
    """``["guidance.cfg_scale=5"]`` -> ``{"guidance.cfg_scale": 5}``; values are YAML. Raises DreamforgeError."""
    values: dict[str, object] = {}
    for text in texts:
        key, equals, _ = text.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.\w+|\[\d+\])*", key):
            raise DreamforgeError(f"'{text}' is not an override: write key=value, for example guidance.cfg_scale=30.")
        try:
            one = OmegaConf.to_container(OmegaConf.from_dotlist(["v" + text[len(key) :]]))
        except (YAMLError, OmegaConfBaseException) as error:
            raise DreamforgeError(f"The value of the override '{text}' is not readable as YAML: quote it.") from error
        assert isinstance(one, dict)
        values[key] = one["v"]
    return values


def assign(content: dict[str, Any], values: Mapping[str, object]) -> None:
    """Set every dotted key of ``values`` in ``content``, in place. A changed ``use`` drops the old class's values."""
    ordered = sorted(values.items(), key=lambda item: not item[0].endswith("use"))  # stable: 'use' first
    for key, value in ordered:
        _assign(content, key, value)


def merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` overridden by ``own``: slots with the same ``use`` value by value, everything else whole."""
    return {**base, **{key: _over(base.get(key), value) if key in MERGED else value for key, value in own.items()}}


def _over(old: object, new: object) -> object:
    """A block laid over a block; another ``use`` starts afresh."""
    if isinstance(new, str):
        new = {"use": new}
    if not isinstance(old, Mapping) or not isinstance(new, Mapping) or new.get("use", old.get("use")) != old.get("use"):
        return new
    return {**old, **new}


def _assign(content: dict[str, Any], key: str, value: object) -> None:
    *parents, last = [int(part) if part.isdigit() else part for part in re.findall(r"\w+", key)]
    block: Any = content
    for step in parents:
        child = _entry(block, step, key)
        if isinstance(child, str) and step in MERGED:  # "guidance: sds.SDS" is short for "guidance: {use: sds.SDS}"
            child = {"use": child}
        block[step] = block = child if isinstance(child, dict | list) else {}
    old = _entry(block, last, key)
    if last == "use" and old != value:
        block.clear()
    block[last] = _over(old, value) if last in MERGED else value


def _entry(block: Any, step: str | int, key: str) -> Any:
    """``block[step]``, None where a key is not there yet."""
    if isinstance(block, list) and isinstance(step, int) and step < len(block):
        return block[step]
    if isinstance(block, dict) and isinstance(step, str):
        return block.get(step)
    raise DreamforgeError(f"The override '{key}' points nowhere: the recipe has no entry '{step}' there.")
