"""YAML that people write: checked before it is read, because aliases, tags and nesting can make little text a lot."""

from __future__ import annotations

import yaml

LARGEST = 1_000_000  # characters of a text
_LONGEST = 1000  # characters of a value
_DEEPEST = 20
_MOST = 20_000  # values, with all aliases written out


class YamlError(ValueError):
    """A text is no YAML, or more than settings need; the message names where it stands, what is wrong and the remedy."""


def check_yaml(text: str, where: str) -> None:
    """Refuse YAML that would grow when it is read, run something or look something up.

    Args:
        text: what was read.
        where: file or key, for messages.

    Raises:
        YamlError: no YAML; too large or too deep, anchors being counted wherever an alias repeats them; tags, or
            interpolations.
    """
    if len(text) > LARGEST:
        raise YamlError(f"{where}: longer than {LARGEST} characters; settings are shorter")
    sizes, names = [0], [""]  # values inside, and anchor, of what is being read
    known: dict[str, int] = {}  # values of an anchor
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                if event.anchor not in known:
                    raise YamlError(f"{where}: alias *{event.anchor} stands before or within its anchor")
                sizes[-1] += known[event.anchor]
            elif isinstance(event, yaml.ScalarEvent):
                if len(event.value) > _LONGEST or "${" in event.value:
                    raise YamlError(f"{where}: {event.value[:40]!r}: too long or with ${{...}}; write the value out")
                sizes[-1] += 1
                known[event.anchor or ""] = 1
            elif isinstance(event, yaml.CollectionStartEvent):
                sizes.append(1)
                names.append(event.anchor or "")
            elif isinstance(event, yaml.CollectionEndEvent):
                known[names.pop()] = size = sizes.pop()
                sizes[-1] += size
            if getattr(event, "tag", None) is not None:
                raise YamlError(f"{where}: tag {event.tag[:40]!r}; settings have none, take it out")
            if len(sizes) > _DEEPEST or sizes[-1] > _MOST:
                raise YamlError(f"{where}: deeper than {_DEEPEST} or more than {_MOST} values; settings are fewer")
    except yaml.YAMLError as error:
        raise YamlError(f"{where}: not readable as YAML ({' '.join(str(error).split())}); correct it there") from None
