"""Options of plugins and passes: values from the configuration, checked against the signature's annotations."""

import difflib
import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from sounding.contract import Option
from sounding.errors import SoundingError
from sounding.records import OptionSheet


def resolve(owner: str, options: Sequence[Option], given: Mapping[str, object]) -> dict[str, Any]:
    """Values in force: those given, strictly of the annotated type, and defaults for the rest.

    `given` comes from TOML, so it is judged as JSON is: an array may fill a tuple, a string an enum or a path.
    Raises SoundingError naming owner, option, expected type and the value given.
    """
    known = {option.name: option for option in options}
    for name in given:
        if name not in known:
            raise SoundingError(f"{owner} has no option `{name}`{suggest(name, known)} {_listing(known)}.")
    return {
        option.name: _checked(owner, option, given[option.name]) if option.name in given else _default(owner, option)
        for option in options
    }


def sheets(options: Sequence[Option], values: Mapping[str, object]) -> tuple[OptionSheet, ...]:
    """Options as the daemon and the command line show them, in plain values."""
    return tuple(
        OptionSheet(
            option.name, type_name(option.annotation), plain(option, option.default), plain(option, values[option.name])
        )
        for option in options
    )


def options_hash(options: Sequence[Option], values: Mapping[str, object]) -> str:
    """Digest of the values in force: equal values give equal hashes in every process."""
    text = json.dumps({option.name: plain(option, values[option.name]) for option in options}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def plain(option: Option, value: object) -> object:
    """`value` as JSON knows it."""
    return _adapter(option).dump_python(value, mode="json")


def type_name(annotation: object) -> str:
    """An annotation as its author wrote it, near enough."""
    return inspect.formatannotation(annotation)


def suggest(name: str, known: Iterable[str]) -> str:
    """A clause that asks "did you mean …?" where something similar is known, else a full stop."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else "."


def _adapter(option: Option) -> TypeAdapter[Any]:
    annotation: Any = option.annotation
    return TypeAdapter(annotation)


def _checked(owner: str, option: Option, value: object) -> Any:
    try:
        text = json.dumps(value)
        return _adapter(option).validate_json(text, strict=True)
    except (TypeError, ValidationError) as error:
        raise SoundingError(
            f"{owner}: option `{option.name}` is {value!r}, expected {type_name(option.annotation)} "
            f"(its default is {option.default!r})."
        ) from error


def _default(owner: str, option: Option) -> Any:
    expected = type_name(option.annotation)
    try:
        return _adapter(option).validate_python(option.default, strict=True)
    except ValidationError as error:
        raise SoundingError(
            f"{owner}: the default of option `{option.name}` is {option.default!r}, which is no {expected}."
        ) from error
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise SoundingError(
            f"{owner}: option `{option.name}` is annotated {expected}, which a configuration file cannot express."
        ) from error


def _listing(known: Mapping[str, Option]) -> str:
    return f"Its options: {', '.join(known)}" if known else "It has no options"
