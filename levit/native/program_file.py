"""Files that hold a program and its arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from levit.errors import ArtifactError, CorruptArtifactError
from levit.json_values import parsed
from levit.native.check import check
from levit.native.payload import Payload, write_payload
from levit.native.program import Program

__all__ = ["PROGRAM", "read_program", "write_program"]

# The program's name among the texts of the file.
PROGRAM: Final = "program"


def write_program(
    path: Path, program: Program, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """Write a program, its arrays, floats of which are cast to float32, and other texts."""
    words = json.dumps(program.to_dict(), separators=(",", ":"), sort_keys=True)
    write_payload(path, arrays, {**metadata, PROGRAM: words})


def read_program(payload: Payload) -> Program:
    """Read the program of an open file, proven to fit its arrays; of these only the sizes are read.

    ::

        with open_payload(path) as payload:
            program = read_program(payload)

    Raises:
        ManifestVersionError: a newer release has written it.
        CorruptArtifactError: there is no program, or it cannot be run.
    """
    words = payload.metadata.get(PROGRAM)
    if words is None:
        raise CorruptArtifactError(f"{payload.path}: holds arrays and no program; export again")
    try:
        program = Program.from_dict(parsed(words))
        check(program, payload.specs)
    except ArtifactError as error:
        raise type(error)(f"{payload.path}: {error}") from error
    except ValueError as error:
        raise CorruptArtifactError(
            f"{payload.path}: its program is no JSON ({error}); export again"
        ) from error
    return program
