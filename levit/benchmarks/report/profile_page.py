"""The page of a profile: where an image's time goes, and what each part of it computes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from levit.benchmarks.profile import Part, Profile
from levit.benchmarks.report.figures import figure, linear_ticks, percent_text, plain_tick
from levit.benchmarks.report.markup import Markup, tag, text_width, words
from levit.benchmarks.report.sections import document, section
from levit.benchmarks.report.table_markup import table_box
from levit.benchmarks.report.tables import Column, Table
from levit.whole_file import write_whole

__all__ = ["kinds_table", "profile_page", "steps_table", "write_profile_page"]

_COLOURS: Final = {
    "conv": "--blue",
    "linear": "--accent",
    "project": "--gold",
    "attention": "--green",
}
_STYLE: Final = "".join(
    f".k-{kind}{{fill:var({colour});background:var({colour})}}"
    for kind, colour in {**_COLOURS, "other": "--peer"}.items()
) + (
    ".strip{min-width:820px}.strip .k{stroke:var(--card);stroke-width:.75}"
    ".strip .room{fill:var(--grid)}.strip .stage-line{stroke:var(--soft);stroke-dasharray:3 3}"
)

# Of the picture, in pixels.
_WIDTH: Final = 1040
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 1034, 26, 276


def write_profile_page(profile: Profile, path: Path | str) -> None:
    """Write `profile_page` at `path`.

    Raises:
        ConfigError: the path cannot be written.
    """
    write_whole(path, profile_page(profile).encode("utf-8", "replace"))


def profile_page(profile: Profile) -> str:
    """Make the page: a picture of all steps, and the tables of kinds and steps."""
    images = "one image" if profile.batch == 1 else f"{profile.batch} images"
    threads = "one thread" if profile.threads == 1 else f"{profile.threads} threads"
    facts = (
        images,
        threads,
        profile.isa,
        f"{figure(1e3 * profile.whole.seconds)} ms",
        f"{figure(profile.whole.flop_per_s / 1e9)} GFLOP/s",
        f"{percent_text(profile.whole.peak_fraction)} of the register peak",
    )
    header = tag(
        "header",
        {},
        tag("p", {"class": "kicker"}, "levit bench --profile"),
        tag("h1", {}, f"Where {profile.model} spends its time"),
        tag("p", {"class": "lead"}, "The native engine, step by step."),
        tag("ul", {"class": "facts"}, *(tag("li", {}, fact) for fact in facts)),
    )
    _, _, steps = section(
        "steps",
        "Every step",
        "Each block is a step: as wide as its time, as high as its arithmetic per second; a full "
        "height is the register peak. So coloured area is work, and the pale area above it is "
        "time in which the units had none. Dashed lines part the program's stages.",
        _legend(profile),
        tag("div", {"class": "scroll", "tabindex": 0}, strip(profile)),
        table_box(kinds_table(profile)),
        table_box(steps_table(profile)),
    )
    return document(
        f"Profile of {profile.model}",
        header,
        tag("main", {}, steps),
        tag(
            "footer",
            {},
            f"Lower quartiles of {profile.passes} passes. A multiply-accumulate is two operations; "
            "softmax and activations do not count. A step's time includes the wait for the other "
            "threads.",
        ),
        style=_STYLE,
    )


def kinds_table(profile: Profile) -> Table:
    """Steps added up by kind, the longest first, and all of them."""
    rows = [_cells(part.kind, part) for part in (*profile.kinds, profile.whole)]
    return Table(
        title="By kind",
        columns=(Column(title="kind", numeric=False), *_COLUMNS),
        rows=tuple(rows),
    )


def steps_table(profile: Profile) -> Table:
    """Steps in their order."""
    return Table(
        title="By step",
        columns=(
            Column(title="step", numeric=False),
            Column(title="kind", numeric=False),
            *_COLUMNS,
        ),
        rows=tuple((part.name, *_cells(part.kind, part)) for part in profile.steps),
    )


_COLUMNS: Final = tuple(
    Column(title=title)
    for title in ("ms", "share", "MMAC", "weights, MB", "GFLOP/s", "of register peak")
)


def _cells(kind: str, part: Part) -> tuple[str, ...]:
    works = part.macs > 0
    return (
        kind,
        figure(1e3 * part.seconds),
        percent_text(part.share),
        figure(part.macs / 1e6) if works else "–",
        figure(part.weight_bytes / 1e6) if part.weight_bytes else "–",
        figure(part.flop_per_s / 1e9) if works else "–",
        percent_text(part.peak_fraction) if works else "–",
    )


def _class_of(kind: str) -> str:
    return f"k-{kind if kind in _COLOURS else 'other'}"


def _legend(profile: Profile) -> Markup:
    shown = list(dict.fromkeys(part.kind for part in profile.kinds if part.kind in _COLOURS))
    items = [
        tag("li", {}, tag("span", {"class": f"key {_class_of(name)}"}), name)
        for name in (*shown, "other")
    ]
    return tag("ul", {"class": "legend"}, *items)


def strip(profile: Profile) -> Markup:
    """Draw all steps side by side: width is time, height the fraction of the register peak."""
    total = profile.whole.seconds or 1.0

    def x(seconds: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * seconds / total

    def y(fraction: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * min(fraction, 1.0)

    parts: list[str] = []
    for percent in (0, 25, 50, 75, 100):
        place = y(percent / 100)
        parts.append(tag("path", {"class": "grid", "d": f"M{_LEFT} {place}H{_RIGHT}"}))
        parts.append(words(f"{percent} %", _LEFT - 7, place + 4, "tick", "end"))
    starts = [0.0]
    for part in profile.steps:
        starts.append(starts[-1] + part.seconds)
    for part, (start, end) in zip(profile.steps, pairwise(starts), strict=True):
        parts.append(_block(part, x(start), x(end), y(part.peak_fraction)))
    parts += _stage_lines(profile.steps, [x(start) for start in starts])
    for tick in linear_ticks(0, 1e3 * total, 9):
        parts.append(words(plain_tick(tick), x(tick / 1e3), _BOTTOM + 18, "tick", "middle"))
    parts.append(words("ms", (_LEFT + _RIGHT) / 2, _BOTTOM + 36, "axis", "middle"))
    kinds = "; ".join(f"{part.kind} {percent_text(part.share)}" for part in profile.kinds)
    attributes = {
        "viewBox": f"0 0 {_WIDTH} {_BOTTOM + 44}",
        "role": "img",
        "aria-labelledby": "strip-t strip-d",
        "class": "plot strip",
    }
    return tag(
        "svg",
        attributes,
        tag("title", {"id": "strip-t"}, "Time and arithmetic of every step"),
        tag("desc", {"id": "strip-d"}, f"Shares of the time: {kinds}."),
        *parts,
    )


def _block(part: Part, left: float, right: float, top: float) -> Markup:
    said = f"{part.name or part.kind} ({part.kind}): {figure(1e3 * part.seconds)} ms"
    if part.macs:
        said += f", {figure(part.flop_per_s / 1e9)} GFLOP/s, {percent_text(part.peak_fraction)}"
    width = right - left
    return tag(
        "g",
        {},
        tag("title", {}, said),
        tag(
            "rect",
            {"class": "room", "x": left, "y": _TOP, "width": width, "height": _BOTTOM - _TOP},
        ),
        tag(
            "rect",
            {
                "class": f"k {_class_of(part.kind)}",
                "x": left,
                "y": top,
                "width": width,
                "height": _BOTTOM - top,
            },
        ),
    )


def _stage_lines(steps: Sequence[Part], edges: Sequence[float]) -> list[Markup]:
    """Part the stages, and number them where there is room."""
    firsts = [i for i, part in enumerate(steps) if i == 0 or part.stage != steps[i - 1].stage]
    found = []
    for first, after in pairwise((*firsts, len(steps))):
        left, right = edges[first], edges[after]
        if first:
            found.append(tag("path", {"class": "stage-line", "d": f"M{left:.2f} 8V{_BOTTOM}"}))
        name = f"stage {steps[first].stage}"
        if right - left > text_width(name, 12) + 8:
            found.append(words(name, (left + right) / 2, 18, "axis", "middle"))
    return found
