"""An inference engine behind an OpenAI-compatible address."""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx

from tasks.core.errors import PipelineError
from tasks.lm.engine import Completion, OnDone, Sampling

log = logging.getLogger(__name__)
#: Setting of an address -> environment variable that holds its key, where it asks for one.
KEY_OF = {"generate.address": "GENERATOR_API_KEY", "verify.address": "READER_API_KEY"}
_AT_ONCE = 16
_SECONDS = 300
#: Seconds to wait before a request is made again: a server may be busy, or just starting.
_WAITS = (0.5, 2.0)
_BUSY = {429, 502, 503, 504}


class AddressEngine:
    """Chat completions from an OpenAI-compatible address.

    Prompts are messages as text; each request carries its own seed.
    """

    def __init__(self, address: str, model: str, setting: str) -> None:
        """``address`` is such as ``http://127.0.0.1:8000/v1``; nothing is sent anywhere else,
        redirections are not followed.

        ``setting`` names the address in messages; :data:`KEY_OF` says where its key is. With a key
        the address of another machine must be https.
        """
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise PipelineError(
                f"{setting} = {address!r} is no http address: write it as http://127.0.0.1:8000/v1"
            )
        self._key = os.environ.get(KEY_OF[setting], "")
        self._url, self._model = f"{address.rstrip('/')}/chat/completions", model
        loopback = parts.hostname in ("127.0.0.1", "localhost", "::1")
        if self._key and parts.scheme == "http" and not loopback:
            raise PipelineError(
                f"{setting}: {KEY_OF[setting]} would be sent in clear to {parts.hostname}: write "
                "the address with https, or unset the key"
            )
        if not loopback:
            log.warning("%s: the passages are sent to %s", setting, parts.hostname)
        try:
            # Proxies of the environment are for other machines. A connection is dropped before a
            # server would drop it, which is after 5 s.
            limits = httpx.Limits(keepalive_expiry=1.0)
            self._client = httpx.Client(
                timeout=_SECONDS,
                limits=limits,
                trust_env=not loopback,
                verify=ssl.create_default_context(),
            )
        except (ImportError, ValueError) as error:
            raise PipelineError(
                f"{setting}: the proxy that the environment names cannot be used ({error})"
            ) from error

    def generate(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
        on_done: OnDone | None = None,
    ) -> list[Completion]:
        """Complete every message, in order; a refused request is a :class:`PipelineError`."""
        completions = []
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for completion in pool.map(
                lambda pair: self._complete(pair[0], sampling, pair[1]),
                zip(prompts, seeds, strict=True),
            ):
                completions.append(completion)
                if on_done:
                    on_done(1)
        return completions

    def _complete(self, message: str, sampling: Sampling, seed: int) -> Completion:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": message}],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": seed,
        }
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            response = self._post(body, headers)
            if not response.is_success:
                raise PipelineError(
                    f"{self._url} answers {response.status_code}: {response.text[:300]}"
                )
            answer = response.json()
            choice = answer["choices"][0]
            text = str(choice["message"]["content"] or "")
            tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
            return Completion(text, tokens, choice.get("finish_reason") == "stop")
        except (
            httpx.HTTPError,
            httpx.InvalidURL,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
        ) as error:
            raise PipelineError(
                f"{self._url} gives no usable chat completion ({type(error).__name__}: "
                f"{error}): is the server up?"
            ) from error

    def _post(self, body: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
        """Send a request; one that met a busy server or a broken connection is sent again."""
        for wait in _WAITS:
            try:
                response = self._client.post(self._url, json=body, headers=headers)
                if response.status_code not in _BUSY:
                    return response
            except httpx.TransportError as error:
                log.debug("%s: %s", self._url, error)
            time.sleep(wait)
        return self._client.post(self._url, json=body, headers=headers)
