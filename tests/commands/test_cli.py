import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import levit as package
from levit.artifact import GOLDEN_FILE, LABELS_FILE, open_artifact
from levit.cli import build_parser
from levit.commands import doctor_command
from levit.errors import BackendUnavailableError
from levit.export import ExportOptions, export
from levit.native.library import load_library
from levit.pictures.resizing import resizer_in_words
from levit.runtime.backends import BACKENDS
from levit.runtime.gpus import first_gpu

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="session")
def named_artifact(tmp_path_factory):
    """Labels in words, and embeddings."""
    folder = tmp_path_factory.mktemp("artifacts") / "named"
    outputs = ("logits", "embedding")
    export(ExportOptions(model="levit_digits", output=folder, labels=NAMES, outputs=outputs))
    return folder


# ------------------------------------------------------------------ what all commands share


def strict_json(text):
    """JSON as other languages read it: no NaN, no Infinity."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def assert_error(result, *words, status=1):
    """One line on standard error, nothing on standard output."""
    assert result.status == status
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith("\n")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


@pytest.fixture(params=["predict", "eval", "check", "inspect", "list", "doctor"])
def command(request, tiny_artifact, digits, digit):
    """The words of each command that runs well."""
    return {
        "predict": ["predict", tiny_artifact, digit],
        "eval": ["eval", tiny_artifact, digits],
        "check": ["check", tiny_artifact],
        "inspect": ["inspect", tiny_artifact],
        "list": ["list"],
        "doctor": ["doctor"],
    }[request.param]


def test_tables_go_to_stdout_and_nothing_else_anywhere(levit, command):
    result = levit(*command)
    assert (result.status, result.stderr) == (0, "")
    assert len(result.stdout) > 5
    assert all(line == line.rstrip() for line in result.stdout.splitlines())


def test_json_is_one_document_and_nothing_else(levit, command):
    result = levit(*command, "--json")
    assert (result.status, result.stderr) == (0, "")
    assert strict_json(result.stdout)


def test_a_reader_that_has_left_is_met_in_silence(process, command):
    read, write = os.pipe()
    os.close(read)
    try:
        result = process(*command, capture_output=False, stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert result.stderr == ""


@pytest.mark.parametrize("words", [["--help"], ["export", "--help"], ["--version"], []])
def test_help_to_a_reader_that_has_left_is_silent(process, words):
    read, write = os.pipe()
    os.close(read)
    try:
        result = process(*words, capture_output=False, stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert result.stderr == ""


def test_list_into_head(process):
    words = f"{sys.executable} -m levit list | head -1"
    result = subprocess.run(
        ["/bin/sh", "-c", words], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.startswith("model")
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_stdout_on_a_full_disk_is_one_line(process, command):
    with open("/dev/full", "w") as full:
        result = process(*command, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "No space left on device" in result.stderr
    assert result.stderr.count("\n") == 1


BROKEN = {
    "predict": (["predict", "absent", "x.png"], "absent: no such folder"),
    "eval": (["eval", "absent", "."], "absent: no such folder"),
    "check": (["check", "absent"], "absent: no such folder"),
    "inspect": (["inspect", "absent"], "absent: no such file"),
    "export": (["export"], "--model NAME, --checkpoint PATH"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_errors_are_one_line_with_a_traceback_only_for_debug(process, name, tmp_path):
    words, message = BROKEN[name]
    result = process(*words, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    result = process(*words, "--debug", cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["unknown"],
        ["--unknown"],
        ["predict"],
        ["predict", "artifact"],
        ["predict", "a", "b", "--top-k", "0"],
        ["predict", "a", "b", "--top-k", "many"],
        ["predict", "a", "b", "--threads", "0"],
        ["predict", "a", "b", "--device", "tpu"],
        ["eval", "a"],
        ["check"],
        ["list", "extra"],
        ["bench", "--models", ""],
        ["bench", "--protocol", ","],
        ["export", "--batch", "0"],
        ["export", "--batch", "8:1:64"],
        ["export", "--batch", "1:8"],
        ["export", "--image-size", "1x2x3"],
        ["export", "--image-size", "big"],
        ["export", "--mean", "a,b"],
        ["export", "--crop-pct", "x"],
        ["export", "--random-weights", "-1"],
        ["export", "--checkpoint", "x", "--random-weights", "1"],
        ["export", "--input", "int4"],
        ["export", "--verify", "later"],
        ["export", "--opset", "0"],
        ["export", "--mod", "levit_digits"],
    ],
    ids=" ".join,
)
def test_usage_errors_exit_with_two(levit, words):
    result = levit(*words)
    assert result.status == 2
    assert result.stdout == ""
    assert "usage: levit" in result.stderr
    assert "error: " in result.stderr
    assert "Traceback" not in result.stderr


def test_version_and_bare_call(levit):
    assert levit("--version").stdout == f"levit {package.__version__}\n"
    bare, asked = levit(), levit("--help")
    assert (bare.status, bare.stdout) == (0, asked.stdout)


@pytest.mark.parametrize(
    ("number", "message"),
    [(signal.SIGINT, "error: interrupted\n"), (signal.SIGTERM, "")],
    ids=["INT", "TERM"],
)
@pytest.mark.parametrize("swallowed", [False, True])
@pytest.mark.parametrize("kind", [ImportError, BackendUnavailableError])
def test_a_signal_ends_it_however_it_arrives(levit, monkeypatch, number, message, swallowed, kind):
    # While a module in C++ is being loaded, the exception comes out as "initialization failed",
    # and a probe makes a line of our own of that.
    def stopped(arguments):
        try:
            signal.raise_signal(number)
        except BaseException:
            if not swallowed:
                raise
        raise kind("initialization failed")

    monkeypatch.setattr(doctor_command, "run", stopped)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    result = levit("doctor")
    assert (result.status, result.stdout, result.stderr) == (128 + number, "", message)
    # The next command is another one.
    monkeypatch.undo()
    monkeypatch.setattr(doctor_command, "run", lambda arguments: 1 / 0)
    assert_error(levit("doctor"), "internal: ZeroDivisionError")


def test_help_is_quick(process):
    # In CPU time, which a busy machine changes little.
    def spent():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    for words in (["--help"], ["export", "--help"], ["predict", "--help"]):
        seconds = []
        for _ in range(3):
            before = spent()
            assert process(*words).returncode == 0
            seconds.append(spent() - before)
        assert min(seconds) < 0.2


@pytest.mark.parametrize("name", ["levit", "levit-export"])
def test_entry_points_are_installed(name, tmp_path):
    script = shutil.which(name, path=Path(sys.executable).parent)
    assert script is not None
    words = ["--help"] if name == "levit-export" else ["export", "--help"]
    result = subprocess.run(
        [script, *words], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.startswith("usage: levit export")


def test_levit_export_exports(tmp_path):
    script = shutil.which("levit-export", path=Path(sys.executable).parent)
    command = [script, "--model", "levit_digits"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert open_artifact(tmp_path / "levit_digits-onnx-fp32").manifest.variant == "levit_digits"
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert again.returncode == 1
    assert "already exists; pass --force" in again.stderr


def test_module_runs_too(process):
    result = process("list")
    assert "levit_128s" in result.stdout


@pytest.mark.parametrize("name", ["export", "predict", "eval"])
def test_progress_is_a_line_on_a_terminal_and_nothing_in_a_pipe(
    process, tiny_artifact, digits, tmp_path, name
):
    words = {
        "export": ["export", "--model", "levit_digits", "--force", "--output", tmp_path / "a"],
        "predict": ["predict", tiny_artifact, digits / "3"],
        "eval": ["eval", tiny_artifact, digits],
    }[name]
    piped = process(*words)
    assert (piped.returncode, piped.stderr) == (0, "")
    assert "\r" not in piped.stdout
    ours, theirs = os.openpty()
    try:
        shown = process(*words, capture_output=False, stdout=subprocess.PIPE, stderr=theirs)
        line = os.read(ours, 100_000).decode(errors="ignore")
    finally:
        os.close(ours)
        os.close(theirs)
    assert shown.returncode == 0
    assert "\r" not in shown.stdout
    assert "\x1b" not in shown.stdout
    first = "starting" if name == "export" else "opening the artifact"
    assert line.startswith(f"\r\x1b[K  {first}  0 s")
    assert line.rstrip().endswith("\r\x1b[K")  # taken away at the end


def test_every_command_has_debug_and_a_module():
    commands = build_parser()._subparsers._group_actions[0]
    assert len(commands.choices) >= 7
    for name, parser in commands.choices.items():
        assert "--debug" in parser.format_help()
        assert (Path(package.__file__).parent / "commands" / f"{name}_command.py").is_file()


# ------------------------------------------------------------------ predict


def test_predict_names_the_picture_and_its_classes(levit, tiny_artifact, digit):
    result = levit("predict", tiny_artifact, digit, "--top-k", 2)
    (line,) = result.stdout.splitlines()
    assert line.startswith(f"{digit}: 7 ")
    assert line.count("%") == 2


def test_predict_json_has_labels_indices_and_scores(levit, named_artifact, digit):
    (answer,) = strict_json(levit("predict", named_artifact, digit, "--json").stdout)
    assert answer["image"] == str(digit)
    assert answer["top"][0]["label"] == "seven"
    assert answer["top"][0]["index"] == 7
    assert len(answer["top"]) == 5
    scores = [entry["score"] for entry in answer["top"]]
    assert scores == sorted(scores, reverse=True)
    assert 0.5 < scores[0] <= 1


def test_predict_takes_files_folders_and_globs_in_their_order(levit, tiny_artifact, digits, digit):
    words = [digit, digits / "3", digits / "5" / "*.png", digits / "4" / "**" / "*.png"]
    answers = strict_json(levit("predict", tiny_artifact, *words, "--json", "--top-k", 1).stdout)
    expected = [
        digit,
        *sorted((digits / "3").iterdir()),
        *sorted((digits / "5").iterdir()),
        *sorted((digits / "4").iterdir()),
    ]
    assert [answer["image"] for answer in answers] == [str(path) for path in expected]
    right = [Path(a["image"]).parent.name == a["top"][0]["label"] for a in answers]
    assert np.mean(right) > 0.95


def test_predict_searches_folders_at_any_depth_for_images(levit, tiny_artifact, digit, tmp_path):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    shutil.copy(digit, deep / "SEVEN.PNG")
    (deep / "notes.txt").write_text("not an image")
    shutil.copy(digit, deep / ".hidden.png")
    (answer,) = strict_json(levit("predict", tiny_artifact, tmp_path, "--json").stdout)
    assert answer["image"] == str(deep / "SEVEN.PNG")


def test_predict_reads_standard_input(process, tiny_artifact, digit):
    result = process("predict", tiny_artifact, "-", input=digit.read_bytes(), text=False)
    assert result.returncode == 0
    assert result.stdout.startswith(b"-: 7 ")
    result = process("predict", tiny_artifact, "-", input=b"", text=False)
    assert result.returncode == 1
    assert result.stderr == b"error: standard input is empty: pipe an image into it\n"
    result = process("predict", tiny_artifact, "-", input=b"no image", text=False)
    assert result.returncode == 1
    assert result.stderr.startswith(b"error: -: not an image")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent.png", "absent.png: no such file"),
        ("*.gif", "*.gif: matches no files"),
        ("empty", "empty: no images in this folder"),
        ("notes.txt", "notes.txt: not an image"),
        ("cut.png", "damaged or truncated"),
    ],
)
def test_predict_says_what_is_wrong_with_a_picture(
    levit, tiny_artifact, digit, tmp_path, monkeypatch, name, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("dear diary")
    (tmp_path / "cut.png").write_bytes(digit.read_bytes()[:-60])
    assert_error(levit("predict", tiny_artifact, name), words)
    result = levit("predict", tiny_artifact, name, "--json")
    if name in ("notes.txt", "cut.png", "absent.png"):
        (answer,) = json.loads(result.stdout)
        assert answer["image"] == name
        assert result.stderr == f"error: {answer['error']}\n"
        result = replace(result, stdout="")
    assert_error(result, words)


@pytest.mark.parametrize("flags", [[], ["--json"], ["--workers", "3"], ["--workers", "0"]])
def test_one_bad_picture_takes_no_other_down(levit, tiny_artifact, digits, tmp_path, flags):
    photos = shutil.copytree(digits / "7", tmp_path / "photos")
    count = len(list(photos.iterdir()))
    alone = levit("predict", tiny_artifact, photos, *flags)
    (photos / "0000.jpg").write_bytes(b"")
    (photos / "0500.png").write_text("dear diary")
    result = levit("predict", tiny_artifact, photos, tmp_path / "absent.png", *flags)
    assert result.status == 1
    lines = result.stderr.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["error", str(path)]
        for path in (photos / "0000.jpg", photos / "0500.png", tmp_path / "absent.png")
    ]
    if "--json" not in flags:
        assert result.stdout == alone.stdout
        return
    answers = json.loads(result.stdout)
    assert len(answers) == count + 3
    assert [a for a in answers if "error" not in a] == json.loads(alone.stdout)
    assert [f"error: {a['error']}" for a in answers if "error" in a] == lines
    assert all(set(a) in ({"image", "error"}, {"image", "scores", "top"}) for a in answers)


def test_what_is_printed_of_a_bad_name_cannot_move_the_cursor(levit, tiny_artifact, tmp_path):
    path = tmp_path / "a\x1b[2J.png"
    path.write_text("no image")
    assert_error(levit("predict", tiny_artifact, path), r"a\x1b[2J.png: not an image")


def test_predict_takes_drafts(levit, tiny_artifact, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    photo = Image.fromarray(pixels).resize((1600, 1200))
    photo.save(tmp_path / "photo.jpg", quality=95)
    whole, draft = (
        json.loads(levit("predict", tiny_artifact, tmp_path / "photo.jpg", "--json", *flags).stdout)
        for flags in ([], ["--draft"])
    )
    scores = [[entry["score"] for entry in answer["top"]] for (answer,) in (whole, draft)]
    assert scores[0] != scores[1]
    np.testing.assert_allclose(scores[0], scores[1], atol=0.1)


def test_predict_takes_a_file_whose_name_looks_like_a_glob(levit, tiny_artifact, digit, tmp_path):
    odd = tmp_path / "seven[1].png"
    shutil.copy(digit, odd)
    (answer,) = strict_json(levit("predict", tiny_artifact, odd, "--json").stdout)
    assert answer["image"] == str(odd)


def test_predict_prints_names_that_are_not_utf8(process, tiny_artifact, digit, tmp_path):
    odd = os.fsencode(tmp_path) + b"/caf\xe9.png"
    shutil.copy(os.fsencode(digit), odd)
    for flags in ([], ["--json"]):
        result = process("predict", tiny_artifact, tmp_path, *flags, text=False)
        assert (result.returncode, result.stderr) == (0, b"")
        assert b"caf" in result.stdout
    assert len(strict_json(result.stdout)) == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_predict_prints_labels_that_the_terminal_cannot(process, copy, reseal, digit, encoding):
    labels = [f"鯉 café {digit} 🦆" for digit in range(10)]
    (copy / LABELS_FILE).write_text("\n".join(labels) + "\n", encoding="utf-8")
    reseal(copy)
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    result = process("predict", copy, digit, env=environment, text=False)
    assert (result.returncode, result.stderr) == (0, b"")
    result = process("predict", copy, digit, "--json", env=environment, text=False)
    assert (result.returncode, result.stderr) == (0, b"")
    (answer,) = strict_json(result.stdout.decode(encoding))
    assert answer["top"][0]["label"] == labels[7]


@pytest.mark.skipif(first_gpu() is not None, reason="a GPU is here")
@pytest.mark.parametrize("command", ["predict", "eval", "check"])
def test_a_gpu_that_is_not_there_is_an_error(process, tiny_artifact, digit, command):
    words = {"predict": [digit], "eval": [digit.parent.parent], "check": []}[command]
    result = process(command, tiny_artifact, *words, "--device", "gpu")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ONNX Runtime on 'gpu': no NVIDIA driver: install")
    assert result.stderr.count("\n") == 1


def test_predict_takes_either_mode(levit, tiny_artifact, digit):
    expected = levit("predict", tiny_artifact, digit).stdout
    for mode in ("latency", "throughput"):
        assert levit("predict", tiny_artifact, digit, "--mode", mode).stdout == expected
    assert levit("predict", tiny_artifact, digit, "--mode", "fast").status == 2


def test_predict_with_threads_and_exif(levit, tiny_artifact, digit):
    result = levit("predict", tiny_artifact, digit, "--threads", 1, "--exif")
    assert result.status == 0
    assert result.stdout == levit("predict", tiny_artifact, digit).stdout


# ------------------------------------------------------------------ predict --embed


def test_embed_writes_one_row_per_picture(levit, named_artifact, digits, tmp_path):
    file = tmp_path / "vectors.npy"
    result = levit("predict", named_artifact, digits / "2", "--embed", file)
    count = len(list((digits / "2").iterdir()))
    assert result.stdout == f"{file}: {count} embeddings of 64\n"
    array = np.load(file, allow_pickle=False)
    assert (array.shape, array.dtype) == ((count, 64), np.float32)
    report = strict_json(
        levit("predict", named_artifact, digits / "2", "--embed", file, "--json").stdout
    )
    assert report["shape"] == [count, 64]
    assert report["images"] == [str(p) for p in sorted((digits / "2").iterdir())]
    assert [p.name for p in tmp_path.iterdir()] == ["vectors.npy"]


def test_embed_without_that_output_says_how_to_get_it(levit, tiny_artifact, digit, tmp_path):
    result = levit("predict", tiny_artifact, digit, "--embed", tmp_path / "x.npy")
    assert_error(result, "--outputs logits,embedding")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["absent/x.npy", "folder"])
def test_embed_to_where_it_cannot_be_written(levit, named_artifact, digit, tmp_path, place):
    (tmp_path / "folder").mkdir()
    result = levit("predict", named_artifact, digit, "--embed", tmp_path / place)
    assert_error(result, place, "cannot be written")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_embed_on_a_full_disk_keeps_the_old_file(process, named_artifact, digits, tmp_path):
    file = tmp_path / "vectors.npy"
    file.write_bytes(b"old")
    result = process(
        *("predict", named_artifact, digits / "2", "--embed", file),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {file}: cannot be written (")
    assert "None" not in result.stderr
    assert result.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["vectors.npy"]
    assert file.read_bytes() == b"old"


def test_embed_of_a_bad_picture_keeps_the_old_file(levit, named_artifact, digits, tmp_path):
    file = tmp_path / "vectors.npy"
    file.write_bytes(b"old")
    words = [digits / "7", "absent.png", "--embed", file]
    assert_error(levit("predict", named_artifact, *words), "absent.png: no such file")
    assert file.read_bytes() == b"old"


# ------------------------------------------------------------------ eval


def test_eval_reports_accuracy(levit, tiny_artifact, digits):
    report = strict_json(levit("eval", tiny_artifact, digits, "--json").stdout)
    assert set(report) == {"images", "top1", "top5", "images_per_second"}
    assert report["images"] == len(list(digits.glob("*/*.png")))
    assert report["top1"] > 0.98
    assert report["top1"] <= report["top5"] <= 1
    assert report["images_per_second"] > 0


def test_eval_finds_classes_by_label(levit, named_artifact, few):
    report = strict_json(levit("eval", named_artifact, few(NAMES), "--json").stdout)
    assert (report["images"], report["top1"] > 0.9) == (40, True)


def test_eval_finds_classes_by_index(levit, named_artifact, few):
    report = strict_json(levit("eval", named_artifact, few("0123456789"), "--json").stdout)
    assert (report["images"], report["top1"] > 0.9) == (40, True)


def test_eval_takes_some_of_the_classes(levit, named_artifact, few):
    result = levit("eval", named_artifact, few(NAMES[:3]), "--json")
    assert strict_json(result.stdout)["images"] == 12
    assert strict_json(result.stdout)["top1"] > 0.9


def test_eval_takes_as_many_folders_in_sorted_order_and_says_so(levit, named_artifact, few):
    result = levit("eval", named_artifact, few("abcdefghij"), "--json")
    assert result.stderr == "assumed: folders in sorted order are the classes in order\n"
    assert strict_json(result.stdout)["top1"] > 0.9


def test_eval_by_label_wins_over_index(levit, copy, reseal, few):
    (copy / LABELS_FILE).write_text("\n".join("9876543210") + "\n")
    reseal(copy)
    # The folder called 0 holds zeros, which this artifact calls 9.
    report = strict_json(levit("eval", copy, few("0123456789"), "--json").stdout)
    assert report["top1"] < 0.2


@pytest.mark.parametrize(
    "names", [("zero", "one", "horse"), ("0", "1", "10"), ("²", "1", "0"), ("-1", "0", "1")]
)
def test_eval_of_folders_that_are_no_classes_names_them(levit, named_artifact, few, names):
    assert_error(levit("eval", named_artifact, few(names)), "name folders by label or index")


@pytest.mark.parametrize("kind", ["absent", "empty", "flat", "file"])
def test_eval_of_a_folder_without_classes(levit, tiny_artifact, digit, tmp_path, kind):
    folder = tmp_path / "photos"
    if kind != "absent":
        folder.mkdir()
    if kind == "flat":
        shutil.copy(digit, folder)
    if kind == "file":
        folder = digit
    words = "class/image.png" if kind in ("empty", "flat") else "no such folder"
    assert_error(levit("eval", tiny_artifact, folder), words)


def test_eval_of_a_bad_picture_names_it(levit, tiny_artifact, few):
    folder = few("0123456789")
    (folder / "3" / "bad.png").write_text("no image")
    assert_error(levit("eval", tiny_artifact, folder), "bad.png: not an image", "images[16]: ")


# ------------------------------------------------------------------ check


def test_check_passes_and_says_so(levit, tiny_artifact):
    result = levit("check", tiny_artifact)
    assert result.stdout.splitlines()[-1].split() == ["result", "passed"]
    values = strict_json(levit("check", tiny_artifact, "--json").stdout)
    assert values["passed"] is True
    assert values["max_relative_error"] < values["tolerance"]
    assert values["cpu_class"] == values["exported_on"]
    assert (values["device"], values["gpu_class"]) == ("cpu", None)
    assert values["files"] == 3


@pytest.mark.parametrize("amount", [0.01, np.nan])
def test_check_fails_with_status_one(levit, copy, reseal, amount):
    with np.load(copy / GOLDEN_FILE) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["output/logits"][0, 0] += amount * np.abs(arrays["output/logits"]).max()
    np.savez(copy / GOLDEN_FILE, **arrays)
    reseal(copy)
    result = levit("check", copy)
    assert result.status == 1
    assert result.stdout.splitlines()[-1].split() == ["result", "FAILED"]
    result = levit("check", copy, "--json")
    assert result.status == 1
    assert strict_json(result.stdout)["passed"] is False


def test_check_of_a_changed_file_is_an_error(levit, copy):
    data = bytearray((copy / "model.onnx").read_bytes())
    data[5000] ^= 1
    (copy / "model.onnx").write_bytes(data)
    assert_error(levit("check", copy), "model.onnx", "have changed")


def test_check_of_another_format_names_the_backends(levit, copy, reseal):
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": "onnx"', '"format": "engine"'))
    assert_error(levit("check", copy), "no backend for artifacts of format 'engine'")


# ------------------------------------------------------------------ inspect


def test_inspect_of_an_artifact_is_its_manifest(levit, tiny_artifact):
    values = strict_json(levit("inspect", tiny_artifact, "--json").stdout)
    manifest = json.loads((tiny_artifact / "manifest.json").read_text())
    assert values == {**manifest, "parameters": 227105, "macs": values["macs"]}
    table = levit("inspect", tiny_artifact).stdout
    for words in ("levit_digits", "96x96", "image (batch, 3, 96, 96) float32 NCHW", "passed"):
        assert words in table


def test_inspect_of_a_checkpoint_says_what_it_is(levit, digits):
    for path in (digits.parent, digits.parent / "model.safetensors"):
        values = strict_json(levit("inspect", path, "--json").stdout)
        assert values["variant"] == "levit_digits"
        assert values["parameters"] == 227105
        assert values["labels"] == list("0123456789")
        assert "0.23 M" in levit("inspect", path).stdout


@pytest.mark.parametrize("name", ["notes.txt", "empty", "damaged.safetensors"])
def test_inspect_of_what_is_neither(levit, tmp_path, name):
    (tmp_path / "notes.txt").write_text("dear diary, nothing happened")
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{" + bytes(40))
    assert_error(levit("inspect", tmp_path / name), name)


def test_inspect_of_a_damaged_artifact_is_an_error(levit, copy):
    (copy / "model.onnx").unlink()
    assert_error(levit("inspect", copy), "model.onnx: is missing")


# ------------------------------------------------------------------ list, doctor


def test_list_has_every_variant_with_its_numbers(levit):
    from levit.models.registry import FAMILIES

    values = strict_json(levit("list", "--json").stdout)
    rows = {row["name"]: row for row in values["models"]}
    variants = {name for family in FAMILIES.values() for name in family.variants}
    assert set(rows) == variants | {"levit_digits"}
    assert rows["levit_128s"]["top1"] == pytest.approx(76.53, abs=0.01)
    assert rows["levit_128s"]["hub_id"] == "timm/levit_128s.fb_dist_in1k"
    assert rows["levit_512"]["hub_id"] is None
    assert rows["levit_digits"]["parameters"] == 227105
    assert Path(values["digits_images"]).is_dir()
    table = levit("list").stdout
    assert [name for name in rows if name not in table] == []


def test_doctor_says_what_is_here(levit):
    import onnxruntime

    values = strict_json(levit("doctor", "--json").stdout)
    assert values["levit"] == package.__version__
    assert 1 <= values["cpus"] <= values["cpus_of_the_host"]
    rows = {(row["format"], row["device"]): row for row in values["backends"]}
    assert list(rows) == [(name, device) for name, b in BACKENDS.items() for device in b.places]
    here = rows["onnx", "cpu"]
    assert (here["version"], here["usable"]) == (onnxruntime.__version__, True)
    # What cannot be used says why and what to do, and nothing else does.
    assert all(row["usable"] != bool(row["reason"]) for row in rows.values())
    assert all(row["usable"] != bool(row["advice"]) for row in rows.values())
    assert (values["gpu"] is None) == bool(values["gpu_missing"])
    assert values["resizing"] == resizer_in_words()
    # The table has the same facts.
    table = levit("doctor").stdout
    assert f"resizing    {resizer_in_words()}" in table
    for row in rows.values():
        assert f"{row['reason']}  {row['advice']}".strip() in re.sub(" {2,}", "  ", table)
    if rows["native", "cpu"]["usable"]:
        isa = values["native_isas"][0]
        assert isa == load_library().chosen_isa()
        assert sorted(values["native_isas"]) == sorted(load_library().isas)
    else:
        assert values["native_isas"] == []
        isa = "not usable, see below"
    assert f"native      {isa}" in table
    used = {feature for by in values["cpu_precisions"].values() for feature in by}
    assert used <= set(values["cpu_features"])


# ------------------------------------------------------------------ export


def test_export_says_where_it_went_and_how_far_off_it_is(levit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = levit("export", "--model", "levit_digits")
    assert (result.status, result.stderr) == (0, "")
    (line,) = result.stdout.splitlines()
    assert "levit_digits-onnx-fp32: passed" in line
    assert [p.name for p in tmp_path.iterdir()] == ["levit_digits-onnx-fp32"]


def test_export_takes_every_choice(levit, tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(NAMES) + "\n")
    folder = tmp_path / "artifact"
    result = levit(
        *("export", "--model", "levit_digits", "--output", folder, "--batch", "2:4:6"),
        *("--outputs", "logits,embedding", "--labels", tmp_path / "labels.txt"),
        *("--mean", "0.4,0.5,0.6", "--std", "0.2,0.3,0.4", "--crop-pct", "0.9"),
        *("--interpolation", "bilinear", "--opset", "18", "--dump-passes", tmp_path / "dump"),
    )
    assert (result.status, result.stderr) == (0, "")
    artifact = open_artifact(folder)
    manifest = artifact.manifest
    assert artifact.labels() == NAMES
    assert [output.name for output in manifest.outputs] == ["logits", "embedding"]
    assert (manifest.batch.min, manifest.batch.opt, manifest.batch.max) == (2, 4, 6)
    spec = manifest.preprocess
    assert (spec.mean, spec.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    assert (spec.crop_pct, spec.interpolation) == (0.9, "bilinear")
    dumped = json.loads((tmp_path / "dump" / "passes.json").read_text())
    assert [row["pass"] for row in dumped][1:] == [entry["name"] for entry in manifest.passes]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "levit_129"], "levit_128"),
        (["--model", "levit_512"], "--checkpoint PATH, or --random-weights SEED"),
        (["--model", "levit_digits", "--target", "tpu"], "onnx"),
        (["--model", "levit_digits", "--precision", "fp8"], "fp32"),
        (["--model", "levit_digits", "--outputs", "logits,smell"], "'smell'"),
        (["--model", "levit_digits", "--outputs", ","], "outputs"),
        (["--model", "levit_digits", "--labels", "absent.txt"], "absent.txt"),
        (["--model", "levit_digits", "--preprocess", "keras"], "'keras'"),
        (["--model", "levit_digits", "--preprocess", "absent.json"], "absent.json"),
        (["--model", "levit_digits", "--crop-pct", "2"], "crop_pct"),
        (["--model", "levit_digits", "--crop-pct", "nan"], "crop_pct"),
        (["--model", "levit_digits", "--std", "0,1,1"], "std"),
        (["--model", "levit_digits", "--mean", "1,1"], "mean"),
        (["--model", "levit_digits", "--interpolation", "cubic"], "cubic"),
        (["--model", "levit_digits", "--config", "absent.json"], "absent.json"),
        (["--model", "levit_digits", "--image-size", "65"], "image"),
        (["--checkpoint", "absent.safetensors"], "absent.safetensors: no such file"),
        (["--random-weights", "1"], "--model NAME"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_export_says_what_is_wrong_and_writes_nothing(levit, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert_error(levit("export", *words), message)
    assert list(tmp_path.iterdir()) == []


def test_export_without_a_network_says_so(process, tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    (tmp_path / "here").mkdir()
    result = process("export", "--model", "levit_128s", env=environment, cwd=tmp_path / "here")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "timm/levit_128s.fb_dist_in1k" in result.stderr
    assert list((tmp_path / "here").iterdir()) == []


def test_export_prints_what_it_assumed_on_stderr(levit, tmp_path, digits):
    # Without the config beside it, nothing states the preprocessing.
    shutil.copy(digits.parent / "model.safetensors", tmp_path / "bare.safetensors")
    result = levit(
        "export",
        "--checkpoint",
        tmp_path / "bare.safetensors",
        "--output",
        tmp_path / "out",
    )
    assert result.status == 0
    assert result.stdout.count("\n") == 1
    assert result.stderr.startswith("assumed: ")
    assert "preprocessing: the defaults of timm" in result.stderr
    assumed = open_artifact(tmp_path / "out").manifest.assumed
    assert result.stderr.splitlines() == [f"assumed: {choice}" for choice in assumed]


@pytest.mark.parametrize("target", ["artifact", "folder of photos"])
def test_force_replaces_artifacts_only(levit, tiny_artifact, tmp_path, target):
    folder = tmp_path / "there"
    if target == "artifact":
        shutil.copytree(tiny_artifact, folder)
    else:
        folder.mkdir()
        (folder / "holiday.jpg").write_bytes(b"dear")
    words = ("export", "--model", "levit_digits", "--output", folder)
    assert_error(levit(*words), "already exists; pass --force")
    result = levit(*words, "--force")
    if target == "artifact":
        assert result.status == 0
    else:
        assert_error(result, "is not an artifact")
        assert (folder / "holiday.jpg").read_bytes() == b"dear"


@pytest.mark.parametrize("path", ["levit_128s", "levit_digits", "artifact"])
@pytest.mark.parametrize(
    "flag", [("--image-size", "5"), ("--config", "nowhere.json"), ("--model", "levit_128")]
)
def test_inspect_refuses_flags_that_mean_nothing(levit, tiny_artifact, path, flag):
    path = tiny_artifact if path == "artifact" else path
    assert_error(levit("inspect", path, *flag), "are for checkpoints")


def test_inspect_of_a_name_counts_the_model(levit):
    values = strict_json(levit("inspect", "LeViT-256", "--json").stdout)
    assert (values["variant"], values["hub_id"]) == ("levit_256", "timm/levit_256.fb_dist_in1k")
    assert round(values["macs"] / 1e6, 1) == 1127.3
    assert "1127.3 M" in levit("inspect", "levit_256").stdout
