import html.parser
import json

import pytest

from levit.benchmarks.profile import measure_profile, profile_of
from levit.benchmarks.report.profile_page import kinds_table, profile_page, steps_table, strip
from levit.cli import main
from levit.errors import ConfigError
from levit.export import ExportOptions, export
from levit.models.counting import count
from levit.models.registry import config_of
from levit.native.program import ArraySpec, Buffer, Conv, Input, Linear, Mean, Output, Program

PROGRAM = Program(
    input=Input(name="input", dtype="float32", channels=3, height=8, width=8),
    buffers=(
        Buffer(rows=4, columns=16, stride=16, offset=0),
        Buffer(rows=4, columns=32, stride=32, offset=64),
        Buffer(rows=1, columns=32, stride=32, offset=192),
    ),
    steps=(
        Conv(name="stem.0", stage=0, source=None, target=0, weight="stem", bias=None),
        Linear(name="up", stage=1, source=0, target=1, weight="up", bias=None),
        Mean(name="pool", stage=1, source=1, target=2),
        Linear(name="<head>", stage=1, source=2, target=2, weight="head", bias=None),
        Output(name="logits", stage=1, source=2, transposed=False, shape=(32,)),
    ),
    arrays={
        name: ArraySpec(dtype="float32", shape=shape)
        for name, shape in {"stem": (16, 3, 3, 3), "up": (32, 16), "head": (32, 32)}.items()
    },
)
SECONDS = [4e-3, 3e-3, 1e-3, 2e-3, 0.0]


def invented(**changes):
    settings = dict(
        model="small", batch=10, threads=2, isa="avx2", passes=7, peaks={"float32": 1e8}
    )
    return profile_of(PROGRAM, SECONDS, **{**settings, **changes})


def test_figures_of_steps_are_of_the_whole_batch():
    stem, up, pool, head, logits = invented().steps
    assert (stem.macs, up.macs, head.macs) == (10 * 4 * 432, 10 * 4 * 512, 10 * 1024)
    assert [part.share for part in (stem, up, pool, head)] == pytest.approx([0.4, 0.3, 0.1, 0.2])
    assert up.flop_per_s == pytest.approx(2 * up.macs / 3e-3)
    assert up.peak_fraction == pytest.approx(up.flop_per_s / 1e8)
    assert up.weight_bytes == 4 * 512
    assert (pool.macs, pool.flop_per_s) == (0, 0)
    assert (logits.seconds, logits.flop_per_s) == (0, 0)


def test_kinds_add_up_to_the_whole():
    profile = invented()
    assert [part.kind for part in profile.kinds] == ["linear", "conv", "mean", "output"]
    for name in ("seconds", "share", "macs", "weight_bytes"):
        whole = getattr(profile.whole, name)
        assert sum(getattr(part, name) for part in profile.kinds) == pytest.approx(whole)
        assert sum(getattr(part, name) for part in profile.steps) == pytest.approx(whole)
    assert profile.whole.seconds == pytest.approx(10e-3)


def test_tables_leave_out_what_moves_nothing():
    rows = {row[0]: row for row in steps_table(invented()).rows}
    assert rows["up"][1:4] == ("linear", "3.00", "30 %")
    assert rows["pool"][4:] == ("–",) * 4
    assert kinds_table(invented()).rows[-1][0] == "all"


class _Blocks(html.parser.HTMLParser):
    """Rectangles of the picture, and whether every element is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.blocks = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)
        values = dict(attributes)
        if tag == "rect" and values["class"].startswith("k "):
            self.blocks.append(values)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_blocks_are_as_wide_as_their_time_and_as_high_as_their_speed():
    page = _Blocks()
    page.feed(strip(invented()))
    widths = [float(block["width"]) for block in page.blocks]
    assert [width / sum(widths) for width in widths] == pytest.approx(
        [0.4, 0.3, 0.1, 0.2, 0], abs=1e-4
    )
    tops = [float(block["height"]) / 250 for block in page.blocks]
    assert tops == pytest.approx([p.peak_fraction for p in invented().steps], abs=1e-3)
    # Nothing is drawn above the peak, whatever the clock did.
    page.feed(strip(invented(peaks={"float32": 1e6})))
    assert max(float(block["height"]) for block in page.blocks) == 250


def test_the_page_is_well_formed_and_no_name_becomes_markup():
    text = profile_page(invented())
    page = _Blocks()
    page.feed(text)
    assert page.open == []
    assert "<head>" not in text.partition("<body>")[2]
    for words in ("10 images", "2 threads", "avx2", "of the register peak", "7 passes"):
        assert words in text


# ------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def native_digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile") / "digits"
    return export(ExportOptions(model="levit_digits", target="native", output=folder)).path


@pytest.mark.native
def test_a_profile_has_every_step_of_the_artifact(native_digits, tmp_path, capsys):
    page = tmp_path / "page.html"
    words = ["bench", "--profile", "--artifact", str(native_digits), "--seconds", "0.05"]
    assert main([*words, "--batch", "3", "--threads", "2", "--json", "--report", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["batch"], found["threads"]) == ("digits", 3, 2)
    assert found["passes"] >= 10
    assert found["peaks"]["float32"] > 0
    names = [step["name"] for step in found["steps"]]
    assert names[0] == "stem.0"
    assert names[-1] == "logits"
    assert all(step["seconds"] >= 0 for step in found["steps"])
    assert sum(step["share"] for step in found["steps"]) == pytest.approx(1)
    # The passes save some of the model's work, and add none.
    _, family, config = config_of("levit_digits")
    assert 0.9 < found["whole"]["macs"] / (3 * count(family, config).macs) <= 1
    assert "<svg" in page.read_text(encoding="utf-8")


@pytest.mark.native
def test_a_model_is_exported_for_its_profile_and_nothing_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    words = ["bench", "--profile", "--model", "levit_digits", "--seconds", "0.05"]
    assert main([*words, "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    for line in ("By step", "By kind", "levit_digits, batch 1, 1 thread, ", "of register peak"):
        assert line in printed
    assert not list(tmp_path.glob("levit*"))


@pytest.mark.native
def test_pixels_are_profiled_too(tmp_path):
    folder = tmp_path / "pixels"
    export(ExportOptions(model="levit_digits", target="native", input="uint8", output=folder))
    profile = measure_profile(folder, model="pixels", batch=2, threads=1, seconds=0.01)
    assert profile.steps[0].kind == "conv"


def test_an_artifact_of_another_target_is_refused(tiny_artifact):
    with pytest.raises(ConfigError, match="only the native engine is timed by step"):
        measure_profile(tiny_artifact, model="tiny", batch=1, threads=1, seconds=0.01)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--peers"], "--peers is not for --profile"),
        (["--protocol", "latency"], "--protocol is not for --profile"),
        (["--fail-under", "0.9"], "--fail-under is not for --profile"),
        (["--precision", "int8"], "computes on CPUs in fp32"),
        (["--models", "levit_128,levit_192"], "is of one network"),
        (["--report", "no/such/folder/page.html"], "does not exist"),
    ],
)
def test_options_of_a_run_are_refused(words, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--profile", *words]) == 1
    printed = capsys.readouterr()
    assert line in printed.err
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert list(tmp_path.iterdir()) == []
