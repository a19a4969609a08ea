"""Series to draw: the points of each curve, the rows of each chart, and their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from levit.benchmarks.architectures import (
    ARCHITECTURES,
    OTHER,
    architecture,
    architecture_title,
)
from levit.benchmarks.intervals import Interval
from levit.benchmarks.record import Contender
from levit.benchmarks.report.context import Context
from levit.benchmarks.summary import Summary, ok

__all__ = [
    "Curve",
    "Panel",
    "Point",
    "by_model",
    "engine_label",
    "legend_text",
    "model_order",
    "panels",
    "short_name",
]

_ENGINES_IN_A_PANEL: Final = 2

_RUNTIMES: Final = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "pytorch": "PyTorch",
    "tensorrt": "TensorRT",
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """A model on a curve: images/s with its interval, top-1 in percent."""

    model: str
    label: str
    speed: Interval
    top1: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """An architecture on an engine, from the most accurate model to the fastest."""

    engine: str
    architecture: str
    ours: bool
    points: tuple[Point, ...]
    # 0 for the first engine of a panel: later ones are drawn with other dashes.
    engine_index: int

    @property
    def title(self) -> str:
        """``EfficientNet, timm → ONNX → OpenVINO``."""
        return f"{architecture_title(self.architecture)}, {self.engine}"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The curves of engines that share a runtime and a precision, or of one of many."""

    title: str
    curves: tuple[Curve, ...]


def short_name(model: str) -> str:
    """Short name beside a curve that names the architecture: 128S, B2."""
    parts = model.split(".")[0].split("_")
    kept = [p for p in parts[1:] if p not in ("distilled", "patch16", "224", "conv")]
    if model.startswith("tf_"):
        kept = kept[1:]
    if not kept:
        return model.removeprefix("resnet") or model
    if model.startswith("repvit"):
        return ".".join(kept).upper()  # m0_9 is M0.9
    short = " ".join(kept)
    return short.upper() if any(c.isdigit() for c in short) and len(short) <= 4 else short


def engine_label(contender: Contender) -> str:
    """``levit → ONNX Runtime · fp32``."""
    if contender.precision in contender.title:
        return contender.title
    return f"{contender.title} · {contender.precision}"


def model_order(contenders: Iterable[Contender]) -> list[str]:
    """Models as they should follow each other: LeViT, EfficientNet, …, small before large."""
    keys = [key for key, _, _ in ARCHITECTURES] + [OTHER[0]]
    first: dict[str, tuple[int, float, str]] = {}
    for c in contenders:
        if c.kind != "ceiling":
            rank = (keys.index(architecture(c.model)), float(c.macs or 0), c.model)
            first[c.model] = max(rank, first.get(c.model, rank))
    return sorted(first, key=lambda model: first[model])


def by_model(items: Sequence[Summary], protocol: str) -> list[tuple[str, list[Summary]]]:
    """Measurements of one protocol, by model in `model_order`."""
    groups: dict[str, list[Summary]] = {}
    for s in ok(items, protocol):
        groups.setdefault(s.contender.model, []).append(s)
    order = model_order(s.contender for group in groups.values() for s in group)
    return [(model, groups[model]) for model in order]


def panels(items: Sequence[Summary], context: Context) -> list[Panel]:
    """The accuracy–speed figure: a panel for each runtime and precision, the paper's last."""
    chosen = [
        s for s in ok(items, "paper") if s.contender.top1 is not None and s.images_per_s is not None
    ]
    groups: dict[tuple[str, str], list[Summary]] = {}
    for s in chosen:
        groups.setdefault((s.contender.runtime, s.contender.precision), []).append(s)
    # Panels with ours first, then as the run has them.
    ordered = sorted(
        groups.items(), key=lambda item: not any(s.contender.kind == "ours" for s in item[1])
    )
    found = [
        panel
        for (runtime, precision), group in ordered
        for panel in _panels(f"{_RUNTIMES.get(runtime, runtime)} · {precision}", group)
    ]
    published = _published(chosen, context)
    return [*found, *([published] if found and published.curves else [])]


def legend_text(curve: Curve, panel: Panel) -> str:
    """The engine too, unless it is that of the whole panel and stands in its title."""
    engines = {c.engine for c in panel.curves}
    return curve.title if len(engines) > 1 else architecture_title(curve.architecture)


def _panels(title: str, group: Sequence[Summary]) -> list[Panel]:
    """One panel; with more engines than can be told apart, one for each of them."""
    engines = {s.contender.engine: engine_label(s.contender) for s in group}
    if 1 < len(engines) <= _ENGINES_IN_A_PANEL:
        return [Panel(title=title, curves=_curves(group))]
    return [
        Panel(title=label, curves=_curves([s for s in group if s.contender.engine == engine]))
        for engine, label in engines.items()
    ]


def _curves(group: Sequence[Summary]) -> tuple[Curve, ...]:
    engines = list(dict.fromkeys(s.contender.engine for s in group))
    engines.sort(key=lambda e: not any(_is_ours(s, e) for s in group))
    curves = []
    for index, engine in enumerate(engines):
        for key in [k for k, _, _ in ARCHITECTURES] + [OTHER[0]]:
            mine = [
                s
                for s in group
                if s.contender.engine == engine and architecture(s.contender.model) == key
            ]
            if not mine:
                continue
            points = [_point(s.contender.model, s.images_per_s, s.contender.top1) for s in mine]
            curves.append(
                Curve(
                    engine=mine[0].contender.title,
                    architecture=key,
                    ours=_is_ours(mine[0], engine),
                    points=_sorted(points),
                    engine_index=index,
                )
            )
    return tuple(curves)


def _is_ours(item: Summary, engine: str) -> bool:
    return item.contender.engine == engine and item.contender.kind == "ours"


def _point(model: str, speed: Interval | None, top1: float | None) -> Point:
    assert speed is not None
    assert top1 is not None
    return Point(model=model, label=short_name(model), speed=speed, top1=top1)


def _sorted(points: Iterable[Point]) -> tuple[Point, ...]:
    return tuple(sorted(points, key=lambda p: (-p.top1, p.speed.median, p.model)))


def _published(chosen: Sequence[Summary], context: Context) -> Panel:
    known = {s.contender.model: s.contender.top1 for s in chosen}
    by_key: dict[str, list[Point]] = {}
    for model, speed in context.published.items():
        top1 = speed.top1 if speed.top1 is not None else known.get(model)
        if top1 is not None:
            rate = Interval(speed.images_per_s, speed.images_per_s, speed.images_per_s)
            by_key.setdefault(architecture(model), []).append(_point(model, rate, top1))
    curves = tuple(
        Curve(
            engine="published",
            architecture=key,
            ours=False,
            points=_sorted(by_key[key]),
            engine_index=0,
        )
        for key in [k for k, _, _ in ARCHITECTURES] + [OTHER[0]]
        if key in by_key
    )
    return Panel(title=f"Published: {context.published_title}", curves=curves)
