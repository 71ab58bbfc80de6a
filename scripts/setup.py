"""Make ``.venv`` from the pins: ``python3 scripts/setup.py``. A second call returns at once.

Uses only the standard library. Starts under Python 3.9 or newer and looks for 3.11 to 3.14 to make
the environment with. DEVICE=cpu or DEVICE=gpu chooses the pins; by default the GPU's, where an
NVIDIA driver answers.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
#: Written last: the pins of the finished environment.
STAMP = VENV / "pins.sha256"
#: Exists while packages are installed: an environment that has it is incomplete.
UNFINISHED = VENV / "unfinished"
SUPPORTED = ("3.11", "3.12", "3.13", "3.14")
#: Index of torch's CPU builds for Linux: the public registry has the CUDA build, which cannot be
#: imported without CUDA's libraries.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
#: pip's whole output. It warns hundreds of times of packages that a configured index lacks.
PIP_LOG = ROOT / ".work" / "setup.log"
_NOISE = "WARNING: Location "
#: Seconds between polls of pip, and between lines where there is no terminal.
_LOOK, _LINE = 0.25, 20.0


class SetupError(Exception):
    """An error that the user can fix."""


def main() -> int:
    """Set up, or print a one-line error."""
    try:
        (ROOT / ".work").mkdir(exist_ok=True)
        with (ROOT / ".work" / "setup.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            set_up(choose_device())
    except (SetupError, OSError) as error:  # OSError: another user's clone or .venv, a full disk
        print(f"error: setup: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: run the same command to start again", file=sys.stderr)
        return 130
    return 0


def set_up(device: str) -> None:
    """Make ``.venv`` match the pins of ``device``; packages of a complete earlier call are kept."""
    pins = ROOT / "requirements" / f"{device}.txt"
    if not pins.is_file():
        raise SetupError(f"{pins} does not exist: is this a whole clone?")
    wanted = hashlib.sha256(pins.read_bytes()).hexdigest() + f" {device}\n"
    if STAMP.is_file() and STAMP.read_text() == wanted and python().exists():
        return
    started = time.monotonic()
    tell_driver()
    make_environment()
    print(
        f"setup: installing {pins.relative_to(ROOT)} into .venv (minutes the first time)",
        flush=True,
    )
    UNFINISHED.touch()
    install(pins, device)
    UNFINISHED.unlink()
    prove()
    if device == "gpu" and ask_driver()[0]:  # an image may be built where there is no GPU
        prove_card()
    STAMP.write_text(wanted)
    print(f"setup: done in {duration(time.monotonic() - started)}", flush=True)


def choose_device() -> str:
    """Return ``gpu`` where an NVIDIA driver answers, else ``cpu``; DEVICE overrides it."""
    device = os.environ.get("DEVICE", "")
    if device in ("cpu", "gpu"):
        return device
    if device:
        raise SetupError(f"DEVICE={device!r} is unknown: cpu or gpu")
    return "gpu" if ask_driver()[0] else "cpu"


def tell_driver() -> None:
    """Say that a driver names no GPU, if so: its GPU would stand idle without a word."""
    names_a_gpu, said = ask_driver()
    if said and not names_a_gpu and not os.environ.get("DEVICE"):
        print(
            f"setup: nvidia-smi names no GPU ({said}): taking the packages for the CPU. Mend the "
            "driver and call make setup again, or DEVICE=gpu make setup",
            flush=True,
        )


def ask_driver() -> tuple[bool, str]:
    """Tell whether an NVIDIA driver names a GPU, and the first line that it says; an empty one
    where there is no driver.
    """
    if shutil.which("nvidia-smi") is None:
        return False, ""
    seen = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    lines = [*seen.stdout.split("\n"), *seen.stderr.split("\n"), f"status {seen.returncode}"]
    said = next(line.strip() for line in lines if line.strip())
    return seen.returncode == 0 and "GPU" in seen.stdout, said


def make_environment() -> None:
    """Make ``.venv`` unless there is a complete one of a supported Python."""
    if version_of(str(python())) in SUPPORTED and not UNFINISHED.exists():
        return
    made = subprocess.run(
        [find_python(), "-m", "venv", "--clear", str(VENV)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        output = " ".join((made.stdout + made.stderr).split())[:300]
        raise SetupError(
            "no virtual environment can be made (on Debian and Ubuntu: apt install "
            f"python3-venv): {output}"
        )


def find_python() -> str:
    """Return a supported Python: the current one, else one on PATH."""
    for candidate in (sys.executable, *(shutil.which(f"python{version}") for version in SUPPORTED)):
        if candidate and version_of(candidate) in SUPPORTED:
            return candidate
    here = ".".join(map(str, sys.version_info[:2]))
    raise SetupError(
        f"Python {SUPPORTED[0]} to {SUPPORTED[-1]} is needed; python3 is {here}, and none of "
        f"{', '.join(f'python{version}' for version in SUPPORTED)} is on PATH"
    )


def version_of(interpreter: str) -> str:
    """Return an interpreter's version such as ``3.11``; empty if it cannot run (a dead shim)."""
    ask = "import sys; print('.'.join(map(str, sys.version_info[:2])))"
    try:
        done = subprocess.run(
            [interpreter, "-c", ask], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def install(pins: Path, device: str) -> None:
    """Install exactly the pins, without resolving: that would add what requirements/*.excludes
    leaves out.
    """
    if device == "cpu" and sys.platform == "linux":
        torch = f"torch=={pinned_torch(pins)}+cpu"
        if pip("--no-deps", torch, quiet=True) and pip(
            "--no-deps", "--index-url", TORCH_CPU_INDEX, torch
        ):
            fail(
                f"the CPU build of torch ({torch}) is neither in pip's configured index nor at "
                f"{TORCH_CPU_INDEX}"
            )
    if pip("--no-deps", "--requirement", str(pins)):
        fail("pip failed, its message is above; run the same command again to continue")


def pinned_torch(pins: Path) -> str:
    """Return torch's version in the pins."""
    found = re.search(r"^torch==([0-9.]+)", pins.read_text(), re.MULTILINE)
    if found is None:
        raise SetupError(f"{pins} does not pin torch: make lock")
    return found[1]


def pip(*arguments: str, quiet: bool = False) -> int:
    """Run the environment's ``pip install``, show its progress, and return its exit status.

    On failure its last lines are printed, unless ``quiet``.
    """
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    command = [str(python()), "-m", "pip", "install", *options, *arguments]
    PIP_LOG.parent.mkdir(parents=True, exist_ok=True)
    before = len(installed())
    with (
        PIP_LOG.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        ) as process,
    ):
        watch(process, before)
    if process.returncode and not quiet:
        print(*last_lines(PIP_LOG.read_text(encoding="utf-8")), sep="\n", file=sys.stderr)
        print(f"(whole log: {PIP_LOG})", file=sys.stderr)
    return process.returncode


def watch(process: subprocess.Popen[bytes], before: int) -> None:
    """Show pip's progress until it ends: a redrawn line in a terminal, else a line every 20 s.

    ``before`` is the number of packages at its start.
    """
    terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    started = shown = time.monotonic()
    while process.poll() is None:
        time.sleep(_LOOK)
        now = time.monotonic()
        if not terminal and now - shown < _LINE:
            continue
        shown = now
        text = describe(PIP_LOG.read_text(encoding="utf-8"), len(installed()) - before)
        line = f"setup: {duration(now - started)}  {text}"
        width = shutil.get_terminal_size().columns - 1
        print(
            f"\r{line[:width]}\033[K" if terminal else line,
            end="" if terminal else "\n",
            flush=True,
        )
    if terminal:
        print("\r\033[K", end="", flush=True)


def describe(log: str, new: int) -> str:
    """Return pip's progress from its log: packages fetched, then installed (``new``)."""
    installing = re.search(r"^Installing collected packages: (.*)", log, re.MULTILINE)
    if installing:
        total = len(installing[1].split(", "))
        return f"{min(new, total)} of {total} packages installed"
    fetched = re.findall(
        r"^(?:Collecting|Requirement already satisfied:) ([^\s=;]+)", log, re.MULTILINE
    )
    return (
        f"{len(fetched)} packages fetched: {fetched[-1]}"
        if fetched
        else "reading the package index"
    )


def last_lines(log: str, count: int = 12) -> list[str]:
    """Return the last lines of pip's log without its noise."""
    return [line for line in log.splitlines() if line.strip() and _NOISE not in line][-count:]


def installed() -> list[Path]:
    """Return the folder of each package in ``.venv``."""
    return list(VENV.glob("lib/python*/site-packages/*.dist-info"))


def duration(seconds: float) -> str:
    """Return ``2 min 47 s``, or ``47 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def fail(message: str) -> None:
    """Stop with an error; pip has ended, so what it installed is complete and is kept."""
    UNFINISHED.unlink(missing_ok=True)
    raise SetupError(message)


def prove() -> None:
    """Import torch, of which a wrong build is the usual fault."""
    done = subprocess.run(
        [str(python()), "-c", "import torch"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        output = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise SetupError(
            f"torch is installed but does not import ({output}): remove .venv and try "
            "again, or choose DEVICE=cpu"
        )


#: Ends with a line on stderr where torch cannot use the GPU as the pipeline needs it.
_CARD = """
import sys, sysconfig
from pathlib import Path
import torch
if not torch.cuda.is_available():
    sys.exit(f"torch finds no GPU: CUDA {torch.version.cuda} needs a newer NVIDIA driver (CUDA 13: "
             "580 or newer)")
name, capability = torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0)
if capability < (8, 0):
    sys.exit(f"{name} does not compute in bfloat16: compute capability 8.0 or newer is needed")
if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
    sys.exit("Python.h is missing, which Triton compiles with: install python3-dev")
try:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    ones = torch.ones(64, 64, dtype=torch.bfloat16, device="cuda")
    back = dequantize_4bit(*quantize_4bit(ones @ ones, quant_type="nf4"))
    wrong = "" if back.float().mean() == 64 else "the result is wrong"
except Exception as error:
    wrong = (str(error).splitlines() or [type(error).__name__])[0]
if wrong:
    sys.exit(f"a product on {name}, rounded to 4 bits, fails: {wrong}")
free, total = (size / 2**30 for size in torch.cuda.mem_get_info(0))
print(f"{name}, CUDA {torch.version.cuda}, {free:.0f} of {total:.0f} GiB free")
"""


def prove_card() -> None:
    """Ask torch for the GPU, bfloat16 and free memory, compute a product and round it to 4 bits
    there, and look for a C compiler.

    Otherwise the GPU's pins would run on the CPU without a word, or fail at the first kernel.
    """
    if not (shutil.which("cc") or shutil.which("gcc")):
        raise SetupError(
            "there is no C compiler, and vLLM compiles kernels when it starts: install gcc, or "
            "choose DEVICE=cpu"
        )
    done = subprocess.run([str(python()), "-c", _CARD], capture_output=True, text=True, check=False)
    if done.returncode:
        output = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise SetupError(f"the GPU cannot be used ({output}), or choose DEVICE=cpu")
    print(f"setup: {done.stdout.strip()}", flush=True)


def python() -> Path:
    """Return the environment's interpreter."""
    return VENV / "bin" / "python"


if __name__ == "__main__":
    sys.exit(main())
