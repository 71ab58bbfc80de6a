"""Cancel on Prefect's page for a run that a terminal began: no worker knows its process."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.runtime import deployment, flow_run

_SECONDS = 10.0
_CANCELLED = (StateType.CANCELLING, StateType.CANCELLED)
MESSAGE = "cancelled on the page; the same request continues it"


class CancelledOnPageError(Exception):
    """Someone cancelled the current run on Prefect's page."""


@contextlib.contextmanager
def heed_cancel() -> Iterator[None]:
    """Interrupt the block, as Ctrl-C does, within about ten seconds after the current run was
    cancelled on the page; it then ends with :class:`CancelledOnPageError`.

    Not where a worker began the run: the worker ends its process. Call it in the main thread.
    """
    if not flow_run.id or deployment.id or flow_run.parent_flow_run_id:
        yield
        return
    cancelled, ended = threading.Event(), threading.Event()
    main, run_id = threading.get_ident(), UUID(str(flow_run.id))
    # Not SIGINT: a shell that began the run in the background lets it ignore that.
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)

    def watch() -> None:
        with get_client(sync_client=True) as client:
            while not ended.wait(_SECONDS):
                with contextlib.suppress(Exception):  # the server may be away for a while
                    state = client.read_flow_run(run_id).state
                    if state and state.type in _CANCELLED and not ended.is_set():
                        cancelled.set()
                        return signal.pthread_kill(main, signal.SIGUSR1)

    threading.Thread(target=watch, daemon=True, name="cancelled").start()
    try:
        yield
    except KeyboardInterrupt:
        if cancelled.is_set():
            raise CancelledOnPageError from None
        raise
    finally:
        ended.set()
        signal.signal(signal.SIGUSR1, before)
