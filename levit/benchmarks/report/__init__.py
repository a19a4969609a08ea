"""Reports: a page, a picture, tables and a spreadsheet, all made from one record."""

from levit.benchmarks.report.context import Context, HeadlineRow, PublishedSpeed
from levit.benchmarks.report.csv import write_csv
from levit.benchmarks.report.gathered import gathered
from levit.benchmarks.report.html import write_html
from levit.benchmarks.report.latency_figure import write_figure
from levit.benchmarks.report.markdown import write_markdown
from levit.benchmarks.report.png import write_png

__all__ = [
    "Context",
    "HeadlineRow",
    "PublishedSpeed",
    "gathered",
    "write_csv",
    "write_figure",
    "write_html",
    "write_markdown",
    "write_png",
]
