"""``levit list``."""

from __future__ import annotations

import argparse
from typing import Any

from levit.commands.output import print_json, print_line, print_table
from levit.models.counting import count
from levit.models.json_files import read_config
from levit.models.registry import DIGITS, FAMILIES, config_of, digits_folder

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """List every model with its parameters, MACs and published accuracy."""
    rows = [_digits(), *_variants()]
    if arguments.json:
        print_json({"models": rows, "digits_images": str(digits_folder() / "images")})
        return 0
    print_table(
        [
            [
                row["name"],
                row["family"],
                f"{row['parameters'] / 1e6:.2f}",
                f"{row['macs'] / 1e6:.1f}",
                "" if row["top1"] is None else f"{row['top1']:.2f}",
                "" if row["top5"] is None else f"{row['top5']:.2f}",
                row["hub_id"] or row["weights"],
            ]
            for row in rows
        ],
        header=["model", "family", "params M", "MACs M", "top-1 %", "top-5 %", "weights"],
    )
    print_line()
    print_line(f"images to try {DIGITS} on: {digits_folder() / 'images'}")
    return 0


def _digits() -> dict[str, Any]:
    values = read_config(digits_folder() / "config.json")
    _, family, config = config_of(DIGITS)
    counts = count(family, config)
    return {
        "name": DIGITS,
        "family": family.name,
        "parameters": counts.parameters,
        "macs": counts.macs,
        "top1": round(100 * values["training"]["held_out_top1"], 2),
        "top5": None,
        "hub_id": None,
        "weights": "in this package (digits, not ImageNet)",
    }


def _variants() -> list[dict[str, Any]]:
    rows = []
    for family in FAMILIES.values():
        for name, variant in family.variants.items():
            counts = count(family, variant.config)
            rows.append(
                {
                    "name": name,
                    "family": family.name,
                    "parameters": counts.parameters,
                    "macs": counts.macs,
                    "top1": variant.top1,
                    "top5": variant.top5,
                    "hub_id": variant.hub_id,
                    "weights": "on the hub" if variant.hub_id else "none published",
                }
            )
    return rows
