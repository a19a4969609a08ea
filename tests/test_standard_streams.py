"""Commands whose caller has closed standard streams, or gives them something without end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import levit

PICTURE = next(
    Path(levit.__file__).parent.joinpath("data/levit_digits/images/3").glob("*.png"),
)


def predict(artifact, words, redirections="", **options):
    command = f'"$0" -m levit predict "$1" {words} --top-k 1 {redirections}'
    return subprocess.run(
        ["bash", "-c", command, sys.executable, str(artifact), str(PICTURE)],
        capture_output=True,
        timeout=100,
        check=False,
        **options,
    )


@pytest.mark.parametrize("closed", ["", "2>&-", "<&-", "2>&- <&-"])
def test_predictions_need_neither_input_nor_messages(tiny_artifact, closed):
    done = predict(tiny_artifact, '"$2"', closed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().startswith(f"{PICTURE}: 3 ")
    assert done.stderr == b""


def test_an_answer_that_nobody_can_get_is_an_error(tiny_artifact):
    done = predict(tiny_artifact, '"$2"', ">&-")
    assert done.returncode == 1
    assert done.stderr.decode().count("\n") == 1
    assert b"Bad file descriptor" in done.stderr
    assert predict(tiny_artifact, '"$2"', ">&- 2>&- <&-").returncode == 1


def test_closed_standard_input_is_no_image(tiny_artifact):
    done = predict(tiny_artifact, "-", "<&-")
    assert done.returncode == 1
    assert b"cannot be read" in done.stderr
    assert b"internal" not in done.stderr


def test_no_other_file_gets_the_number_of_a_standard_stream():
    """It would hold what libraries print."""
    script = (
        "import os, sys; from levit.standard_streams import open_standard_streams as f; f();"
        "assert os.open(os.devnull, os.O_RDONLY) > 2; print('lost', file=sys.stderr); sys.exit(0)"
    )
    for closed in ("2>&-", "<&- 2>&-", "<&-"):
        done = subprocess.run(
            ["bash", "-c", f'"$0" -c "$1" {closed}', sys.executable, script], check=False
        )
        assert done.returncode == 0


def test_endless_standard_input_is_refused_at_once(tiny_artifact):
    done = predict(tiny_artifact, "-", "< /dev/zero")
    assert done.returncode == 1
    assert b"not an image" in done.stderr


def test_special_files_are_refused(tiny_artifact, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    done = predict(tiny_artifact, f"{tmp_path}/fifo /dev/zero")
    assert done.returncode == 1
    assert done.stderr.count(b"no plain file") == 2


def test_standard_input_is_read_from_files_and_pipes(tiny_artifact):
    for redirection in ('< "$2"', '< <(cat "$2")'):
        done = predict(tiny_artifact, "-", redirection)
        assert done.stdout.startswith(b"-: 3 "), done.stderr


@pytest.mark.parametrize("flag", ["", "--json"])
def test_names_that_are_not_utf8_are_shown(tiny_artifact, tmp_path, flag):
    path = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    with open(path, "wb") as file:
        file.write(PICTURE.read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "levit", "predict", str(tiny_artifact), path, path + b".no"]
        + [flag] * bool(flag),
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert b"\\udcff\\udcfe.png" in done.stdout
    assert b"\\udcff\\udcfe.png.no: no such file" in done.stderr
