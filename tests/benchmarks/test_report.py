import csv
import dataclasses
import html
import html.parser
import io
import itertools
import re
import subprocess
import sys

import pytest
import records
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from levit.benchmarks.architectures import architecture
from levit.benchmarks.intervals import Interval
from levit.benchmarks.record import Measurement
from levit.benchmarks.record_file import from_json, to_json
from levit.benchmarks.report import (
    Context,
    PublishedSpeed,
    gathered,
    write_csv,
    write_figure,
    write_html,
    write_markdown,
    write_png,
)
from levit.benchmarks.report.accuracy_tables import best_engine_table
from levit.benchmarks.report.csv import to_csv
from levit.benchmarks.report.figures import figure, linear_ticks, log_ticks, percent_text
from levit.benchmarks.report.html import to_html
from levit.benchmarks.report.labels import Box, Placer
from levit.benchmarks.report.markdown import to_markdown
from levit.benchmarks.report.markup import Markup, fitted, tag, text_width
from levit.benchmarks.report.model_charts import distribution_charts
from levit.benchmarks.report.series import panels, short_name
from levit.benchmarks.report.tables import (
    best_peer_table,
    machine_table,
    protocol_tables,
)
from levit.benchmarks.summary import comparisons, summaries
from levit.errors import BackendUnavailableError, ConfigError

SMALL = records.build(models=("levit_128s", "levit_192", "efficientnet_b0"), rounds=3)
HOSTILE = records.build(models=("levit_128s",), rounds=2, hostile=True)


# ------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12879.8, "12880"),
        (131.08, "131"),
        (99.96, "100"),
        (23.12, "23.1"),
        (9.996, "10.0"),
        (2.4599, "2.46"),
        (0.99961, "1.00"),
        (0.012345, "0.0123"),
        (0.0000123, "1.23e-05"),
        (0, "0"),
        (-3.14159, "−3.14"),
        (None, "–"),
        (float("inf"), "–"),
    ],
)
def test_three_significant_digits(value, text):
    assert figure(value) == text


@settings(deadline=None)
@given(st.floats(1e-4, 1e9))
def test_a_figure_is_near_its_value(value):
    text = figure(value)
    assert float(text) == pytest.approx(value, rel=0.0051)
    assert len(text.replace(".", "").lstrip("0")) >= 3


def test_percents():
    assert [percent_text(f) for f in (0.9249, 0.05321, None, 0.0996)] == [
        "92 %",
        "5.3 %",
        "–",
        "10 %",
    ]


@settings(deadline=None)
@given(st.floats(1e-3, 1e6), st.floats(1.05, 1e5))
def test_ticks_lie_within_and_suffice(low, factor):
    high = low * factor
    for ticks in (log_ticks(low, high), linear_ticks(low, high)):
        assert all(low * 0.999 <= t <= high * 1.001 for t in ticks)
        assert ticks == sorted(set(ticks))
        assert 1 <= len(ticks) <= 14
    assert len(log_ticks(low, high)) >= 2 or factor < 2


# ------------------------------------------------------------------------------------- pieces


def test_text_becomes_no_markup():
    assert tag("p", {"title": '"><b>'}, "<i>&", Markup("<b>x</b>")) == (
        '<p title="&quot;&gt;&lt;b&gt;">&lt;i&gt;&amp;<b>x</b></p>'
    )


def test_labels_cover_neither_each_other_nor_marks(rng):
    frame = Box(0, 0, 400, 300)
    for _ in range(20):
        points = [tuple(p) for p in rng.uniform((0, 0), (400, 300), size=(12, 2))]
        marks = [Box(x - 5, y - 5, x + 5, y + 5) for x, y in points]
        placer = Placer(frame=frame, marks=marks, lines=points, size=12)
        for i, (x, y) in enumerate(points):
            placer.place(f"label {i}", x, y, bool(i % 2))
        assert placer.taken
        for one, other in itertools.combinations(placer.taken, 2):
            assert not one.meets(other)
        for box in placer.taken:
            assert not any(box.meets(mark) for mark in marks)
            assert 0 <= box.left <= box.right <= 400
            assert 0 <= box.top <= box.bottom <= 300


def test_text_is_fitted_to_its_room():
    assert fitted("short", 12, 100) == "short"
    long = fitted("timm → ONNX → ONNX Runtime · fp32, and more", 12, 150)
    assert long.endswith("…")
    assert text_width(long, 12) <= 150
    engine = fitted("timm, BatchNorm folded, traced (as in the paper) · fp32", 12, 250)
    assert engine.startswith("timm, BatchNorm folded")
    assert engine.endswith("… · fp32")
    assert text_width(engine, 12) <= 250
    assert fitted("", 12, 1) == ""


@pytest.mark.parametrize(
    ("model", "key", "short"),
    [
        ("levit_128s", "levit", "128S"),
        ("levit_conv_256", "levit", "256"),
        ("efficientnet_b3", "efficientnet", "B3"),
        ("tf_efficientnet_b0", "efficientnet", "B0"),
        ("deit_tiny_distilled_patch16_224", "deit", "tiny"),
        ("convit_small", "convit", "small"),
        ("resnet50", "resnet", "50"),
        ("my-model", "other", "my-model"),
    ],
)
def test_names_beside_curves(model, key, short):
    assert architecture(model) == key
    assert short_name(model) == short


def test_panels_are_of_runtimes_and_precisions():
    found = panels(summaries(records.build(rounds=2)), records.context())
    assert [p.title for p in found] == [
        "ONNX Runtime · fp32",
        "timm, PyTorch eager · fp32",
        "timm, BatchNorm folded, traced (as in the paper) · fp32",
        "facebookresearch/LeViT, as its speed_test.py · fp32",
        "timm, torch.compile, frozen · fp32",
        "timm → ONNX → OpenVINO · fp32",
        "timm → ONNX → OpenVINO as it comes · bf16",
        "timm → ONNX → NNCF → OpenVINO · int8",
        "Published: Intel Xeon Gold 6138, one thread, fp32",
    ]
    first = found[0].curves
    assert [(c.architecture, c.ours) for c in first][:2] == [("levit", True), ("levit", False)]
    assert {c.architecture for c in first} == {"levit", "efficientnet", "deit", "resnet"}
    for curve in (c for p in found for c in p.curves):
        assert [p.top1 for p in curve.points] == sorted(p.top1 for p in curve.points)[::-1]
    # Two engines in one panel differ in their dashes.
    assert {c.engine_index for c in first} == {0, 1}


def test_a_latency_says_of_how_many_images():
    record = records.build(models=("levit_128s",), protocols=("latency",), rounds=2)
    assert "One image at a time." in to_html(record)
    assert "Latency of" not in to_markdown(record)
    eight = tuple(
        dataclasses.replace(m, settings={**m.settings, "batch": 8})
        if m.protocol == "latency"
        else m
        for m in record.measurements
    )
    batched = dataclasses.replace(record, measurements=eight)
    assert "8 images at a time." in to_html(batched)
    # Of the measurements, and of the ratios.
    assert to_markdown(batched).count("Latency of 8 images") == 2
    mixed = dataclasses.replace(record, measurements=(eight[0], *record.measurements[1:]))
    assert "One call at a time." in to_html(mixed)
    assert "Latency of" not in to_markdown(mixed)


STAGES = ("decode", "resize", "network", "rest")


def older(record):
    """The record as it was when the network's stage was called infer, and no call was without."""

    def turn(r):
        named = {"infer" if name == "network" else name: v for name, v in r.stages.items()}
        return dataclasses.replace(r, stages=named)

    measurements = [
        dataclasses.replace(m, rounds=tuple(map(turn, m.rounds)))
        for m in record.measurements
        if m.protocol != "end-to-end-many"
    ]
    return dataclasses.replace(record, measurements=tuple(measurements))


def test_stages_are_columns_of_their_own_and_sum_to_the_call():
    tables = protocol_tables(summaries(SMALL), records.context())
    one, many = tables["end-to-end"], tables["end-to-end-many"]
    titles = [column.title for column in one.columns]
    assert titles[2:] == ["p50, ms", *(f"{stage}, ms" for stage in STAGES), "p99, ms"]
    for row in one.rows:
        stages = sum(map(float, row[3:7]))
        assert stages == pytest.approx(float(row[2].split()[0]), abs=0.1)
    titles = [column.title for column in many.columns]
    assert titles[2:] == ["images/s", "ms/image", "CPU, ms/image", "time × threads ÷ CPU", "batch"]
    for row in many.rows:
        assert float(row[5].split()[0]) == pytest.approx(2 / 1.9, rel=0.01)
        assert float(row[3]) * float(row[2].split()[0]) == pytest.approx(1000, rel=0.02)
    for text in (to_markdown(SMALL), to_html(SMALL)):
        assert "CPU, ms/image" in text
        assert "rest, ms" in text
    for row in csv.DictReader(io.StringIO(to_csv(SMALL))):
        assert bool(row["rest_ms"]) == (row["protocol"] == "end-to-end" and row["status"] == "ok")
        if row["protocol"] == "end-to-end-many":
            assert float(row["cpu_ms_low"]) <= float(row["cpu_ms"]) <= float(row["cpu_ms_high"])
            assert float(row["time_over_cpu"]) == pytest.approx(2 / 1.9, rel=0.01)


def test_older_records_are_read_and_shown(tmp_path):
    record = from_json(to_json(older(SMALL)))
    tables = protocol_tables(summaries(record), records.context())
    assert "end-to-end-many" not in tables
    new = protocol_tables(summaries(SMALL), records.context())["end-to-end"]
    for old, row in zip(tables["end-to-end"].rows, new.rows, strict=True):
        assert old[:3] == row[:3]
        assert [float(v) for v in old[3:6]] == pytest.approx([float(v) for v in row[3:6]], rel=0.03)
        assert old[6] == "–"  # it was in the network's
    for text in (to_markdown(record), to_html(record)):
        assert "network, ms" in text
        assert "infer" not in text
    write_png(record, tmp_path / "r.png")
    assert "infer" not in to_csv(record)


def stage_pieces(text):
    """(widths of the pieces of each row of the first chart of stages, its values)."""
    chart = text.partition('aria-labelledby="stages-0-t')[2].partition("</svg>")[0]
    rows = chart.split('<g class="row')[1:]
    found = [re.findall(r'class="stage s(\d)"[^>]*? width="([\d.-]+)"', row) for row in rows]
    return [[(int(colour), float(width)) for colour, width in row] for row in found]


def test_the_page_draws_four_stages_in_four_colours():
    pieces = stage_pieces(to_html(SMALL))
    assert len(pieces) == len(records.ENGINES)
    for row in pieces:
        assert [colour for colour, _ in row] == [0, 1, 2, 3]
        assert all(width > 0 for _, width in row)
    assert to_html(SMALL).count('class="key s3"') == 1


def test_a_rest_of_less_than_nothing_is_said_and_has_no_length(tmp_path):
    less = tuple(
        dataclasses.replace(
            m,
            rounds=tuple(
                dataclasses.replace(r, values=tuple(v - 500_000 for v in r.values))
                for r in m.rounds
            ),
        )
        if m.protocol == "end-to-end"
        else m
        for m in SMALL.measurements
    )
    record = dataclasses.replace(SMALL, measurements=less)
    rows = protocol_tables(summaries(record), records.context())["end-to-end"].rows
    assert {row[6][0] for row in rows} == {"−"}
    assert {row[3][1] for row in stage_pieces(to_html(record))} == {0}
    write_png(record, tmp_path / "r.png")


def test_charts_are_of_the_models_that_ours_run():
    record = records.build(models=("levit_128s", "resnet50"), protocols=("latency",), rounds=2)
    titles = [str(chart) for chart in distribution_charts(summaries(record))]
    assert len(titles) == 1
    assert "levit_128s" in titles[0]
    kept = [c for c in record.contenders if c.kind != "ours"]
    names = {c.name for c in kept}
    peers = dataclasses.replace(
        record,
        contenders=tuple(kept),
        measurements=tuple(m for m in record.measurements if m.contender in names),
    )
    assert len(distribution_charts(summaries(peers))) == 2


def test_the_published_column_takes_its_top1_from_the_run_where_it_has_none():
    context = Context(published={"levit_192": PublishedSpeed(images_per_s=65.0)})
    (curve,) = panels(summaries(SMALL), context)[-1].curves
    assert curve.points[0].top1 == 80.0
    assert curve.points[0].speed == Interval(65.0, 65.0, 65.0)


def test_the_best_peer_has_a_table_of_every_protocol():
    table = best_peer_table(comparisons(SMALL))
    assert table.rows[0][0] == "paper, batch 16, 1 thread"
    assert {row[2] for row in table.rows} == {"levit → ONNX Runtime · fp32"}
    # Of the invented speeds OpenVINO's is the highest at fp32.
    speeds = [row for row in table.rows if row[0].startswith(("paper", "latency"))]
    assert {row[3] for row in speeds} == {"timm → ONNX → OpenVINO · fp32"}
    assert {row[5] for row in table.rows if row[0].startswith("memory")} <= {
        "smaller", "larger", "equal", "cannot tell"
    }  # fmt: skip
    assert best_peer_table([]) is None


def test_the_page_begins_with_ours_over_the_best_peer():
    text = to_html(SMALL)
    top = text.partition('id="best-peers"')[2].partition("</section>")[0]
    for one in comparisons(SMALL):
        if one.is_best_peer and one.protocol == "paper":
            assert f"{figure(one.ratio.median)} ×" in top
    assert "over timm → ONNX → OpenVINO · fp32; paper, batch 16, 1 thread" in top


def test_the_register_peak_has_a_column_only_where_it_was_measured():
    def columns(record):
        table = protocol_tables(summaries(record), records.context())["paper"]
        return [column.title for column in table.columns]

    assert "of register peak" not in columns(SMALL)
    (product,) = [c for c in SMALL.contenders if c.model == "matmul" and c.precision == "fp32"]
    (taken,) = [m for m in SMALL.measurements if m.contender == product.name]
    peak = dataclasses.replace(
        SMALL,
        contenders=(
            *SMALL.contenders,
            dataclasses.replace(product, name="peak", model="registers"),
        ),
        measurements=(*SMALL.measurements, dataclasses.replace(taken, contender="peak")),
    )
    assert "of register peak" in columns(peak)


# --------------------------------------------------------------------------------------- page


class _Checker(html.parser.HTMLParser):
    """Every element is closed where it should be."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.parametrize(
    ("record", "context"),
    [(SMALL, records.context()), (SMALL, None), (HOSTILE, records.context(hostile=True))],
)
def test_the_page_is_well_formed_and_self_contained(record, context):
    page = to_html(record, context)
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    assert not {"script", "img", "link", "iframe", "object", "image", "use"} & set(checker.seen)
    assert "default-src 'none'" in html.unescape(page)
    assert not re.search(r"""(src|href)=["'](?!#)|url\(|@import""", re.sub(r">[^<]*<", "><", page))


def test_the_same_record_gives_the_same_bytes():
    context = records.context()
    assert to_html(SMALL, context) == to_html(SMALL, context)
    command = (
        "import records, hashlib; from levit.benchmarks.report.html import to_html;"
        "page = to_html(records.build(models=('levit_128s',), rounds=3), records.context());"
        "print(hashlib.sha256(page.encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", command],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_a_name_of_half_a_character_is_written(tmp_path):
    record = dataclasses.replace(SMALL, command=("levit-bench", "--output", "\udcff.json"))
    write_html(record, tmp_path / "r.html")
    write_markdown(record, tmp_path / "r.md")
    write_csv(record, tmp_path / "r.csv")
    assert (tmp_path / "r.html").read_text("utf-8").count("\\udcff.json") == 1


def test_a_run_in_which_nothing_came_out(tmp_path):
    nothing = tuple(
        Measurement(contender=c.name, protocol="paper", settings={}, rounds=())
        for c in SMALL.contenders
    )
    for measurements in ((), nothing):
        record = dataclasses.replace(SMALL, measurements=measurements, status="interrupted")
        page = to_html(record, Context(calibration_ns=(8e6,)))
        assert "interrupted: fewer rounds" in page
        assert to_markdown(record).startswith("Measured on")
        assert to_csv(record).count("\n") == 1 + len(measurements)
        with pytest.raises(ConfigError, match="nothing to draw"):
            write_png(record, tmp_path / "r.png")
        assert ("the run ended before its turn" in page) == bool(measurements)


def test_bytes_are_read_as_gigabytes():
    rows = dict(machine_table(SMALL).rows)
    assert rows["memory: total"] == "25.0 GB"
    assert rows["cpu: smt"] == "yes"
    assert rows["cpu: governor"] == "–"


def test_what_stands_beside_a_record_comes_from_it():
    record = records.build(rounds=3)
    found = gathered(record)
    assert found.published["levit_192"].images_per_s == pytest.approx(65.01, abs=0.01)
    assert "Xeon" in found.published_title
    assert found.quietness == "quiet"
    assert len(found.calibration_ns) == 120
    # Ours over the EfficientNets of the same runtime and precision, at 80 % and at its own top-1.
    ours = [row for row in found.headline if row.engine == "levit → ONNX Runtime · fp32"]
    assert {row.over for row in ours} == {"EfficientNet by timm → ONNX → ONNX Runtime"}
    (at_80,) = [row for row in ours if not row.model]
    assert at_80.top1 == 80.0
    # 92 images/s over what lies between B1 (52) and B2 (37) of that engine, as invented.
    assert at_80.ratio.median == pytest.approx(92 / (37.6 * 0.84 * 1.1), rel=0.05)
    arm = dataclasses.replace(record, machine={"cpu": {"architecture": "aarch64"}})
    assert "ARM" in gathered(arm).published_title
    gpu = dataclasses.replace(record, settings={"device": "gpu"})
    assert "V100" in gathered(gpu).published_title
    assert to_html(record) == to_html(record, found)


@pytest.mark.parametrize("noise", [{"samples": [1] * 9}, {"samples": [{"at_s": 0}] * 9}])
def test_noise_that_cannot_be_read(noise):
    with pytest.raises(ConfigError, match="noise is damaged"):
        gathered(dataclasses.replace(SMALL, noise=noise))


def test_clocks_and_temperature_of_a_gpu():
    samples = ({"sm_mhz": 1980, "temperature_c": 41}, {"sm_mhz": 1755, "temperature_c": 63})
    page = to_html(dataclasses.replace(SMALL, gpu_samples=samples))
    assert "The GPU between rounds" in page
    assert re.search(r"sm mhz</th><td[^>]*>1755</td><td[^>]*>1868</td><td[^>]*>1980", page)


# ------------------------------------------------------------------------- other forms of it


def test_csv_has_a_row_for_each_measurement_and_all_digits():
    rows = list(csv.DictReader(io.StringIO(to_csv(SMALL))))
    items = summaries(SMALL)
    assert len(rows) == len(SMALL.measurements)
    for row, item in zip(rows, items, strict=True):
        assert row["contender"] == item.contender.name
        if item.images_per_s is not None:
            found = [float(row[f"images_per_s{end}"]) for end in ("", "_low", "_high")]
            assert found == list(item.images_per_s)
        assert (row["peak_mb"] == "") == (item.peak_mb is None)
        assert (row["latency_p99_ms"] == "") == (99 not in item.latency_ms)
    speeds = [r for r in rows if r["protocol"] == "paper" and r["paper_images_per_s"]]
    assert speeds
    assert {r["batch"] for r in speeds} == {"16"}


def test_csv_holds_no_formulas():
    contender = dataclasses.replace(SMALL.contenders[0], name="=cmd|' /C calc'!A0", title="+1")
    measurement = dataclasses.replace(
        SMALL.measurements[0], contender=contender.name, status="failed", reason="@SUM(1)"
    )
    record = dataclasses.replace(SMALL, contenders=(contender,), measurements=(measurement,))
    (row,) = csv.DictReader(io.StringIO(to_csv(record)))
    assert [row[k] for k in ("contender", "title", "reason")] == [
        "'=cmd|' /C calc'!A0",
        "'+1",
        "'@SUM(1)",
    ]


@pytest.mark.parametrize("record", [SMALL, HOSTILE])
def test_markdown_tables_have_equal_rows(record):
    text = to_markdown(record, records.context(hostile=record is HOSTILE))
    tables = [t for t in text.split("\n\n") if t.startswith("|")]
    assert len(tables) > 10
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1
    assert not re.search(r"(?<!\\)<script", text)
    assert all(line == line.rstrip() for line in text.splitlines())


def test_markdown_names_the_machine_and_the_intervals():
    text = to_markdown(SMALL, records.context())
    assert "an invented machine" in text
    ours = next(s for s in summaries(SMALL) if s.images_per_s)
    low, high = figure(ours.images_per_s.low), figure(ours.images_per_s.high)
    assert f"| {figure(ours.images_per_s.median)} [{low}, {high}] |" in text
    assert "| levit_128s |" in text


def test_no_name_becomes_markup_in_markdown():
    reason = "[a](http://b) ![c](d) *e* _f_ <b>g</b> | `h` [i]: j_k __l__ &amp; # m"
    broken = dataclasses.replace(SMALL.measurements[0], status="failed", reason=reason)
    text = to_markdown(dataclasses.replace(SMALL, measurements=(broken,)), Context())
    expected = (
        r"[a]\(http://b) \![c]\(d) \*e\* \_f\_ \<b\>g\</b\> \| \`h\` [i]\: j_k \_\_l\_\_ "
        r"\&amp; \# m"
    )
    assert expected in text
    assert "levit-bench --device cpu" in text


@pytest.mark.parametrize("record", [SMALL, HOSTILE])
def test_png_shows_something(tmp_path, record):
    path = tmp_path / "figure.png"
    write_png(record, path, records.context(hostile=record is HOSTILE))
    picture = Image.open(path).convert("RGB")
    assert min(picture.size) > 400
    colours = {c: n for n, c in picture.getcolors(1 << 24)}
    assert colours.get((0xC2, 0x41, 0x0C), 0) > 300
    assert colours[255, 255, 255] / (picture.size[0] * picture.size[1]) > 0.5


def test_png_draws_the_stages_where_nothing_else_was_measured(tmp_path):
    path = tmp_path / "stages.png"
    write_png(records.build(models=("levit_128s",), protocols=("end-to-end",), rounds=3), path)
    picture = Image.open(path).convert("RGB")
    colours = {c: n for n, c in picture.getcolors(1 << 24)}
    for stage in ((0xC9, 0xD1, 0xD9), (0x8B, 0x98, 0xA5), (0x46, 0x53, 0x5F), (0xD9, 0xC9, 0xA8)):
        assert colours.get(stage, 0) > 100, stage
    write_png(records.build(protocols=("end-to-end-many",), rounds=3), path)
    with Image.open(path) as many:
        assert many.width > picture.width


def test_the_figure_is_small_and_the_same_for_the_same_record(tmp_path):
    whole = records.build(protocols=("latency",))
    for name in ("a.png", "b.png"):
        write_figure(whole, tmp_path / name)
    drawn = (tmp_path / "a.png").read_bytes()
    assert drawn == (tmp_path / "b.png").read_bytes()
    assert len(drawn) <= 60_000  # README shows it
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 2 * image.height  # three precisions beside each other
        assert len(image.convert("RGB").getcolors(100)) > 10


def test_the_figure_of_hostile_names_is_drawn(tmp_path):
    write_figure(HOSTILE, tmp_path / "f.png")
    assert (tmp_path / "f.png").exists()


def test_a_figure_without_latencies_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="--protocol latency"):
        write_figure(records.build(protocols=("paper",), rounds=3), tmp_path / "f.png")
    assert not list(tmp_path.iterdir())


def test_the_table_of_best_engines_has_a_column_for_each_levit():
    whole = records.build(protocols=("paper", "latency"))
    table = best_engine_table(gathered(whole))
    titles = [c.title for c in table.columns]
    assert titles[3:-1] == [
        "levit_128s, 76.6 %",
        "levit_128, 78.6 %",
        "levit_192, 80.0 %",
        "levit_256, 81.6 %",
        "levit_384, 82.6 %",
    ]
    cases = {row[:3] for row in table.rows}
    assert ("paper, batch 16, 1 thread", "fp32", "EfficientNet") in cases
    assert ("latency, batch 1, 2 threads", "int8", "EfficientNet") in cases
    assert best_engine_table(Context()) is None
    for text in (to_html(whole), to_markdown(whole)):
        assert table.title in text


def test_png_is_the_same_for_the_same_record(tmp_path):
    for name in ("a.png", "b.png"):
        write_png(SMALL, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_without_matplotlib_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'levit\[bench\]'"):
        write_png(SMALL, tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []


def test_reports_do_without_matplotlib_until_a_picture_is_asked_for():
    command = (
        "import sys, levit.benchmarks.report; sys.exit('matplotlib' in sys.modules "
        "or 'onnx' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", command], check=True)


@pytest.mark.parametrize("write", [write_html, write_csv, write_markdown, write_png, write_figure])
def test_paths_that_cannot_be_written(tmp_path, write):
    with pytest.raises(ConfigError, match="does not exist; create it"):
        write(SMALL, tmp_path / "no" / "file")
    with pytest.raises(ConfigError, match="is a folder"):
        write(SMALL, tmp_path)
