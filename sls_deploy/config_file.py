"""Settings as TOML and as flags: reading, merging, writing."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sls_deploy.config import Config, Section
from sls_deploy.errors import SlsError

AnySection = TypeVar("AnySection", bound=Section)


def parse_section(section: type[AnySection], values: dict[str, Any], where: str) -> AnySection:
    """Check raw settings; those that are None keep their default.

    Args:
        section: what they are settings of.
        values: settings by name.
        where: the file or command that they come from, for the error.

    Raises:
        SlsError: a setting is unknown or out of range; names it and says what is allowed.
    """
    given = {name: value for name, value in values.items() if value is not None}
    try:
        return section.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise SlsError(f"there is no setting {name}", where) from None
        message = first["msg"].removeprefix("Value error, ")
        raise SlsError(
            f"{name} is {first['input']!r}: {message[:1].lower()}{message[1:]}", where
        ) from None


def merge_config(config: Config, flags: dict[str, dict[str, Any]]) -> Config:
    """Put flags over settings.

    Args:
        config: the settings.
        flags: by section and setting; those that are None change nothing.

    Raises:
        SlsError: a flag is out of range; names it and says what is allowed.
    """
    values = config.model_dump(by_alias=True)
    for section, given in flags.items():
        values[section] |= {key: value for key, value in given.items() if value is not None}
    return parse_section(Config, values, "the command line")


def read_config(path: Path) -> Config:
    """Read a TOML file of settings; relative paths in it start at its folder.

    Raises:
        SlsError: no such file, no TOML, or a setting that is unknown or out of range.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise SlsError("no such file", str(path), "`sls-deploy init` writes one.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SlsError(f"cannot be read as TOML ({error})", str(path)) from None
    for section, name in (
        ("model", "weights"),
        ("data", "photos"),
        ("search", "latency_table"),
        ("export", "calibration"),
        ("validate", "pictures"),
    ):
        value = values.get(section, {})
        if isinstance(value, dict) and isinstance(value.get(name), str):
            value[name] = str(path.parent / value[name])
    own = values.get("model", {})
    if isinstance(own, dict) and ".py:" in str(own.get("name")):
        own["name"] = str(path.parent / own["name"])
    return parse_section(Config, values, str(path))


def to_toml(config: Config, *, comments: bool = False) -> str:
    """Settings as TOML with every default spelled out; settings that are None stand as comments.

    Args:
        config: the settings.
        comments: put each setting's description above it.
    """
    lines: list[str] = []
    for section_name, section in config:
        name = section_name.rstrip("_")
        lines += [f"[{name}]"]
        for key, value in section.model_dump(mode="json").items():
            description = type(section).model_fields[key].description
            if comments and description:
                lines.append(f"# {description}")
            lines.append(f"# {key} =" if value is None else f"{key} = {_toml(value)}")
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """A JSON value as TOML on one line."""
    if isinstance(value, dict):
        given = {str(key): item for key, item in value.items() if item is not None}
        pairs = (f"{json.dumps(key)} = {_toml(item)}" for key, item in given.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
