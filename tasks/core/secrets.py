"""Passwords and keys: what looks like one, hiding it in messages, and forgetting those of the
environment in processes that need none.
"""

from __future__ import annotations

import ctypes
import os
import re

#: Keys of Hugging Face, OpenAI, GitHub, GitLab, Slack, Google, Amazon and Azure, private keys, web
#: tokens.
_KEY = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|\bgithub_pat_\w{20,}|\bglpat-[\w-]{20,}|\bxox[abprs]-[\w-]{10,}|\bAIza[\w-]{30,}"
    r"|\bA(?:KIA|SIA)[A-Z0-9]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY|\beyJ[\w-]{10,}\.[\w-]{10,}\."
    r"|\b(?:AccountKey|SharedAccessKey|sig|X-Amz-Signature)=[\w%+/-]{10,}=*"
)
#: What no parameter may hold: keys, and addresses with a password or token (a port is none).
SECRET = re.compile(rf"{_KEY.pattern}|://[^/\s:@]+:(?!\d+/)[^\s@]+@|https?://[^/\s@]+@")
#: An @ before the first slash ends the password, else the first one behind it does.
_USER = re.compile(r"://[^/\s:@]*(?::(?:[^\s/]*|[^\s@]*))?@")
_NAMES = re.compile(r"TOKEN(?!IZ)|SECRET|PASSW|_KEY|AUTH|CREDENTIAL|COOKIE", re.IGNORECASE)


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


def forget_secrets() -> None:
    """Remove passwords and keys from this process's environment, also from the copy that the system
    shows in ``/proc``: a parser of strangers' files needs none.
    """
    library = ctypes.CDLL(None)
    library.getenv.restype = ctypes.c_void_p
    for name, value in [*os.environ.items()]:
        if _NAMES.search(name) or hide(value) != value:
            if place := library.getenv(os.fsencode(name)):
                ctypes.memset(place, 0, len(os.fsencode(value)))
            del os.environ[name]
