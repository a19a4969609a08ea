import os
import subprocess
import sys
import tempfile
import textwrap

import pytest

from levit.models.registry import digits_folder

HEAVY = ("torch", "timm", "onnx", "safetensors", "huggingface_hub")

# Blocked modules are as absent as if they were not installed: no finder finds them.
BLOCK = """
    import sys

    class Others:
        def find_spec(self, name, path=None, target=None):
            if any(name == root or name.startswith(root + ".") for root in BLOCKED):
                return None
            for finder in FINDERS:
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    return spec

    BLOCKED, FINDERS = sys.argv[1].split(","), sys.meta_path[:]
    sys.meta_path[:] = [Others()]
"""


def run(code, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_prediction_without_compiler_and_without_torch(tiny_artifact, digit_paths):
    code = textwrap.dedent(BLOCK) + textwrap.dedent(
        """
        from levit import Predictor
        with Predictor(sys.argv[2], threads=1) as predictor:
            print(predictor(sys.argv[3]).label, predictor.check().passed)
        """
    )
    blocked = ",".join((*HEAVY, "levit.models", "levit.export"))
    answer = run(code, blocked, tiny_artifact, digit_paths[0])
    assert answer == f"{digit_paths[0].parent.name} True"


def test_the_block_blocks():
    code = textwrap.dedent(BLOCK) + textwrap.dedent(
        """
        try:
            import levit.export
        except ImportError as error:
            print(error)
        """
    )
    assert run(code, "levit.export") == "No module named 'levit.export'"


@pytest.mark.parametrize("command", ["predict", "eval", "check", "inspect", "doctor"])
def test_commands_of_the_runtime_without_compiler_and_without_torch(
    tiny_artifact, digit_paths, command
):
    # What `pip install levit` alone can do.
    words = {
        "predict": ["predict", tiny_artifact, digit_paths[0]],
        "eval": ["eval", tiny_artifact, digit_paths[0].parent.parent],
        "check": ["check", tiny_artifact],
        "inspect": ["inspect", tiny_artifact],
        "doctor": ["doctor"],
    }[command]
    compiler = () if command == "inspect" else ("levit.models", "levit.export")
    result = without((*HEAVY, *compiler), *words)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout


def without(blocked, *words):
    """The command line, on a machine where some packages are not installed."""
    code = textwrap.dedent(BLOCK) + "import levit.cli\nsys.exit(levit.cli.main(sys.argv[2:]))\n"
    command = [sys.executable, "-c", code, ",".join(blocked), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_list_needs_no_extra():
    result = without(HEAVY, "list")
    assert (result.returncode, result.stderr) == (0, "")
    assert "levit_128s" in result.stdout


def test_inspect_of_a_checkpoint_needs_no_other_package(digit_paths):
    result = without(HEAVY, "inspect", digit_paths[0].parents[2])
    assert (result.returncode, result.stderr) == (0, "")
    assert "levit_digits" in result.stdout


def test_doctor_names_the_command_that_installs_what_is_missing():
    result = without((*HEAVY, "onnxruntime"), "doctor")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    onnxruntime = {line.split()[2]: line for line in lines if line.startswith("ONNX Runtime")}
    assert onnxruntime["cpu"].endswith("pip install onnxruntime")
    assert onnxruntime["gpu"].endswith("pip install 'onnxruntime-gpu[cuda,cudnn]'")
    assert all("missing" in line and "not installed" in line for line in onnxruntime.values())
    rows = {line.split("  ")[0]: line for line in lines}
    assert rows["safetensors"].endswith("pip install 'levit[export]'")
    assert rows["timm"].endswith("pip install 'levit[peers]'")


@pytest.mark.parametrize(
    ("blocked", "words", "advice"),
    [
        (("onnx",), ["export", "--model", "levit_digits"], "pip install 'levit[export]'"),
        (("safetensors",), ["export", "--model", "levit_digits"], "pip install 'levit[export]'"),
        (("huggingface_hub",), ["export", "--model", "levit_128s"], "pip install 'levit[export]'"),
        (("onnxruntime",), ["predict", "ARTIFACT", "x.png"], "pip install onnxruntime"),
        (("onnxruntime",), ["check", "ARTIFACT"], "pip install onnxruntime"),
    ],
    ids=lambda value: " ".join(value) if not isinstance(value, str) else "",
)
def test_missing_packages_are_one_line_with_the_command_that_installs_them(
    tiny_artifact, digit_paths, tmp_path, monkeypatch, blocked, words, advice
):
    monkeypatch.chdir(tmp_path)
    places = {"ARTIFACT": tiny_artifact, "CHECKPOINT": digit_paths[0].parents[2]}
    if words[0] == "predict":
        (tmp_path / "x.png").write_bytes(digit_paths[0].read_bytes())
        places["x.png"] = tmp_path / "x.png"
    before = sorted(tmp_path.iterdir())
    result = without(blocked, *(places.get(word, word) for word in words))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert advice in result.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "safetensors"])
def test_export_from_python_names_the_extra(package):
    code = textwrap.dedent(BLOCK) + textwrap.dedent(
        """
        from levit.errors import BackendUnavailableError
        from levit.export import ExportOptions
        try:
            from levit.export import export
        except BackendUnavailableError as error:
            print(error)
        """
    )
    assert run(code, package) == f"exporting needs {package}: pip install 'levit[export]'"


LOADED = """
    import sys
    before = set(sys.modules)
    {statement}
    names = {{name.split(".")[0] for name in set(sys.modules) - before}}
    print(",".join(sorted(names)), file=sys.stderr)
"""


def loaded(statement):
    code = textwrap.dedent(LOADED).format(statement=statement)
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return set(result.stderr.strip().splitlines()[-1].split(","))


@pytest.mark.parametrize(
    "statement",
    [
        "import levit",
        "import levit; levit.__version__",
        "import levit.cli; levit.cli.build_parser()",
        "import levit.cli; levit.cli.main([])",
        "import levit.errors",
    ],
)
def test_light_imports_stay_light(statement):
    names = loaded(statement)
    assert "levit" in names
    assert names.isdisjoint({"numpy", "PIL", "onnxruntime", *HEAVY})


@pytest.mark.parametrize("command", ["", "export", "predict", "eval", "check", "list", "doctor"])
def test_help_imports_nothing_heavy(command):
    statement = (
        f"import levit.cli, contextlib\nwith contextlib.suppress(SystemExit): "
        f"levit.cli.main({[*command.split(), '--help']!r})"
    )
    names = loaded(statement)
    assert "argparse" in names
    assert names.isdisjoint({"numpy", "PIL", "onnxruntime", *HEAVY})


def test_doctor_imports_no_more_than_the_backends():
    names = loaded("import levit.cli; levit.cli.main(['doctor'])")
    assert "onnxruntime" in names
    assert names.isdisjoint(HEAVY)


def test_predictor_imports_no_compiler():
    names = loaded("from levit import Predictor")
    assert {"levit", "numpy"} <= names
    assert names.isdisjoint({*HEAVY, "PIL", "onnxruntime", "zipfile"})
    code = "from levit import Predictor; import sys; print(*sys.modules)"
    modules = run(code).split()
    assert not [m for m in modules if m.startswith(("levit.models", "levit.export"))]


# Where any of these is set, ONNX Runtime keeps quiet by itself.
CI = (
    *("CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "TRAVIS", "JENKINS_URL"),
    *("CODEBUILD_BUILD_ID", "BUILDKITE", "TEAMCITY_VERSION", "APPVEYOR"),
    *("BITBUCKET_BUILD_NUMBER", "SYSTEM_TEAMFOUNDATIONCOLLECTIONURI"),
)


def files_left_by(code, folder, *arguments, **variables):
    """What a process leaves in the places that are its user's or for all."""
    places = {"HOME": "home", "TMPDIR": "tmp", "XDG_CACHE_HOME": "cache"}
    kept = {n: v for n, v in os.environ.items() if n not in (*CI, "ORT_DISABLE_TELEMETRY")}
    for name, place in places.items():
        (folder / place).mkdir()
        kept[name] = str(folder / place)
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    subprocess.run(command, env=kept | variables, capture_output=True, timeout=60, check=True)
    return [path for path in folder.rglob("*") if path.is_file()]


PREDICT = """
    import sys
    from levit import Predictor
    with Predictor(sys.argv[1], threads=1) as predictor:
        predictor(sys.argv[2])
"""


def test_a_prediction_leaves_no_file_behind(tiny_artifact, digit_paths, tmp_path):
    assert files_left_by(PREDICT, tmp_path, tiny_artifact, digit_paths[0]) == []


COMMANDS = """
    import sys
    import levit.cli
    folder, pictures = sys.argv[1:]
    common = ["--model", "levit_digits", "--output"]
    commands = [
        ["doctor"],
        ["list"],
        ["export", *common, f"{folder}/fp32"],
        ["export", *common, f"{folder}/int8", "--precision", "int8", "--calibration", pictures],
        ["export", *common, f"{folder}/openvino", "--target", "openvino"],
        ["inspect", f"{folder}/fp32"],
        ["check", f"{folder}/fp32"],
        ["check", f"{folder}/openvino"],
        ["predict", f"{folder}/fp32", f"{pictures}/3/0045.png"],
        ["eval", f"{folder}/fp32", pictures],
    ]
    for command in commands:
        status = levit.cli.main(command)
        assert status == 0, command
"""


def test_commands_leave_no_file_behind(tmp_path):
    pictures = digits_folder() / "images"
    with tempfile.TemporaryDirectory() as folder:
        assert files_left_by(COMMANDS, tmp_path, folder, pictures) == []


@pytest.mark.parametrize(
    "module",
    ["levit.export", "levit.export.ranges", "levit.export.verify_artifact", "levit.benchmarks"],
)
def test_reporting_is_off_before_any_module_loads_onnx_runtime(module, tiny_artifact, tmp_path):
    """Whichever is the first to be imported."""
    code = f"""
        import sys
        import {module}
        import onnxruntime
        onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    """
    assert files_left_by(code, tmp_path, tiny_artifact / "model.onnx") == []


def test_telemetry_is_its_users_choice(tiny_artifact, digit_paths, tmp_path):
    """And the tests above can fail."""
    import onnxruntime

    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 29):
        pytest.skip("ONNX Runtime before 1.29 has none")
    variables = {"ORT_DISABLE_TELEMETRY": "0"}
    files = files_left_by(PREDICT, tmp_path, tiny_artifact, digit_paths[0], **variables)
    assert files != []
