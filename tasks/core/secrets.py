"""Passwords and keys: what looks like one, hiding it in messages, taking it out of addresses, and
forgetting those of the environment in processes that need none.
"""

from __future__ import annotations

import ctypes
import os
import re
from urllib.parse import unquote, urlsplit

from tasks.core.privacy import CACHES, SILENT

#: Keys of Hugging Face, OpenAI, GitHub, GitLab, Slack, Google, Amazon, Azure, Groq, NVIDIA and npm,
#: private keys, web tokens, and what an address gives as its token, signature, password or key.
#: What repeats has an end wherever two matches could overlap: the time is linear in the text.
_KEY = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|\bgithub_pat_\w{20,}|\bglpat-[\w-]{20,}|\bxox[abprs]-[\w-]{10,}|\bAIza[\w-]{30,}"
    r"|\bgsk_[A-Za-z0-9]{20,}|\bnvapi-[\w-]{20,}|\bnpm_[A-Za-z0-9]{20,}"
    r"|\bA(?:KIA|SIA)[A-Z0-9]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\beyJ[\w-]{10,500}\.[\w-]{10,5000}\."
    r"|\b(?:AccountKey|SharedAccessKey|sig|X-Amz-Signature)=[\w%+/-]{10,}=*"
    r"|[?&#](?i:[\w-]{0,40}(?:token|signature|secret|passw(?:or)?d|pwd|api[_-]?key|access[_-]?key"
    r"|auth))=[^&#\s\"']+"
)
#: What no parameter may hold: keys, and addresses with a password or token. A port is none, but
#: before the path of an FTP server without a dot in its name it may be a password's beginning.
SECRET = re.compile(
    rf"{_KEY.pattern}|://[^/\s:@]+:(?!\d+/)[^\s@]{{1,400}}@"
    r"|(?:https?|ftps?)://(?!anonymous@)[^/\s@]+@|ftps?://[^/\s:@.]+:\d+/[^\s@]{0,400}@"
)
#: An @ before the first slash ends the password, else the first one after it does.
_USER = re.compile(r"://[^/\s:@]*(?::(?:[^\s/]*|[^\s@]{0,400}))?@")
#: The variables that a parser and its libraries need: the others may hold anything.
_NEEDED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|PWD|LANG|LANGUAGE|LC_[A-Z]+|TZ|TZDIR|TMPDIR|TEMP|TMP|TERM"
    r"|PYTHON[A-Z]+|LD_[A-Z_]+|[A-Z]+_NUM_THREADS|OMP_[A-Z_]+|MALLOC_[A-Z_]+|TESSDATA_PREFIX"
    r"|XDG_[A-Z_]+|BONITO_CACHE"
)


def hide(text: str) -> str:
    """Return ``text`` with ``***`` for user and password of addresses, and for keys."""
    return _KEY.sub("***", _USER.sub("://***@", text))


def first_line(error: BaseException) -> str:
    """Return an error's first line, its kind where it has none, without passwords, cut to 300
    characters.
    """
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return hide(line)[:300]


def hub_token() -> str | None:
    """Return the user's token for the Hugging Face hub; None where there is none.

    It is sent for what a setting names alone: :mod:`tasks.core.privacy` keeps the libraries from
    sending it unasked.
    """
    return os.environ.get("HF_TOKEN") or None


def bare_address(address: str) -> str:
    """Return an address without user and password, and without the slash at its end."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")


def take_passwords_out_of_addresses() -> None:
    """Give MLflow and Prefect the addresses of their servers without user, password and the slash
    at their end, and the password by the variable that each has for it: both print an address as
    it is.

    A user without a password stays, for MLflow takes none from a variable; it then prints nothing.
    """
    if found := _split_address("MLFLOW_TRACKING_URI"):
        bare, address, user, password = found
        _replace("MLFLOW_TRACKING_URI", bare if password else address)
        if password:
            _replace("MLFLOW_TRACKING_USERNAME", user)
            _replace("MLFLOW_TRACKING_PASSWORD", password)
        elif user:
            os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    if found := _split_address("PREFECT_API_URL"):
        bare, _, user, password = found
        _replace("PREFECT_API_URL", bare)
        if user:
            _replace("PREFECT_API_AUTH_STRING", f"{user}:{password}")


def _split_address(variable: str) -> tuple[str, str, str, str] | None:
    """Return the http address in a variable without and with its user, the user, and the password;
    None where it holds no such address.
    """
    address = os.environ.get(variable, "").rstrip("/")
    try:
        parts = urlsplit(address)
    except ValueError:  # the library says what is wrong
        return None
    if parts.scheme not in ("http", "https"):
        return None
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return bare_address(address), address, user, password


def _replace(variable: str, value: str) -> None:
    if variable in os.environ:
        _erase(variable)
    os.environ[variable] = value


def _erase(variable: str) -> None:
    """Remove a variable, also from the copy that the system shows in ``/proc``."""
    library = ctypes.CDLL(None)
    library.getenv.restype = ctypes.c_void_p
    if place := library.getenv(os.fsencode(variable)):
        ctypes.memset(place, 0, len(os.fsencode(os.environ[variable])))
    del os.environ[variable]


def forget_secrets() -> None:
    """Remove from this process's environment what a parser of untrusted files does not need, also
    from the copy that the system shows in ``/proc``: no list names all that may be a password.

    It keeps the paths, the language, the threads, and the switches of
    :mod:`tasks.core.privacy`.
    """
    for name, value in [*os.environ.items()]:
        kept = _NEEDED.fullmatch(name) or name in SILENT or name in CACHES
        if not kept or hide(value) != value:
            _erase(name)
