"""Switch off every library's telemetry, update check and remote code, and put their caches into
ours, before any of them is imported.

No single switch silences all of them (``DO_NOT_TRACK=1`` leaves MLflow talking, ``true`` leaves
vLLM talking), so each has its own.
"""

from __future__ import annotations

import os
from pathlib import Path

#: What must hold for nothing to leave the machine: variable -> value.
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
#: Caches that libraries would keep in HOME or in a temporary folder: variable -> their folder in
#: :func:`cache_folder`. DVC's would be /var/tmp/dvc, which everybody can write to; torch's has a
#: name that can be guessed in /tmp.
CACHES: dict[str, str] = {
    "DVC_SITE_CACHE_DIR": "dvc",
    "MPLCONFIGDIR": "matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "VLLM_CACHE_ROOT": "vllm",
}


def silence() -> None:
    """Put :data:`SILENT` and :data:`CACHES` into this process's environment, and so into its
    children's.

    A cache that the user has put somewhere stays there.
    """
    os.environ.update(SILENT)
    for variable, name in CACHES.items():
        os.environ.setdefault(variable, str((cache_folder() / name).absolute()))


def cache_folder() -> Path:
    """Return where converted and merged checkpoints and the libraries' caches are kept.

    It is ``$BONITO_CACHE``, else ``bonito-pipeline`` in the user's cache folder. Nothing else
    outside the checkout is written.
    """
    given = os.environ.get("BONITO_CACHE")
    return (
        Path(given)
        if given
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bonito-pipeline"
    )
