"""Passwords and keys: what looks like one, hiding it in messages, and forgetting those of the
environment in processes that need none.
"""

from __future__ import annotations

import ctypes
import os
import re

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


def forget_secrets() -> None:
    """Remove from this process's environment what a parser of untrusted files does not need, also
    from the copy that the system shows in ``/proc``: no list names all that may be a password.

    It keeps the paths, the language, the threads, and the switches of
    :mod:`tasks.core.privacy`.
    """
    library = ctypes.CDLL(None)
    library.getenv.restype = ctypes.c_void_p
    for name, value in [*os.environ.items()]:
        kept = _NEEDED.fullmatch(name) or name in SILENT or name in CACHES
        if not kept or hide(value) != value:
            if place := library.getenv(os.fsencode(name)):
                ctypes.memset(place, 0, len(os.fsencode(value)))
            del os.environ[name]
