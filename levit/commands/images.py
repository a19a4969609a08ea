"""Artifact and image files that the words of a command line name."""

from __future__ import annotations

import argparse
import glob
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from levit.commands.progress import Progress
from levit.errors import InputError
from levit.pictures.folders import images_in
from levit.pictures.reading import file_contents
from levit.runtime.predictor import Predictor

__all__ = ["find_images", "open_predictor"]


def open_predictor(arguments: argparse.Namespace, progress: Progress) -> Predictor:
    """Open the artifact as the command line says."""
    progress("opening the artifact")
    return Predictor(
        arguments.artifact,
        arguments.device,
        arguments.threads,
        mode=arguments.mode,
        cache=arguments.cache,
        workers=arguments.workers,
        exif=arguments.exif,
        draft=arguments.draft,
        grey16=arguments.grey16,
        background=arguments.background,
        allow_host_code=arguments.allow_host_code,
    )


def _standard_input() -> BinaryIO:
    file = file_contents(sys.stdin.buffer)
    if not file.read(1):
        raise InputError("standard input is empty: pipe an image into it")
    file.name = "-"  # type: ignore[misc]
    return file


def find_images(words: Sequence[str]) -> list[tuple[str, str | BinaryIO]]:
    """Find (name to show, path or file) of every image, in the order of the words.

    A word is a file, a folder (searched at any depth), a glob, or ``-`` for an image on
    standard input.

    Raises:
        InputError: a word names nothing.
    """
    found: list[tuple[str, str | BinaryIO]] = []
    for word in words:
        if word == "-":
            found.append(("-", _standard_input()))
            continue
        if not word:
            raise InputError("an empty word names no image (an unset variable of the shell?)")
        path = Path(word)
        if path.is_dir():
            paths = images_in(path)
            if not paths:
                raise InputError(f"{word}: no images in this folder")
            found += [(str(p), str(p)) for p in paths]
        elif path.exists() or not glob.has_magic(word):
            found.append((word, word))
        else:
            try:
                names = [n for n in sorted(glob.glob(word, recursive=True)) if Path(n).is_file()]
            except RecursionError as error:
                raise InputError(
                    f"{word}: its folders lie in each other too deep; name a folder further below"
                ) from error
            if not names:
                raise InputError(f"{word}: matches no files")
            found += [(name, name) for name in names]
    return found
