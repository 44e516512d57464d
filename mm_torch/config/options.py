"""Options of the verbs that take no recipe: ``key=value`` words against a table of known keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from mm_torch.config.load import RecipeError, parse_overrides

_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read_options(arguments: Iterable[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Read ``key=value`` words; a value takes the type of its key's default.

    Args:
        arguments: command-line words.
        known: key to default. A type in place of a default (``float``) makes an option of that type that is None unless
            given; a default of None does the same for text. Text is taken as written, never as YAML.

    Returns:
        A value for every known key.

    Raises:
        RecipeError: a word is no ``key=value``, a key is unknown or given twice, a value does not convert.
    """
    words = list(arguments)
    parse_overrides(words)
    values = {key: None if isinstance(default, type) else default for key, default in known.items()}
    given: set[str] = set()
    for word in words:
        key, _, text = word.partition("=")
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise RecipeError(f"unknown option {key!r}: choose from {', '.join(known) or 'none at all'}{hint}")
        if key in given:
            raise RecipeError(f"{word}: {key} is given twice; give it once")
        given.add(key)
        default = known[key]
        values[key] = _convert(key, text, default if isinstance(default, type) else type(default))
    return values


def _convert(key: str, text: str, kind: type) -> Any:
    try:
        if kind is bool:
            return _FLAGS[text.lower()]
        return kind(text) if kind in (int, float) else text
    except (KeyError, ValueError):
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise RecipeError(f"{key}={text}: must be {wanted}") from None
