import contextlib
import dataclasses
import gzip
import json
import os
import re
import subprocess
import sys
import time

import pytest
import records
from hypothesis import given, settings
from hypothesis import strategies as st

from levit.benchmarks.compare import compare
from levit.benchmarks.protocols import PROTOCOLS
from levit.benchmarks.record import Contender, Measurement, Record, Round
from levit.benchmarks.record_file import from_json, read_record, to_json, write_record
from levit.benchmarks.report.csv import to_csv
from levit.benchmarks.report.html import to_html
from levit.benchmarks.report.markdown import to_markdown
from levit.commands.bench_tables import record_json
from levit.errors import BackendUnavailableError, ConfigError
from levit.whole_file import check_writable, write_whole

words = st.text(max_size=12)
numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(1, 10**15)
sides = st.integers(1, 10**6)
large = st.integers(0, 10**18)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
tables = st.dictionaries(words, plain, max_size=3)
many = st.lists(counts, max_size=5).map(tuple)
samples = st.fixed_dictionaries(
    {"kernel_ns": st.lists(counts, min_size=1, max_size=3)},
    optional={"at_s": counts, "busy_s": st.none() | st.floats(-1e15, 1e15)},
)
noises = st.fixed_dictionaries(
    {}, optional={"cpus": sides, "samples": st.lists(samples, max_size=6), "more": plain}
)
rounds = st.builds(
    Round, elapsed_ns=counts, values=many, stages=st.dictionaries(words, many, max_size=3)
)
contenders = st.builds(
    Contender,
    name=words,
    model=words,
    engine=words,
    title=words,
    runtime=words,
    kind=st.sampled_from(["ours", "peer", "ceiling"]),
    precision=words,
    image_size=st.tuples(sides, sides),
    macs=st.none() | large,
    parameters=st.none() | large,
    top1=st.none() | st.floats(0, 100),
)


@st.composite
def drawn_records(draw):
    taking_part = draw(st.lists(contenders, min_size=1, max_size=3, unique_by=lambda c: c.name))
    measurements = st.builds(
        Measurement,
        contender=st.sampled_from([c.name for c in taking_part]),
        protocol=st.sampled_from(list(PROTOCOLS)),
        settings=tables.map(lambda t: {k: v for k, v in t.items() if k != "batch"}),
        status=st.sampled_from(["ok", "failed", "wrong", "skipped"]),
        reason=words,
        error=st.none() | numbers,
        rounds=st.lists(rounds, max_size=4).map(tuple),
        scan=st.lists(tables, max_size=2).map(tuple),
    )
    return draw(
        st.builds(
            Record,
            created=words,
            command=st.lists(words, max_size=4).map(tuple),
            status=st.sampled_from(["complete", "interrupted"]),
            machine=tables,
            settings=tables,
            noise=noises,
            gpu_samples=st.lists(tables, max_size=2).map(tuple),
            contenders=st.just(tuple(taking_part)),
            measurements=st.lists(measurements, max_size=4).map(tuple),
        )
    )


@settings(max_examples=60, deadline=None)
@given(record=drawn_records())
def test_what_is_written_is_read_back(record):
    assert from_json(to_json(record)) == record


@pytest.mark.parametrize("name", ["run.json", "run.json.gz"])
def test_a_whole_run_through_a_file(tmp_path, name):
    record = records.build(rounds=3, hostile=True)
    write_record(record, tmp_path / name)
    assert read_record(tmp_path / name) == record
    assert [p.name for p in tmp_path.iterdir()] == [name]
    first = (tmp_path / name).read_bytes()
    write_record(record, tmp_path / name)
    assert (tmp_path / name).read_bytes() == first


def test_a_round_is_a_line_and_integers_stay_integers():
    record = records.build(models=("levit_128s",), engines=("levit-onnx",), rounds=5)
    text = to_json(record)
    lines = [line for line in text.splitlines() if '"elapsed_ns"' in line]
    assert len(lines) == 7 * 5 + 3 * 3  # seven protocols, three ceilings of three rounds
    turn = json.loads(lines[0].strip().rstrip(","))
    assert turn["values"] == list(record.measurements[0].rounds[0].values)
    assert all(type(v) is int for v in turn["values"])


@pytest.fixture
def document():
    record = records.build(models=("levit_128s",), engines=("levit-onnx",), rounds=2)
    return json.loads(to_json(record))


def _refusal(text):
    with pytest.raises(ConfigError) as caught:
        from_json(text, "A.json")
    message = str(caught.value)
    assert message.startswith("A.json: ")
    assert "\n" not in message
    return message


def test_other_versions_of_the_schema_say_what_to_do(document):
    message = _refusal(json.dumps(document | {"schema_version": 3}))
    expected = (
        "A.json: made by a newer levit (schema 3, this reads 1): upgrade levit, or measure again"
    )
    assert message == expected
    message = _refusal(json.dumps(document | {"schema_version": 0}))
    assert "made by an older levit (schema 0, this reads 1): measure again" in message
    # Whatever else a newer one has changed, its version is what matters.
    assert "newer" in _refusal('{"schema": "levit-bench", "schema_version": 2, "x": [[[]]]}')


@pytest.mark.parametrize("version", ["1", True, None, 1.0, [1]])
def test_a_version_is_an_integer(document, version):
    assert "schema_version is no integer" in _refusal(
        json.dumps(document | {"schema_version": version})
    )


@pytest.mark.parametrize(
    "text",
    ["", "no json", "[]", "null", "3", '{"schema": "other"}', "[" * 100_000, '{"a":' * 100_000],
)
def test_what_is_no_record_is_refused(text):
    assert "levit bench has written" in _refusal(text)


def test_a_truncated_record_is_refused(document):
    text = json.dumps(document)
    for part in (0.1, 0.5, 0.9, 0.999):
        assert "breaks off" in _refusal(text[: int(len(text) * part)])


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_no_number_that_was_not_measured(document, value):
    text = json.dumps(document).replace('"error": 3e-06', f'"error": {value}')
    assert value in text
    assert "damaged" in _refusal(text)


def test_a_bare_machine_writes_records_and_says_what_reading_needs(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "msgspec", None)
    write_record(records.build(rounds=1), tmp_path / "A.json")
    with pytest.raises(BackendUnavailableError, match=r"msgspec.*pip install 'levit\[bench\]'"):
        read_record(tmp_path / "A.json")


def test_nan_is_not_written():
    record = records.build(models=("levit_128s",), engines=("levit-onnx",), rounds=1)
    with pytest.raises(ConfigError, match="NaN or infinity"):
        to_json(dataclasses.replace(record, settings={"x": float("nan")}))


def _places(value, path=()):
    """Every field of the schema, as a path of keys."""
    if isinstance(value, dict) and path[-1:] not in (("settings",), ("machine",), ("noise",)):
        for key, item in value.items():
            yield (*path, key)
            yield from _places(item, (*path, key))
    elif isinstance(value, list) and value:
        yield from _places(value[0], (*path, 0))


def _at(document, path):
    for key in path:
        document = document[key]
    return document


def test_missing_unknown_and_mistyped_fields_are_refused(document):
    paths = [p for p in _places(document) if p[0] not in ("schema", "schema_version")]
    assert len(paths) > 30
    for path in paths:
        if "stages" in path[:-1]:
            continue  # free names
        for change in ("missing", "mistyped"):
            damaged = json.loads(json.dumps(document))
            holder = _at(damaged, path[:-1])
            if change == "missing":
                del holder[path[-1]]
            else:
                holder[path[-1]] = {"x": 1} if not isinstance(holder[path[-1]], dict) else 7
            assert "damaged" in _refusal(json.dumps(damaged)), (path, change)
    assert "unknown" in _refusal(json.dumps(document | {"more": 1}))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("measurements", 0, "status"), "fine"),
        (("contenders", 0, "kind"), "mine"),
        (("status",), "half"),
        (("measurements", 0, "contender"), "somebody else"),
        (("measurements", 0, "settings", "batch"), 0),
        (("measurements", 0, "settings", "batch"), True),
        (("measurements", 0, "settings", "threads"), "2"),
        (("measurements", 0, "rounds", 0, "values"), [1, -2]),
        (("measurements", 0, "rounds", 0, "values"), [1.5]),
        (("measurements", 0, "rounds", 0, "elapsed_ns"), -1),
        (("measurements", 0, "rounds", 0, "values"), [2**63]),
        (("measurements", 0, "rounds", 0, "values"), [10**290]),
        (("measurements", 0, "rounds", 0, "values"), [0]),
        (("measurements", 0, "rounds", 0, "elapsed_ns"), 0),
        (("measurements", 0, "rounds", 0, "stages"), {"decode": [10**16]}),
        (("measurements", 0, "settings", "batch"), 10**7),
        (("measurements", 0, "settings", "long"), "x" * 20_000),
        (("measurements", 0, "settings", "many"), [[1] * 300] * 50),
        (("measurements", 0, "reason"), "x" * 20_000),
        (("measurements", 0, "rounds"), [{"elapsed_ns": 0, "values": [], "stages": {}}] * 3000),
        (("contenders", 0, "macs"), 2**63),
        (("contenders", 0, "macs"), -1),
        (("contenders", 0, "parameters"), 10**290),
        (("contenders", 0, "top1"), 1e308),
        (("contenders", 0, "top1"), -1.0),
        (("contenders", 0, "image_size"), [224]),
        (("contenders", 0, "image_size"), [0, 224]),
        (("contenders", 0, "title"), "x" * 2000),
        (("machine", "cpu"), [1]),
        (("machine", "cpu", "model"), "x" * 20_000),
        (("machine", "cpu", "features"), ["x"] * 20_000),
        (("command",), ["x"] * 20_000),
        (("created",), "x" * 20_000),
        (("gpu_samples",), [{"x" * 20_000: 1}]),
        (("noise", "cpus"), 0),
        (("noise", "cpus"), 1e300),
        (("noise", "samples"), {"0": 1}),
        (("noise", "samples", 3), 7),
        (("noise", "samples", 3), {"at_s": 1}),
        (("noise", "samples", 3, "kernel_ns"), []),
        (("noise", "samples", 3, "kernel_ns"), [0]),
        (("noise", "samples", 3, "kernel_ns"), ["7"]),
        (("noise", "samples", 3, "kernel_ns"), [10**290]),
        (("noise", "samples", 3, "busy_s"), "much"),
        (("noise", "samples", 3, "busy_s"), 1e300),
        (("noise", "samples", 3, "steal_s"), [1]),
    ],
)
def test_values_that_cannot_be_are_refused(document, path, value):
    _at(document, path[:-1])[path[-1]] = value
    assert "damaged" in _refusal(json.dumps(document))


def test_two_contenders_of_one_name_are_refused(document):
    document["contenders"].append(document["contenders"][0])
    assert "two contenders" in _refusal(json.dumps(document))


def test_files_that_cannot_be_read(tmp_path):
    for contents in (b"\xff\xfe\x00", b"\x1f\x8b\x08\x00broken", gzip.compress(b"{}" * 99)[:30]):
        path = tmp_path / "A.json"
        path.write_bytes(contents)
        with pytest.raises(ConfigError, match=r"A\.json: is "):
            read_record(path)
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "a\0b", tmp_path / ("x" * 5000)):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_record(path)


def test_a_small_file_that_unpacks_to_a_huge_one(tmp_path, monkeypatch):
    monkeypatch.setattr("levit.benchmarks.record_file.MAX_BYTES", 1 << 20)
    (tmp_path / "bomb.json.gz").write_bytes(gzip.compress(b" " * (8 << 20)))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        read_record(tmp_path / "bomb.json.gz")


def refused(path, seconds=30):
    """Read a record in a process with 2 GB; the one line that it ends with."""
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2 << 30,) * 2);"
    main = "from levit.cli import main; sys.exit(main(['bench', 'report', sys.argv[1]]))"
    done = subprocess.run(
        [sys.executable, "-c", limited + main, str(path)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert "internal" not in done.stderr
    return done.stderr


def test_a_pipe_is_no_record_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    assert "no plain file" in refused(tmp_path / "pipe.json")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b" " * (200 << 20), "unpacked, it is larger than 64 MiB"),
        (lambda: b"[" + b"[]," * 20_000_000 + b"[]]", "lists and objects, and no run has more"),
        (lambda: b"[" + b"1," * 30_000_000 + b"1]", "values, and no run has more"),
        (lambda: b'{"a":' * 400_000, "nested more than 64 deep"),
        (lambda: b'{"x": "' + b"y" * (60 << 20) + b'"}', "is no record of a benchmark"),
    ],
)
def test_a_small_file_costs_little_whatever_it_unpacks_to(tmp_path, make, message):
    (tmp_path / "r.json.gz").write_bytes(gzip.compress(make()))
    assert message in refused(tmp_path / "r.json.gz")


def test_a_file_of_many_small_members_is_refused(tmp_path):
    (tmp_path / "r.json.gz").write_bytes(gzip.compress(b"") * 1_000_000)
    assert "its compression breaks off" in refused(tmp_path / "r.json.gz")
    document = gzip.compress(to_json(records.build(rounds=1)).encode())
    (tmp_path / "r.json.gz").write_bytes(document + b"more")
    assert "its compression breaks off" in refused(tmp_path / "r.json.gz")


def test_a_sparse_file_is_refused_unread(tmp_path):
    with (tmp_path / "r.json").open("wb") as file:
        file.truncate(1 << 40)
    assert "larger than 64 MiB" in refused(tmp_path / "r.json")


def _many(count, **changes):
    """A document of one measurement each of `count` contenders."""
    record = records.build(
        models=("levit_128s",), engines=("levit-onnx",), protocols=("paper",), rounds=1
    )
    document = json.loads(to_json(record))
    (first, *_), (taken, *_) = document["contenders"], document["measurements"]
    document["contenders"], document["measurements"] = [], []
    for i in range(count):
        kind = "ours" if i % 2 else "peer"
        changed = {key: make(i) for key, make in changes.items()}
        document["contenders"].append(first | {"name": f"c{i}", "kind": kind} | changed)
        document["measurements"].append(taken | {"contender": f"c{i}"})
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (_many(900), "303,525 pairs"),
        (_many(1001, model=lambda i: f"m{i}"), "1,001 contenders"),
        (_many(101, engine=lambda i: f"e{i}"), "101 engines"),
    ],
)
def test_what_costs_more_than_its_bytes_is_counted(tmp_path, document, message):
    (tmp_path / "r.json").write_text(json.dumps(document))
    assert re.search(message, refused(tmp_path / "r.json"))


@pytest.mark.parametrize(
    "document",
    [_many(300), _many(1000, model=lambda i: f"m{i}"), _many(100, engine=lambda i: f"e{i}")],
    ids=["pairs", "models", "engines"],
)
def test_as_much_as_is_let_in_is_shown_in_time(document):
    started = time.monotonic()
    record = from_json(json.dumps(document))
    assert to_html(record)
    assert to_markdown(record)
    assert to_csv(record)
    assert record_json(record)
    assert time.monotonic() - started < 100  # 2 to 10 s


@pytest.mark.parametrize("protocol", ["cold-start", "latency"])
def test_many_values_in_one_interval(document, protocol):
    rounds = [{"elapsed_ns": 10**12, "values": list(range(1, 32_001)), "stages": {}}]
    measurement = document["measurements"][0] | {"protocol": protocol, "rounds": rounds}
    record = from_json(json.dumps(document | {"measurements": [measurement]}))
    started = time.monotonic()
    assert to_html(record)
    assert time.monotonic() - started < 20  # 0.2 s


@settings(max_examples=60, deadline=None)
@given(record=drawn_records())
def test_whatever_is_let_in_can_be_shown_and_compared(record):
    record = from_json(to_json(record))
    with contextlib.suppress(ConfigError):  # nothing in it that can be compared
        compare(record, record)
    for show in (to_html, to_markdown, to_csv, record_json):
        assert show(record)


def test_paths_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("there before")
    cases = {
        tmp_path / "no" / "folder.html": "the folder .*no does not exist; create it",
        tmp_path: "is a folder",
        file / "below": "does not exist",
        tmp_path / "nul\0": "is no file name",
        "/dev/null": "is no plain file",
        tmp_path / ("x" * 300): "cannot be written",
    }
    for path, expected in cases.items():
        for attempt in (lambda p: write_whole(p, b"new"), check_writable):
            with pytest.raises(ConfigError, match=expected):
                attempt(path)
    assert file.read_text() == "there before"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_whole(tmp_path / "report.html", b"new")


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        write_whole(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_whole(tmp_path / "link.json", b"new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"
