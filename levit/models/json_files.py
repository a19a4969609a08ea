"""JSON objects from files and from text, with errors that name the place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from levit.errors import ConfigError, brief
from levit.json_values import parsed

__all__ = ["json_object", "read_config"]

# With ImageNet-21k's 21,843 names, each twice, a config is 3 MB.
_LONGEST_BYTES: Final = 16 << 20


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    ::

        read_config(Path("config.json"))["model_type"]

    Raises:
        ConfigError: the file is missing, too long, is no JSON, or holds no object.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_LONGEST_BYTES + 1)
        if len(data) > _LONGEST_BYTES:
            raise ConfigError(
                f"{path}: longer than {_LONGEST_BYTES:,} bytes, so not a config or a list of "
                f"shards; take it out of the folder, or pass the right one"
            )
        return json_object(data.decode("utf-8-sig"), str(path))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({brief(error)})") from error


def json_object(text: str, name: str) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        name: name of the place of the text, for messages.

    Raises:
        ConfigError: the text is no JSON, or holds no object.
    """
    try:
        values = parsed(text, finite=False)
    except ValueError as error:
        raise ConfigError(f"{name}: cannot be read as JSON ({brief(error)})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: holds no JSON object")
    return values
