"""Text of an IR as OpenVINO writes it, element for element: no other XML is taken.

A reader of XML at large takes entities, comments and elements in any order, and OpenVINO's own
takes other liberties; a text that has one reading only needs neither.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = [
    "Layer",
    "Port",
    "read_edges",
    "read_layers",
    "check_texts",
    "find_head",
    "read_attributes",
]

_HEAD: Final = re.compile(
    rb'<\?xml version="1\.0"\?>\s*+<net name="[\w.-]{1,200}" version="11">\s*+<layers>'
)
_DIMS: Final = rb"(?:\s*+<dim>-?\d{1,12}</dim>)*+"
_NAMES: Final = rb"[!#-%'-;=?-~]{1,400}"  # printable, and nothing that XML writes otherwise
_PORT: Final = rb'\s*+<port id="\d" precision="\w++"(?: />|>' + _DIMS + rb"\s*+</port>)"
_LAYER: Final = re.compile(
    rb'\s*+<layer id="(\d{1,6})" name="(' + _NAMES + rb')" type="(\w{1,40})" version="(\w{1,40})"'
    rb'(?: output_names="' + _NAMES + rb'")?>'
    rb"(?:\s*+<data ([^<>/]*+)/>)?+"
    rb"(?:\s*+<input>((?:" + _PORT + rb")++)\s*+</input>)?+"
    rb'(?:\s*+<output>\s*+<port id="(\d)" precision="(\w++)"(?: names="' + _NAMES + rb'")?'
    rb"(?: />|>(" + _DIMS + rb")\s*+</port>)\s*+</output>)?+"
    rb"\s*+</layer>"
)
_PORT_PARTS: Final = re.compile(rb'<port id="(\d)" precision="(\w++)"(?: />|>(' + _DIMS + rb"))")
_NUMBER: Final = re.compile(rb"-?\d+")
_ATTRIBUTE: Final = re.compile(rb'([\w-]{1,40})="([ -%\'-~]{0,99}?)" ')
_TO_EDGES: Final = re.compile(rb"\s*+</layers>\s*+<edges>")
_EDGES: Final = re.compile(
    rb'(?:\s*+<edge from-layer="\d{1,6}" from-port="\d" to-layer="\d{1,6}" to-port="\d" />)++'
)
_QUOTED: Final = re.compile(rb'"(\d++)"')
_TO_TEXTS: Final = re.compile(rb"\s*+</edges>\s*+<rt_info>")
_TEXT: Final = re.compile(
    rb"\s*+<(/?+)([A-Za-z_][\w.-]{0,99})((?:\s++[A-Za-z_][\w.-]{0,99}=\"[^\"<]*+\")*+)\s*+(/?+)>"
)
_END: Final = re.compile(rb"\s*+</net>\s*+")
_OPENING: Final = re.compile(rb'\s*+<(/?+[^\s<>/]{1,40}+)(?: id="\d*" name="([!-~]{1,60}?)")?+')
# Texts of ours have a depth of 3.
_DEEPEST: Final = 16
_MOST_TEXTS: Final = 1000


class Port(NamedTuple):
    """A port as the text states it: its number, its type, its sizes (-1 for the batch)."""

    number: int
    precision: bytes
    dims: tuple[int, ...]


class Layer(NamedTuple):
    """A layer as the text states it; its attributes are text still."""

    number: int
    name: bytes
    kind: bytes
    version: bytes
    attributes: bytes
    inputs: tuple[Port, ...]
    output: Port | None


def find_head(text: bytes) -> int:
    """Return where the layers begin."""
    if b"<!" in text:
        raise ValueError("it declares entities, or has comments")
    return _expect(_HEAD, text, 0).end()


def read_layers(text: bytes, at: int, most: int) -> tuple[list[Layer], int]:
    """Read the layers, and where they end.

    Raises:
        ValueError: there are more than `most`.
    """
    layers: list[Layer] = []
    # Blocks of a network repeat their shapes.
    inputs: dict[bytes, tuple[Port, ...]] = {b"": ()}
    outputs: dict[tuple[bytes, ...], Port | None] = {(b"", b"", b""): None}
    sizes: dict[bytes, tuple[int, ...]] = {}

    def port(number: bytes, precision: bytes, dims: bytes) -> Port:
        if dims not in sizes:
            sizes[dims] = tuple(map(int, _NUMBER.findall(dims)))
        return Port(int(number), precision, sizes[dims])

    while (match := _LAYER.match(text, at)) is not None:
        number, name, kind, version, data, ports, *output = match.groups(b"")
        if ports not in inputs:
            inputs[ports] = tuple(port(*parts) for parts in _PORT_PARTS.findall(ports))
        made = tuple(output)
        if made not in outputs:
            outputs[made] = port(*output)
        layers.append(Layer(int(number), name, kind, version, data, inputs[ports], outputs[made]))
        if len(layers) > most:
            raise ValueError(f"it has over {most} operations")
        at = match.end()
    return layers, at


def read_edges(text: bytes, at: int) -> tuple[dict[tuple[int, int], tuple[int, int]], int]:
    """Read {(layer, its input): (layer, its output)}, and where the texts begin."""
    at = _expect(_TO_EDGES, text, at).end()
    match = _expect(_EDGES, text, at)
    numbers = list(map(int, _QUOTED.findall(match[0])))
    sources = zip(numbers[::4], numbers[1::4], strict=True)
    readers = zip(numbers[2::4], numbers[3::4], strict=True)
    edges = dict(zip(readers, sources, strict=True))
    if 4 * len(edges) != len(numbers):
        raise ValueError("it has two edges to one input")
    return edges, _expect(_TO_TEXTS, text, match.end()).end()


def read_attributes(data: bytes) -> dict[str, str]:
    """Read the attributes of a layer; ValueError where they are not plain."""
    pairs = _ATTRIBUTE.findall(data)
    found = {name.decode(): value.decode() for name, value in pairs}
    if len(found) != len(pairs) or _ATTRIBUTE.sub(b"", data):
        raise ValueError(f"has attributes {data[:60].decode('latin-1')!r}")
    return found


def check_texts(text: bytes, at: int) -> None:
    """Raise ValueError unless there are plain texts, and then nothing more."""
    inside = [b"rt_info"]
    for _ in range(_MOST_TEXTS):
        match = _expect(_TEXT, text, at)
        at = match.end()
        closes, name, _, single = match.groups()
        if name == b"rt_info" and not closes:
            raise ValueError("it has an rt_info within another")
        if closes and inside.pop() != name:
            raise ValueError(f"its element {name.decode()!r} is not open")
        if not inside:
            break
        if not closes and not single:
            inside.append(name)
        if len(inside) > _DEEPEST:
            raise ValueError(f"its elements are more than {_DEEPEST} deep")
    if inside or not _END.fullmatch(text, at):
        raise ValueError(f"it has over {_MOST_TEXTS} texts, or goes on after its end")


def _expect(pattern: re.Pattern[bytes], text: bytes, at: int) -> re.Match[bytes]:
    match = pattern.match(text, at)
    if match is None:
        opening = _OPENING.match(text, at)
        what = "no element"
        if opening is not None:
            name = f" {opening[2].decode()!r}" if opening[2] else ""
            what = f"an element {opening[1].decode('latin-1')!r}{name}"
        raise ValueError(f"it has {what} near byte {at} that is not as OpenVINO writes it")
    return match
