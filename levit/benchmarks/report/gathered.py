"""Figures beside the record in a report: the paper's, the headline, the noise."""

from __future__ import annotations

from typing import Final

from levit.benchmarks.headline import REFERENCE_TOP1, Headline, best_headlines, headlines
from levit.benchmarks.noise import quietness
from levit.benchmarks.published import MACHINES, PUBLISHED
from levit.benchmarks.record import Record
from levit.benchmarks.report.context import Context, HeadlineRow, PublishedSpeed
from levit.benchmarks.report.tables import case_text
from levit.benchmarks.summary import headline_rates
from levit.errors import ConfigError

__all__ = ["gathered"]

# Protocols whose calls of a given number of images are compared between architectures.
_RATES: Final = ("paper", "latency")
_ARM: Final = ("aarch64", "arm64")


def gathered(record: Record) -> Context:
    """The paper's column for this kind of device, the leads over EfficientNet, the quietness.

    Raises:
        ConfigError: what the record says of the noise is damaged.
    """
    column = _column(record)
    speeds = {
        model: PublishedSpeed(images_per_s=speed, top1=published.top1)
        for model, published in PUBLISHED.items()
        if (speed := getattr(published, column)) is not None
    }
    try:
        verdict, reasons = quietness(record.noise)
        samples = record.noise.get("samples", ())
        calibration = tuple(float(ns) for sample in samples for ns in sample["kernel_ns"])
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError("the record's noise is damaged; measure again") from error
    return Context(
        published=speeds,
        published_title=MACHINES[column],
        headline=tuple(
            row for found in headlines(headline_rates(record, "paper")) for row in _rows(found)
        ),
        best=tuple(row for protocol in _RATES for row in _best(record, protocol)),
        quietness=verdict,
        reasons=tuple(reasons),
        calibration_ns=calibration,
    )


def _column(record: Record) -> str:
    if record.settings.get("device") == "gpu":
        return "v100"
    cpu = record.machine.get("cpu") or {}
    return "arm" if cpu.get("architecture") in _ARM else "xeon"


def _rows(found: Headline) -> list[HeadlineRow]:
    engine = f"{found.levit} · {found.precision}"
    same = found.other == found.levit
    over = "EfficientNet" if same else f"EfficientNet by {found.other}"
    if not found.leads:
        note = "no accuracy that both reach was measured"
        return [HeadlineRow(engine=engine, over=over, top1=REFERENCE_TOP1, ratio=None, note=note)]
    return [
        HeadlineRow(
            engine=engine, over=over, top1=lead.top1, model=lead.model or "", ratio=lead.ratio
        )
        for lead in found.leads
    ]


def _best(record: Record, protocol: str) -> list[HeadlineRow]:
    """LeViT beside every architecture, each network on its best engine."""
    settings = next((m.settings for m in record.measurements if m.protocol == protocol), {})
    return [
        HeadlineRow(
            engine=found.precision,
            measured=case_text(protocol, settings),
            over=found.architecture,
            top1=lead.top1,
            model=lead.model or "",
            ratio=lead.ratio,
            note=f"{found.levit}; {found.other}",
        )
        for found in best_headlines(headline_rates(record, protocol))
        for lead in found.leads
    ]
