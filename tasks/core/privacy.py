"""Switch off the libraries' telemetry, update checks and remote code, and move their caches.

No single switch is read by all of them (MLflow ignores ``DO_NOT_TRACK=1``, vLLM ignores ``true``),
so each has its own. They are set before any library is imported. The hub's token is
never sent unasked; ``HF_TOKEN`` is sent for the models and datasets that settings name.
"""

from __future__ import annotations

import os
from pathlib import Path

#: Variable -> value that keeps data on this machine.
SILENT: dict[str, str] = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_MODEL_CATALOG_URI": "",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "DVC_NO_ANALYTICS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "ANONYMIZED_TELEMETRY": "false",
    "TOKENIZERS_PARALLELISM": "false",
}
_LOOPBACK = ("127.0.0.1", "localhost")
#: Caches that libraries would keep in HOME or in a temporary folder: variable -> their folder in
#: :func:`cache_folder`. DVC's would be /var/tmp/dvc, which everybody can write to; torch's would
#: have a name in /tmp that can be guessed.
CACHES: dict[str, str] = {
    "DVC_SITE_CACHE_DIR": "dvc",
    "MPLCONFIGDIR": "matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "VLLM_CACHE_ROOT": "vllm",
}


def silence() -> None:
    """Set :data:`SILENT` and :data:`CACHES` for this process and its children.

    A cache folder that the user has chosen stays. A proxy of the user's network is not asked for
    servers of this machine: it knows none of them.
    """
    os.environ.update(SILENT)
    hosts = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    if hosts != "*":
        given = filter(None, map(str.strip, hosts.split(",")))
        hosts = ",".join(dict.fromkeys((*given, *_LOOPBACK)))
    os.environ.update(no_proxy=hosts, NO_PROXY=hosts)
    for variable, name in CACHES.items():
        os.environ.setdefault(variable, str((cache_folder() / name).absolute()))


def cache_folder() -> Path:
    """Return where converted and merged checkpoints and the libraries' caches are kept.

    It is ``$BONITO_CACHE``, else ``bonito-pipeline`` in the user's cache folder. Nothing else
    outside the checkout is written.
    """
    if folder := os.environ.get("BONITO_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bonito-pipeline"
