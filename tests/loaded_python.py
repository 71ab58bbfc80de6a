"""A ``python`` whose libraries are loaded. A graph's stages import torch and what builds on it, four
seconds each; those that this one runs are forked from a process that has imported it once.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import secrets
import shlex
import site
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LIBRARIES = (
    "pyarrow.parquet",
    "pandas",
    "torch",
    "transformers.trainer",
    "transformers.models.llama.modeling_llama",
    "peft",
    "bitsandbytes",
    "great_expectations.render.renderer",
    "mlflow.store.tracking.sqlalchemy_store",
)
#: What a child imports again: its own code may be another, and looks at its own process.
_OURS = ("tasks", "bonito", "sitecustomize")
_READY = "ready\n"
#: The most bytes of a request: arguments and environment.
_LONGEST = 1 << 17
_ASK = """
import json, os, socket, sys
asked = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as loaded:
    loaded.connect({address!r})
    socket.send_fds(loaded, [json.dumps(asked).encode()], [0, 1, 2])
    status = int(loaded.recv(16) or 1)
sys.exit(status if status >= 0 else 128 - status)
"""


@contextmanager
def load_python(root: Path, folder: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    """Lend a folder for the PATH, made in ``folder``, whose ``python -m module`` is forked from a
    process that has imported the libraries, and ``tasks`` of ``root`` for its switches.

    Raises :class:`AssertionError` where a library prints something as it is imported.
    """
    address = f"\0{secrets.token_hex(16)}"  # in no file system
    command = folder / "bin" / "python"
    command.parent.mkdir()
    asks = command.with_name("ask.py")
    asks.write_text(_ASK.format(address=address))
    command.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -IS {shlex.quote(str(asks))} "$@"\n'
    )
    command.chmod(0o755)
    # -P: the modules beside this one are none of its own.
    loaded = subprocess.Popen(
        [sys.executable, "-P", __file__, address[1:]],
        cwd=root,
        env={**environment, "PYTHONPATH": f"{environment['PYTHONPATH']}{os.pathsep}{root}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert loaded.stdout is not None
    try:
        told = loaded.stdout.readline()
        assert told == _READY, told + loaded.stdout.read()
        yield command.parent
    finally:
        loaded.kill()  # a stage that runs dies with it
        loaded.communicate()


def _serve(address: str) -> None:
    """Fork a child for each request."""
    importlib.import_module("tasks")
    for name in _LIBRARIES:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] in _OURS]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()  # else each child would copy all of their memory
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as requests:
        requests.bind(f"\0{address}")
        requests.listen()
        print(_READY, end="", flush=True)
        while True:
            connection, _ = requests.accept()
            with connection:
                request, descriptors, _, _ = socket.recv_fds(connection, _LONGEST, 3)
                if (pid := os.fork()) == 0:
                    break
                for descriptor in descriptors:
                    os.close(descriptor)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                connection.send(str(status).encode())
    _become(json.loads(request), descriptors)


def _become(asked: dict[str, Any], descriptors: list[int]) -> None:
    """Run the module of a request as ``python -m`` does."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    flag, module, *arguments = asked["arguments"]
    assert flag == "-m", asked["arguments"]
    sys.orig_argv = [sys.executable, flag, module, *arguments]
    sys.argv = [module, *arguments]
    sys.path.insert(0, asked["folder"])
    site.execsitecustomize()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
