"""``scripts/setup.py``: what it decides before and after pip, whose own work is not tested here."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "setup.py"


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with a folder of its own for a repository."""
    spec = importlib.util.spec_from_file_location("setup_script", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    venv = tmp_path / ".venv"
    for name, value in {
        "ROOT": tmp_path,
        "VENV": venv,
        "STAMP": venv / "pins.sha256",
        "UNFINISHED": venv / "unfinished",
        "PIP_LOG": tmp_path / ".work" / "setup.log",
    }.items():
        monkeypatch.setattr(module, name, value)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "cpu.txt").write_text(
        "six==1.17.0\ntorch==2.13.0 ; sys_platform == 'linux'\n"
    )
    monkeypatch.setenv("DEVICE", "cpu")
    return module


def fake_environment(setup: ModuleType) -> None:
    """An environment that answers as the interpreter running the tests does."""
    (setup.VENV / "bin").mkdir(parents=True, exist_ok=True)
    if not setup.python().exists():
        setup.python().symlink_to(sys.executable)


def record_pip(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, results: list[int] | None = None
) -> list[tuple[str, ...]]:
    """Note what pip is asked for, and answer with ``results`` in turn, then 0."""
    asked: list[tuple[str, ...]] = []
    left = list(results or [])

    def pip(*arguments: str, quiet: bool = False) -> int:
        asked.append(arguments)
        return left.pop(0) if left else 0

    monkeypatch.setattr(setup, "pip", pip)
    monkeypatch.setattr(setup, "prove", lambda: None)
    return asked


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the registry's torch is the right one"
)
def test_the_cpu_build_of_torch_comes_first_and_a_second_call_does_nothing(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_environment(setup)
    asked = record_pip(setup, monkeypatch)
    assert setup.main() == 0
    pins = str(setup.ROOT / "requirements" / "cpu.txt")
    assert asked == [("--no-deps", "torch==2.13.0+cpu"), ("--no-deps", "--requirement", pins)]
    assert setup.main() == 0
    assert len(asked) == 2


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the registry's torch is the right one"
)
def test_pytorchs_own_index_is_asked_for_torch_alone_and_only_if_it_must_be(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_environment(setup)
    asked = record_pip(setup, monkeypatch, [1])
    assert setup.main() == 0
    assert asked[1] == (
        "--no-deps",
        "--index-url",
        "https://download.pytorch.org/whl/cpu",
        "torch==2.13.0+cpu",
    )
    assert "--index-url" not in asked[2]


def test_changed_pins_are_installed(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_environment(setup)
    asked = record_pip(setup, monkeypatch)
    setup.main()
    (setup.ROOT / "requirements" / "cpu.txt").write_text("six==1.16.0\ntorch==2.13.0\n")
    before = len(asked)
    assert setup.main() == 0
    assert len(asked) > before


def test_a_failed_pip_is_told_and_tried_again(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_environment(setup)
    asked = record_pip(setup, monkeypatch, [0, 1] if sys.platform == "linux" else [1])
    assert setup.main() == 2
    assert capsys.readouterr().err == (
        "error: setup: pip failed, its message is above; run the same command again to continue\n"
    )
    before = len(asked)
    assert setup.main() == 0
    assert len(asked) > before


def test_an_environment_that_was_cut_off_is_made_again(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_environment(setup)
    (setup.VENV / "half_a_package").write_text("")
    setup.UNFINISHED.touch()
    setup.make_environment()
    assert not (setup.VENV / "half_a_package").exists()
    assert setup.version_of(str(setup.python())) in setup.SUPPORTED


def test_another_python_is_refused_in_one_line(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "version_of", lambda interpreter: "3.15")
    with pytest.raises(setup.SetupError, match=r"Python 3\.11 to 3\.14 is needed"):
        setup.find_python()


def test_a_shim_that_answers_nothing_is_no_python(setup: ModuleType, tmp_path: Path) -> None:
    shim = tmp_path / "python3.12"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    assert setup.version_of(str(shim)) == ""
    assert setup.version_of(str(tmp_path / "absent")) == ""


def test_a_file_that_cannot_be_written_is_one_line(
    setup: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    (tmp_path / ".work").write_text("a file where the folder should be")
    monkeypatch.setattr(setup, "ROOT", tmp_path)

    assert setup.main() == 2

    said = capsys.readouterr().err
    assert said.startswith("error: setup: ") and ".work" in said and said.count("\n") == 1


def test_an_unknown_device_is_refused(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEVICE", "tpu")
    assert setup.main() == 2
    assert capsys.readouterr().err == "error: setup: DEVICE='tpu' is unknown: cpu or gpu\n"


@pytest.mark.parametrize(
    ("script", "device", "told"),
    [
        ("echo 'GPU 0: NVIDIA H200'", "gpu", ""),
        ("echo 'no devices were found'; exit 6", "cpu", "no GPU (no devices were found): taking"),
        ("echo 'version mismatch' >&2; exit 18", "cpu", "no GPU (version mismatch): taking"),
        ("exit 9", "cpu", "names no GPU (status 9): taking the packages for the CPU"),
    ],
)
def test_the_driver_decides_and_one_that_fails_is_told(
    setup: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    script: str,
    device: str,
    told: str,
) -> None:
    monkeypatch.delenv("DEVICE")
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert setup.choose_device() == device
    setup.tell_driver()
    printed = capsys.readouterr().out
    assert told in printed and (told != "") == (printed != "")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("print('A card, CUDA 13.0, 70 of 80 GiB free')", ""),
        ("import sys; sys.exit('torch finds no GPU: a newer driver')", "finds no GPU: a newer"),
    ],
)
def test_a_card_that_torch_cannot_use_is_one_line(
    setup: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    message: str,
) -> None:
    fake_environment(setup)
    monkeypatch.setattr(setup, "_CARD", answer)
    if message:
        with pytest.raises(setup.SetupError, match=f"the GPU cannot be used.*{message}"):
            setup.prove_card()
    else:
        setup.prove_card()
        assert capsys.readouterr().out == "setup: A card, CUDA 13.0, 70 of 80 GiB free\n"
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(setup.SetupError, match="no C compiler.*install gcc"):
        setup.prove_card()


def test_the_card_is_proved_where_a_driver_answers_alone(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU torch says so in the words of the question, which is tried for real here."""
    pins = (setup.ROOT / "requirements" / "cpu.txt").read_text()
    (setup.ROOT / "requirements" / "gpu.txt").write_text(pins)
    fake_environment(setup)
    record_pip(setup, monkeypatch)
    monkeypatch.setattr(setup, "ask_driver", lambda: (False, ""))
    setup.set_up("gpu")
    setup.STAMP.unlink()
    monkeypatch.setattr(setup, "ask_driver", lambda: (True, "GPU 0: A card"))
    with pytest.raises(setup.SetupError, match="the GPU cannot be used|no C compiler"):
        setup.set_up("gpu")
    assert not setup.STAMP.exists()


#: What a machine with a good card says; a fault below changes one line of it.
_TORCH = """\
import sysconfig
from types import SimpleNamespace
sysconfig.get_paths = lambda: {{"include": {include!r}}}
version = SimpleNamespace(cuda="13.0")
cuda = SimpleNamespace(
    is_available=lambda: {found},
    get_device_name=lambda number: "A card",
    get_device_capability=lambda number: {capability},
    mem_get_info=lambda number: (70 * 2**30, 80 * 2**30),
)
bfloat16 = None
class Matrix:
    __matmul__ = lambda one, other: one
    float = mean = lambda one: one
    __eq__ = lambda one, number: {product} == number
ones = lambda *sizes, **options: Matrix()
"""
#: Stands in for bitsandbytes; with a fault its library lacks the card.
_FOUR_BITS = """\
def quantize_4bit(matrix, quant_type):
    if {lacks}:
        raise RuntimeError("no kernel image is available\\nfor this card")
    return matrix, None
dequantize_4bit = lambda matrix, state: matrix
"""


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({}, ""),
        (
            {"found": False},
            "(torch finds no GPU: CUDA 13.0 needs a newer NVIDIA driver (CUDA 13: 580 or newer))",
        ),
        (
            {"capability": (7, 5)},
            "(A card does not compute in bfloat16: compute capability 8.0 or newer is needed)",
        ),
        (
            {"lacks": True},
            "(a product on A card, rounded to 4 bits, fails: no kernel image is available)",
        ),
        ({"product": 63}, "(a product on A card, rounded to 4 bits, fails: the result is wrong)"),
        ({"header": ""}, "(Python.h is missing, which Triton compiles with: install python3-dev)"),
        ({"compiler": "ls"}, "there is no C compiler, and vLLM compiles kernels when it starts"),
        ({"compiler": "cc"}, ""),
    ],
)
def test_a_card_that_will_not_do_ends_the_setup_in_one_line(
    setup: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    fault: dict[str, object],
    told: str,
) -> None:
    """The driver answers; torch, its header and the compiler are asked for real, and made up."""
    given = {"found": True, "capability": (9, 0), "header": "Python.h", "compiler": "gcc"}
    given |= {"product": 64, "lacks": False, **fault}
    for name, text in (("nvidia-smi", "echo 'GPU 0: A card'"), (str(given["compiler"]), "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / (given["header"] or "other.h")).touch()
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "torch.py").write_text(
        _TORCH.format(include=str(tmp_path / "include"), **given)
    )
    (tmp_path / "fake" / "bitsandbytes").mkdir()
    (tmp_path / "fake" / "bitsandbytes" / "functional.py").write_text(_FOUR_BITS.format(**given))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.delenv("DEVICE")
    pins = (setup.ROOT / "requirements" / "cpu.txt").read_text()
    (setup.ROOT / "requirements" / "gpu.txt").write_text(pins)
    fake_environment(setup)
    record_pip(setup, monkeypatch)
    assert setup.main() == (2 if told else 0)
    out, err = capsys.readouterr()
    assert setup.STAMP.exists() == (not told)
    if told:
        (line,) = err.splitlines()
        assert line.startswith("error: setup: ") and told in line and "DEVICE=cpu" in line
    else:
        assert err == "" and "setup: A card, CUDA 13.0, 70 of 80 GiB free\n" in out


def test_the_script_needs_nothing_installed() -> None:
    """It has to start under an interpreter that has no package at all."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import runpy; runpy.run_path({str(SCRIPT)!r})"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


_FETCHED = """\
WARNING: Location 'file:///srv/index/ray/' is ignored: it is neither a file nor a directory.
Ignoring colorama: markers 'sys_platform == "win32"' don't match your environment
Collecting six==1.17.0 (from -r requirements/cpu.txt (line 3))
  Using cached six-1.17.0-py2.py3-none-any.whl (11 kB)
Requirement already satisfied: torch==2.13.0+cpu in .venv/lib/python3.11/site-packages
"""


def test_what_pip_is_at(setup: ModuleType) -> None:
    assert setup.describe("", 0) == "reading the package index"
    assert setup.describe(_FETCHED, 0) == "2 packages fetched: torch"
    log = _FETCHED + "Installing collected packages: six, ray, mlflow\n"
    assert setup.describe(log, 2) == "2 of 3 packages installed"
    assert setup.describe(log, 9) == "3 of 3 packages installed"


def fake_pip(setup: ModuleType, script: str) -> None:
    """An environment whose interpreter is a shell script."""
    (setup.VENV / "bin").mkdir(parents=True)
    setup.python().write_text(f"#!/bin/sh\n{script}\n")
    setup.python().chmod(0o755)


def test_lines_without_a_terminal_and_no_noise(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup, "_LINE", 0.0)
    fake_pip(setup, f"cat >&2 <<'END'\n{_FETCHED}END\nsleep 0.6")
    assert setup.pip("six") == 0
    out, err = capsys.readouterr()
    assert err == "" and "Location" not in out and "\x1b" not in out and "\r" not in out
    assert set(out.splitlines()) <= {
        f"setup: {seconds} s  2 packages fetched: torch" for seconds in range(9)
    }
    assert out


def test_a_failure_shows_the_end_of_pips_log(
    setup: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_pip(setup, f"cat <<'END'\n{_FETCHED}ERROR: No matching distribution\nEND\nexit 1")
    assert setup.pip("six") == 1
    err = capsys.readouterr().err.splitlines()
    assert err[-2:] == ["ERROR: No matching distribution", f"(whole log: {setup.PIP_LOG})"]
    assert not [line for line in err if "Location" in line]
    assert setup.pip("six", quiet=True) == 1
    assert capsys.readouterr().err == ""
