# SPDX-License-Identifier: Apache-2.0
"""Docstrings on the pages of the API: reStructuredText that is not Markdown is taken out."""

from __future__ import annotations

import re
from typing import Any

import griffe

# The "::" before an example, and the role before a name.
_MARKUP = re.compile(r"^( *)::$|(?<=\w):(?=:$)|:(meth|class|func):(?=`)", re.MULTILINE)


class Markdown(griffe.Extension):
    """Indented examples become code blocks, and names code."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _MARKUP.sub("", obj.docstring.value)
