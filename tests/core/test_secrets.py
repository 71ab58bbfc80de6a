"""A password or key among the parameters is refused before anything could write it down, and never
shown.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.runs import request
from tasks.core.errors import PipelineError
from tasks.core.params import Params, parse_params
from tasks.core.pool import Limits, Pool
from tasks.core.privacy import SILENT
from tasks.core.secrets import SECRET, hide
from tasks.core.stage import one_line_errors
from tasks.core.yaml_file import read_yaml
from tasks.ingest.sources import open_corpus
from tasks.tracking.mlflow_store import shown_uri
from tests.conftest import ROOT

_KEYS = [
    "hf_" + "a1B2" * 8,
    "sk-proj-" + "a1B2" * 8,
    "ghp_" + "a1B2" * 9,
    "AKIA" + "A1B2" * 4,
    "https://me:hunter2hunter2@host/models",
    "postgresql://me:p/w@h/base",
    "https://tokentokentoken@host/models",
    "https://store.blob.core.windows.net/a?sv=1&sig=" + "a1B2" * 8 + "%3D",
    "DefaultEndpointsProtocol=https;AccountKey=" + "a1B2" * 8 + "==",
    "github_pat_" + "a1B2" * 8,
    "-----BEGIN RSA PRIVATE KEY-----",
    "https://host/models?token=hunter2",
    "https://host/models?a=1&access_token=hunter2",
    "https://host/models?api_key=hunter2",
    "https://host/models#access_token=hunter2",
    "https://bucket.host/a?X-Amz-Security-Token=hunter2%2F",
    "https://bucket.host/a?x-amz-signature=0a1b2c",
    "https://bucket.host/a?Expires=5&Signature=hunter2%3D",
    "ftp://u:12/x@h",
    "sftp://hunter2hunter2@host",
    "gsk_" + "a1B2" * 13,
    "nvapi-" + "a1B2" * 16,
    "npm_" + "a1B2" * 9,
]


@pytest.mark.parametrize("secret", _KEYS)
def test_refused_and_not_repeated(secret: str) -> None:
    values = read_yaml(ROOT / "params.yaml")
    values["generate"]["generator"] = secret
    with pytest.raises(
        PipelineError, match=r"the value of generate\.generator looks like a password or a key"
    ) as refused:
        parse_params(values, "params.yaml")
    assert secret not in str(refused.value)


def test_nor_on_the_command_line() -> None:
    with pytest.raises(PipelineError, match=r"finetune\.model looks like") as refused:
        request.plan(ROOT, overrides=[f"finetune.model={_KEYS[0]}"], name="x")
    assert _KEYS[0] not in str(refused.value)


@pytest.mark.parametrize(
    "harmless",
    [
        "mistralai/Mistral-7B-v0.1",
        "data/incidents/documents",
        "http://127.0.0.1:5000",
        "http://127.0.0.1:5000/models/a@main",
        "s3://bucket/a@b",
        "ssh://git@host/repository",
        "/home/me/hf_models/sk-small",
        "ftp://ftp.example.org:2121/pub/a@b",
        "ftp://anonymous@ftp.example.org/pub",
        "abfs://container@account.dfs.core.windows.net/documents",
        "write to ann.secret@example.org: what is a token? Signature=none",
        "a/npm_packages_of_the_year/nvapi-docs?page=2&tokens=5&author=me",
    ],
)
def test_names_and_paths_pass(harmless: str) -> None:
    values = read_yaml(ROOT / "params.yaml")
    values["generate"]["generator"] = harmless
    assert parse_params(values, "params.yaml").generate.generator == harmless


def test_the_stores_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    assert shown_uri() == "http://***@127.0.0.1:9"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:p/w@h/base", "postgresql://***@h/base"),
        ("postgresql://me:p@w@h/base", "postgresql://***@h/base"),
        ("ftp://u:pw@h/x", "ftp://***@h/x"),
        ("cannot open 's3://bucket/a@b' here", "cannot open 's3://bucket/a@b' here"),
    ],
)
def test_addresses_are_shown_without_password(address: str, shown: str) -> None:
    assert hide(address) == shown


@pytest.mark.parametrize("secret", _KEYS)
def test_a_message_shows_no_secret(secret: str) -> None:
    shown = hide(f"cannot open {secret} here")
    assert shown.startswith("cannot open ") and shown.endswith(" here")
    assert not re.search(
        "hunter2|0a1b2c|a1B2|A1B2|12/x|p/w|token(?!=)", shown.replace("_token", "")
    )


@pytest.mark.parametrize(
    "piece", ["://a:", "eyJ-", "?a", "://a:@", "-----BEGIN ", "https://", "ftp://a:1/", "&token="]
)
def test_the_time_is_linear_in_the_text(piece: str) -> None:
    """A stranger's file has its place in messages: 100 kB took a minute."""
    began = time.process_time()
    hide(piece * (100_000 // len(piece)))
    SECRET.search(piece * (100_000 // len(piece)))
    assert time.process_time() - began < 10


@pytest.mark.parametrize("secret", _KEYS)
def test_a_run_is_not_named_after_a_secret(secret: str) -> None:
    asked = {"overrides": [f"generate.generator={secret}"], "profile": "default"}
    named = request.name_run(asked)
    assert not any(part in named for part in re.split(r"[^A-Za-z0-9.]+", secret) if len(part) > 5)
    assert secret not in request.name_run({"name": secret})
    with pytest.raises(PipelineError) as refused:
        request.plan(ROOT, name=secret)
    assert secret not in str(refused.value)


@pytest.mark.parametrize("pointer", [False, True])
def test_the_password_of_a_corpus_is_in_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: Params, pointer: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    address = "ftp://me:hunter2hunter2@127.0.0.1:9/x"
    (tmp_path / "a.address").write_text(address)
    with pytest.raises(PipelineError) as refused:
        place = "a.address" if pointer else address
        list(open_corpus(place, tmp_path / "s", params.ingest).files())
    assert "hunter2" not in str(refused.value) and "ftp://***@127.0.0.1" in str(refused.value)


def test_a_one_line_error_repeats_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    with one_line_errors("x"):
        raise PipelineError(f"{_KEYS[0]} is no setting")
    assert capsys.readouterr().err.strip().endswith("*** is no setting")


def _environment_of_a_command(**given: str) -> dict[str, str]:
    """Return the environment as a command of ours leaves it that was started in ``given``."""
    done = subprocess.run(
        [sys.executable, "-c", "import tasks, os, json; print(json.dumps(dict(os.environ)))"],
        cwd=ROOT,
        env={"PATH": os.defpath, "HOME": "/nowhere", **given},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (
            {"MLFLOW_TRACKING_URI": "https://me:a%40b%2Fc@h:5000/ml/"},
            {
                "MLFLOW_TRACKING_URI": "https://h:5000/ml",
                "MLFLOW_TRACKING_USERNAME": "me",
                "MLFLOW_TRACKING_PASSWORD": "a@b/c",
            },
        ),
        (
            {"MLFLOW_TRACKING_URI": "http://me:new@h", "MLFLOW_TRACKING_PASSWORD": "old"},
            {"MLFLOW_TRACKING_URI": "http://h", "MLFLOW_TRACKING_PASSWORD": "new"},
        ),
        (
            {"PREFECT_API_URL": "https://me:a%40b@h/api/"},
            {"PREFECT_API_URL": "https://h/api", "PREFECT_API_AUTH_STRING": "me:a@b"},
        ),
        ({"PREFECT_API_URL": "http://h/api//"}, {"PREFECT_API_URL": "http://h/api"}),
        (
            {"MLFLOW_TRACKING_URI": "http://token@h/"},
            {
                "MLFLOW_TRACKING_URI": "http://token@h",
                "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            },
        ),
        (
            {"MLFLOW_TRACKING_URI": "postgresql://me:pw@h/base/"},
            {"MLFLOW_TRACKING_URI": "postgresql://me:pw@h/base/", "MLFLOW_TRACKING_USERNAME": None},
        ),
        ({"PREFECT_API_URL": "http://[::1/api"}, {"PREFECT_API_URL": "http://[::1/api"}),
        ({"PREFECT_API_URL": ""}, {"PREFECT_API_URL": ""}),
    ],
)
def test_libraries_get_addresses_without_a_password(
    given: dict[str, str], wanted: dict[str, str | None]
) -> None:
    """MLflow and Prefect print the address of every run as the environment has it."""
    found = _environment_of_a_command(**given)
    assert {name: found.get(name) for name in wanted} == wanted


def test_a_proxy_is_not_asked_for_servers_of_this_machine() -> None:
    """A company's proxy knows none of them: a run waited for Prefect's in vain, and make serve for
    its own.
    """
    hosts = "127.0.0.1,localhost"
    for given, kept in ((None, hosts), ("a.org, b.org", f"a.org,b.org,{hosts}"), ("*", "*")):
        more = {} if given is None else {"NO_PROXY": given}
        found = _environment_of_a_command(**more)
        assert found["no_proxy"] == found["NO_PROXY"] == kept


def _look(*_: Any) -> Any:
    def do(_job: Any) -> Iterator[list[str]]:
        yield [json.dumps(dict(os.environ)), Path("/proc/self/environ").read_bytes().hex()]

    return do


def test_processes_that_read_strangers_files_have_no_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secrets = {
        "HF_TOKEN": _KEYS[0],
        "AWS_SECRET_ACCESS_KEY": "a1b2c3d4e5f6",
        "MLFLOW_TRACKING_PASSWORD": "correct-horse",
        "MLFLOW_TRACKING_URI": "http://me:battery-staple@h/",
        "MYSQL_PWD": "horse-battery",
        "PGPASSFILE": "/home/me/pgpass-file",
        "DB_PASSPHRASE": "staple-correct",
        "SENTRY_DSN": "sentry-0123456789",
        "TWINE_PASSWORD": "twine-0123456789",
        "OMP_PLACES": "https://host/?token=in-a-kept-name",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    with Pool(_look, (), 1, Limits(60.0, 256)) as pool:
        ((_, result),) = pool.map(["job"])
    seen = result.value[0].encode() + bytes.fromhex(result.value[1])
    kept = json.loads(result.value[0])
    assert {name: kept.get(name) for name in SILENT} == SILENT and kept["PATH"]
    assert not any(value.encode() in seen for value in secrets.values())
    assert os.environ["HF_TOKEN"] == _KEYS[0], "the stage itself fetches with it"
