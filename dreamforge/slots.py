"""Slots of a recipe: ``use: file.Class`` becomes an object of that class. The file system is the registry.

The class is a frozen dataclass, so it is its own schema: OmegaConf checks the types of the values given.
"""

import dataclasses
import difflib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamforge.types import DreamforgeError


@dataclass(frozen=True)
class Slot:
    """``home``: the folder or file of our own classes; ``methods``: a class of this slot has one of them."""

    name: str
    home: str
    methods: tuple[str, ...]

    def content(self, spec: Any) -> dict[str, Any]:
        """A spec object as YAML types, with the ``use`` that finds its class again."""
        cls = type(spec)
        own = cls.__module__.removeprefix(self._prefix() + ".")
        return {"use": f"{own}.{cls.__qualname__}", **_content(spec)}

    def choices(self) -> dict[str, type]:
        """Our own classes for this slot, ``file.Class`` -> class."""
        home = import_module(self.home)
        names = [self.home]
        if hasattr(home, "__path__"):
            names = [f"{self.home}.{module.name}" for module in pkgutil.iter_modules(home.__path__)]
        found = {}
        for module in map(import_module, names):
            for name, cls in vars(module).items():
                if self._fits(cls) and cls.__module__ == module.__name__ and not name.startswith("_"):
                    found[f"{module.__name__.removeprefix(self._prefix() + '.')}.{name}"] = cls
        return dict(sorted(found.items()))

    def locate(self, use: str) -> type:
        """The class of ``use``: in our own folder, else by its absolute import path. Raises DreamforgeError."""
        module, _, name = use.rpartition(".")
        for candidate in (f"{self._prefix()}.{module}", module):
            found = getattr(_imported(candidate), name, None) if module else None
            if found is not None:
                break
        if found is None:
            raise DreamforgeError(f"There is no {self.name} '{use}': {nearest(use, list(self.choices()))}")
        if not self._fits(found):
            wanted = " or ".join(f"{method}()" for method in self.methods)
            raise DreamforgeError(f"'{use}' cannot be a {self.name}: it must be a dataclass with {wanted}.")
        return found  # type: ignore[no-any-return]

    def _fits(self, cls: object) -> bool:
        is_spec = isinstance(cls, type) and dataclasses.is_dataclass(cls)
        return is_spec and any(hasattr(cls, method) for method in self.methods)

    def _prefix(self) -> str:
        home = import_module(self.home)
        return self.home if hasattr(home, "__path__") else self.home.rpartition(".")[0]


SLOTS = {
    slot.name: slot
    for slot in (
        Slot("prior", "dreamforge.priors", ("build",)),
        Slot("scene", "dreamforge.scenes", ("build",)),
        Slot("guidance", "dreamforge.guidance", ("grad", "build")),
        Slot("timesteps", "dreamforge.schedule", ("sample",)),
        Slot("noise", "dreamforge.noise", ("sample", "build")),
        Slot("cameras", "dreamforge.cameras", ("sample",)),
        Slot("prompts", "dreamforge.prompts", ("build",)),
    )
}


def locate(slot: str, use: str) -> type:
    """``locate("guidance", "sds.SDS")`` is ``dreamforge.guidance.sds.SDS``; see ``Slot.locate``."""
    return SLOTS[slot].locate(use)


def make(slot: str, content: object, where: str = "") -> Any:
    """The spec object of a slot's YAML block ``{use: file.Class, key: value, ...}``. Raises DreamforgeError.

    ``where``: the block's place in the recipe, for messages; the slot's name where it is not given.
    """
    where = where or slot
    if isinstance(content, str):
        content = {"use": content}
    if not isinstance(content, Mapping) or not isinstance(content.get("use"), str):
        raise DreamforgeError(f"'{where}' was given {content!r}, but expects a block with 'use: file.Class'.")
    values = {key: value for key, value in content.items() if key != "use"}
    return _block(locate(slot, content["use"]), values, where)


def _block(cls: type, values: object, where: str) -> Any:
    """An object of the dataclass ``cls`` with the specs and entries that its YAML block holds."""
    if not isinstance(values, Mapping):
        return typed(cls, values, where)
    inner = {key: make(of, values[key], f"{where}.{key}") for key, of in _marked(cls, "slot").items() if key in values}
    for key, kind in _marked(cls, "entries").items():
        if isinstance(entries := values.get(key), Mapping):
            inner[key] = {name: _block(kind, one, f"{where}.{key}.{name}") for name, one in entries.items()}
        elif key in values:
            raise DreamforgeError(f"'{where}.{key}' was given {entries!r}, but expects a block with one name per line.")
    return typed(cls, {**values, **inner}, where)


def _content(spec: Any) -> dict[str, Any]:
    """The dataclass ``spec`` as YAML types; the specs in it with their ``use``."""
    values = OmegaConf.to_container(OmegaConf.structured(spec))
    assert isinstance(values, dict)
    inner: dict[str, Any] = {
        key: SLOTS[slot].content(getattr(spec, key)) for key, slot in _marked(type(spec), "slot").items()
    }
    for key in _marked(type(spec), "entries"):
        inner[key] = {name: _content(one) for name, one in getattr(spec, key).items()}
    return {**{str(key): value for key, value in values.items()}, **inner}


def _marked(cls: type, mark: str) -> dict[str, Any]:
    """The fields of a spec that hold others, and what they hold.

    ``field(metadata={"slot": "scene"})``: a spec of this slot; ``{"entries": Kind}``: a mapping from names to objects
    of the dataclass ``Kind``, which may hold specs in turn.
    """
    return {one.name: one.metadata[mark] for one in dataclasses.fields(cls) if mark in one.metadata}


def typed(cls: type, values: object, where: str) -> Any:
    """An object of the dataclass ``cls``, each value checked against its type. Raises DreamforgeError."""
    if not isinstance(values, Mapping):
        raise DreamforgeError(f"'{where}' was given {values!r}, but expects a block of 'key: value' lines.")
    types = {one.name: one.type for one in dataclasses.fields(cls) if one.init}
    spell(where or "recipe", values, list(types))
    blocks = {key: kind for key, kind in types.items() if isinstance(kind, type) and dataclasses.is_dataclass(kind)}
    inner = {key: typed(kind, values[key], f"{where}.{key}") for key, kind in blocks.items() if key in values}
    values = {**values, **inner}
    try:
        return _merged(cls, values)
    except (OmegaConfBaseException, TypeError) as error:
        for key, value in values.items():
            if not _fits_alone(cls, key, value):
                expected = inspect.formatannotation(types[key]).replace("typing.", "")
                path = f"{where}.{key}" if where else key
                raise DreamforgeError(f"'{path}' was given {value!r}, but expects {expected}.") from error
        raise DreamforgeError(f"'{where or cls.__name__}' is not right: {str(error).splitlines()[0]}.") from error


def _merged(cls: type, values: Mapping[str, Any]) -> Any:
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), dict(values)))


def _fits_alone(cls: type, key: str, value: object) -> bool:
    """Whether the type of one field takes a value; what ``__post_init__`` says about it does not matter."""
    try:
        _merged(cls, {key: value})
    except (OmegaConfBaseException, TypeError):
        return False
    except DreamforgeError:
        return True
    return True


def spell(where: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise DreamforgeError with the nearest right key for the first key that is not known."""
    for key in given:
        if key not in known:
            raise DreamforgeError(f"There is no key '{key}' in {where}: {nearest(str(key), known)}")


def nearest(given: str, known: Sequence[str]) -> str:
    """The end of a sentence that helps: the most similar of ``known``, or all of them."""
    close = difflib.get_close_matches(given, known, n=1) or [k for k in known if given.lower() in k.lower()][:1]
    if close:
        return f"did you mean '{close[0]}'?"
    return f"choose one of {', '.join(known)}." if known else "there is none to choose from."


def _imported(module: str) -> object:
    """The module, or None where there is no such module; a module that fails to import is the user's to mend."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            return None
        raise DreamforgeError(f"'{module}' could not be imported: {error}; install what it needs.") from error
    except (ImportError, SyntaxError, ValueError) as error:
        raise DreamforgeError(f"'{module}' could not be imported: {error}.") from error
