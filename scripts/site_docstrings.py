# SPDX-License-Identifier: Apache-2.0
"""Docstrings on the pages of the API: the ``::`` before an example is not Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

_MARK = re.compile(r"^( *)::$|(?<=\w):(?=:$)", re.MULTILINE)


class Examples(griffe.Extension):
    """Indented examples become code blocks of Markdown."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _MARK.sub("", obj.docstring.value)
