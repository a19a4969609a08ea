"""Statements of a checkpoint about itself, beside its tensors → `Hints`.

One module a writer: `training` (timm's train.py, facebookresearch's main.py), `mmengine`, and
`loose` for Lightning's ``hyper_parameters`` and the entries that people write themselves. Each
translates into the mapping that `hints_from_config` reads, so that families know one form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from levit.errors import ConfigError
from levit.models.hints import Hints, hints_from_config
from levit.models.hints_merging import agreed
from levit.models.stated.loose import read_loose
from levit.models.stated.mmengine import read_meta
from levit.models.stated.statement import Statement
from levit.models.stated.training import read_training

__all__ = ["hints_from_file"]


def _read_config(values: Mapping[str, Any]) -> Statement:
    """Read a dict called config: one of transformers or timm, or somebody's settings."""
    if "model_type" in values or "pretrained_cfg" in values:
        return Statement(values=values)
    return read_loose(values)


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Statement]]] = {
    "args": read_training,
    "meta": read_meta,
    "hyper_parameters": read_loose,
    "hparams": read_loose,
    "config": _read_config,
}

_ADVICE: Final = (
    "where it means something else, save the weights alone: torch.save(model.state_dict(), …)"
)


def hints_from_file(said: Mapping[str, Any], file: str) -> tuple[Hints, tuple[str, ...]]:
    """Read the statements of a file beside its tensors.

    ::

        hints, notes = hints_from_file({"args": {"model": "levit_128s", "mean": [0.5]}}, "a.pth")
        hints.architecture, hints.transform, hints.origins["transform"]
        # 'levit_128s', {'mean': (0.5, 0.5, 0.5)}, 'args in a.pth'

    Args:
        said: `levit.models.containers.Contents.said`.
        file: name of the file, for messages and origins.

    Returns:
        The hints, and what could not be read, in words.

    Raises:
        ConfigError: a value is not what it should be.
    """
    hints, notes = Hints(), []
    # Under these keys anything may stand, such as the path of a config.
    tables = {key: said[key] for key in _READERS if isinstance(said.get(key), Mapping)}
    places = [(f"{key} in {file}", tables[key], _READERS[key]) for key in tables]
    rest = {key: value for key, value in said.items() if key not in _READERS}
    for where, values, read in [*places, (file, rest, read_loose)]:
        try:
            statement = read(values)
            found = _hints(statement, where)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise ConfigError(f"{where}: {error}; {_ADVICE}") from error
        except ConfigError as error:
            raise ConfigError(f"{error}; {_ADVICE}") from error
        hints = agreed(hints, found)
        notes += [f"{where}: {note}" for note in statement.notes]
    return hints, tuple(notes)


def _hints(statement: Statement, where: str) -> Hints:
    hints = hints_from_config(statement.values, where) if statement.values else Hints()
    return statement.added_to(hints).said_in(where)
