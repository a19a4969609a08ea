"""Names and values from elsewhere on their way to a terminal, to JSON and to spreadsheets."""

import ast
import csv
import io
import json
import os
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
import records
from hypothesis import given, settings
from hypothesis import strategies as st

import levit
from levit.benchmarks.record_file import from_json, to_json, write_record
from levit.benchmarks.report.csv import to_csv
from levit.benchmarks.report.html import to_html
from levit.benchmarks.report.markdown import to_markdown
from levit.cli import main
from levit.commands.output import print_json, print_line, print_note, print_table

# Begin of a terminal's commands in one character and in two, text turned round, a bell, a line
# that covers the one before it, half a character, tags that nobody sees, an unassigned one.
EVIL = "\x9b2J\x1b]0;owned\x07\u202egnp.exe\u2066\r\n\x00\udcff\U000e0041\u2028\ufeff\u0378"

chars = st.characters() | st.sampled_from(EVIL)
evil_texts = st.text(chars, max_size=20)


def shows_well(text):
    return all(line.isprintable() for line in text.split("\n"))


@given(value=st.recursive(evil_texts, lambda v: st.lists(v) | st.dictionaries(evil_texts, v)))
def test_json_says_the_same_in_characters_that_can_be_shown(value):
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8")
    before, sys.stdout = sys.stdout, stream
    try:
        print_json(value)
    finally:
        sys.stdout = before
    stream.seek(0)
    text = stream.read()
    assert shows_well(text)
    assert json.loads(text) == json.loads(json.dumps(value))


@given(texts=st.lists(evil_texts, min_size=1, max_size=4))
def test_lines_and_tables_stay_lines_and_columns(texts):
    out, err = io.StringIO(), io.StringIO()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    try:
        print_line(texts[0])
        print_note(texts[0])
        print_table([texts, texts], header=texts)
    finally:
        sys.stdout, sys.stderr = before
    assert shows_well(out.getvalue() + err.getvalue())
    assert out.getvalue().count("\n") == 4
    assert err.getvalue().count("\n") == 1


def test_nothing_but_the_output_modules_writes_to_a_terminal():
    folder = Path(levit.__file__).parent
    allowed = {"commands/output.py", "commands/progress.py"}
    found = []
    for path in folder.rglob("*.py"):
        name = path.relative_to(folder).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            printing = isinstance(node, ast.Name) and node.id == "print"
            stream = isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr")
            writing = (
                isinstance(node, ast.Attribute)
                and node.attr in ("write", "writelines")
                and isinstance(node.value, ast.Attribute)
                and node.value.attr in ("stdout", "stderr", "__stdout__", "__stderr__")
            )
            if (printing or writing) and name not in allowed and not stream:
                found.append(f"{name}:{node.lineno}")
    assert not found


def test_a_word_of_the_command_line_is_shown_as_it_can_be(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "folder", "a.png", "--top-k", EVIL.replace("\x00", "")])
    assert shows_well(capsys.readouterr().err)
    with pytest.raises(SystemExit):
        main(["list", "--" + EVIL.replace("\x00", "")])
    assert shows_well(capsys.readouterr().err)


@pytest.mark.parametrize("flags", [[], ["--json"], ["--debug"]])
@pytest.mark.parametrize("name", ["\x9b2J.json", "\u202ecod.json", "a\x1b[31m.json", "a\nb.json"])
def test_names_of_files_in_errors(tmp_path, name, flags):
    (tmp_path / name).write_bytes(b'{"schema": 1}')
    words = [sys.executable, "-m", "levit", "bench", "report", name, *flags]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 1
    text = done.stdout.decode() + done.stderr.decode()
    assert "no record of a benchmark" in text
    assert shows_well(text)


# A network that fails while it runs, in an operator whose name is a command to the terminal.
FAILING = """
import numpy as np
import onnx, onnxruntime
from onnx import TensorProto, helper
from levit.runtime.backends import SessionOptions
from levit.runtime.sessions.ort import session_settings

node = helper.make_node("Reshape", ["x", "shape"], ["y"], name="\\x1b]0;owned\\x07")
x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
shape = helper.make_tensor("shape", TensorProto.INT64, [1], [7])
graph = helper.make_graph([node], "g", [x], [y], [shape])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
settings = session_settings(SessionOptions(device="cpu", threads=1))
session = onnxruntime.InferenceSession(
    model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
)
try:
    session.run(None, {"x": np.zeros(3, np.float32)})
except Exception as error:
    assert "owned" in str(error)
    print("refused")
"""


def test_the_log_of_onnx_runtime_does_not_pass_by(tmp_path):
    pytest.importorskip("onnx")
    done = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, check=True)
    assert done.stdout == b"refused\n"
    assert done.stderr == b""


@pytest.fixture(scope="module")
def hostile_record():
    record = records.build(
        models=("levit_128s", "efficientnet_b0"),
        engines=("levit-onnx", "timm-eager"),
        rounds=6,
        hostile=True,
    )
    first = replace(record.contenders[0], name=EVIL, title=EVIL, model=EVIL, runtime=EVIL)
    return replace(
        record,
        created=EVIL,
        command=("levit", EVIL),
        machine={**record.machine, "cpu": {"model": EVIL, EVIL: [EVIL]}, EVIL: EVIL},
        settings={"device": EVIL, EVIL: EVIL},
        contenders=(first, *record.contenders[1:]),
        measurements=tuple(
            replace(m, contender=EVIL, settings={**m.settings, EVIL: EVIL}, reason=EVIL)
            if m.contender == record.contenders[0].name
            else m
            for m in record.measurements
        ),
    )


@pytest.mark.parametrize("write", [to_html, to_markdown, to_csv, to_json])
def test_reports_hold_no_character_that_cannot_be_seen(hostile_record, write):
    text = write(hostile_record)
    assert "owned" in text
    assert shows_well(text)
    text.encode()  # nor half a one


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_hostile_record_is_shown_in_characters_that_can_be(
    hostile_record, tmp_path, capsys, flags
):
    write_record(hostile_record, tmp_path / "r.json")
    assert from_json((tmp_path / "r.json").read_text("utf-8")) == hostile_record
    assert main(["bench", "report", str(tmp_path / "r.json"), *flags]) == 0
    assert main(["bench", "compare", *[str(tmp_path / "r.json")] * 2, *flags]) == 0
    shown = capsys.readouterr()
    assert "owned" in shown.out
    assert shows_well(shown.out + shown.err)


@pytest.mark.skipif(os.environ.get("LEVIT_NO_MATPLOTLIB") is not None, reason="asked for")
def test_a_hostile_record_is_drawn(hostile_record, tmp_path):
    pytest.importorskip("matplotlib")
    write_record(hostile_record, tmp_path / "r.json")
    words = ["bench", "report", str(tmp_path / "r.json"), "--png", str(tmp_path / "r.png")]
    assert main(words) == 0
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


SIGNS = [chr(i) for i in range(0x110000) if unicodedata.normalize("NFKC", chr(i)) in set("=+-@")]


@pytest.mark.parametrize(
    "before", ["", "\n", "\t", "\r\n", " ", "\u3000", "a;", "a; ", ";;", 'a";', '"']
)
def test_no_cell_of_a_spreadsheet_is_a_formula(hostile_record, before):
    value = ";".join(f"{before}{sign}SUM(1)" for sign in SIGNS)
    contender = replace(hostile_record.contenders[0], name=value, title=value)
    measurement = replace(hostile_record.measurements[0], contender=value, reason=value)
    record = replace(hostile_record, contenders=(contender,), measurements=(measurement,))
    text = to_csv(record)
    # As a country reads it that separates by semicolons or tabs, too.
    begins = {
        unicodedata.normalize("NFKC", cell.strip())[:1]
        for separator in (",", ";", "\t")
        for row in csv.reader(io.StringIO(text), delimiter=separator)
        for cell in row
    }
    assert not begins & set("=+-@")
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["title"].count("SUM(1)") == len(SIGNS) > 15


@settings(max_examples=30, deadline=None)
@given(name=evil_texts)
def test_any_name_leaves_a_sheet_its_rows(hostile_record, name):
    contender = replace(hostile_record.contenders[0], name=name, title=name)
    measurement = replace(hostile_record.measurements[0], contender=name)
    record = replace(hostile_record, contenders=(contender,), measurements=(measurement,))
    (row,) = csv.DictReader(io.StringIO(to_csv(record)))
    assert None not in row
    assert row["protocol"] == measurement.protocol
