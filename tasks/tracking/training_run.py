"""The MLflow run of a training: it shows the loss while the model trains."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tasks.core.secrets import first_line
from tasks.tracking.mlflow_store import (
    OWNER,
    TRAINING_KEY,
    close_orphans,
    connect,
    experiment_id,
    find_run,
    log_params,
    owner,
    refuse_scratch_store,
)

log = logging.getLogger(__name__)
#: Seconds.
_PAUSE = 15.0


@dataclass
class TrainingRun:
    """A run that takes loss points. Steps that it holds from before a kill are not logged twice.

    MLflow never stops or slows the training: points that the store does not take wait here and are
    sent with a later one. Points that still wait at the end are not lost: ``loss.csv`` holds all of
    them, and register logs those that the run lacks.
    """

    client: Any
    run_id: str
    last_step: int = 0
    waiting: list[tuple[str, float, int]] = field(default_factory=list)
    #: Seconds without another attempt after one that failed; doubled each time until one succeeds,
    #: so that a dead server costs a few attempts a day.
    pause: float = _PAUSE
    _silent_until: float = 0.0

    def metric(self, name: str, value: float, step: int) -> None:
        """Log one point, with those that wait."""
        if step <= self.last_step:
            return
        self.last_step = step
        self.waiting.append((name, value, step))
        if time.monotonic() >= self._silent_until:
            self.flush()

    def flush(self) -> None:
        """Send the points that wait."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(name, value, now, step) for name, value, step in self.waiting]
        try:
            for start in range(0, len(points), 500):
                self.client.log_batch(self.run_id, metrics=points[start : start + 500])
                self.waiting = self.waiting[500:]
            self.pause = _PAUSE
        except Exception as error:  # noqa: BLE001 - whatever a store raises, training continues
            log.warning(
                "MLflow does not answer (%s): %d points wait, loss.csv has them too",
                first_line(error),
                len(self.waiting),
            )
            self._silent_until = time.monotonic() + self.pause
            self.pause *= 2


@contextlib.contextmanager
def open_training_run(experiment: str, key: str, settings: dict[str, Any]) -> Iterator[TrainingRun]:
    """Open the MLflow run of this training, or the one that a killed process began.

    Training does not need the store: if it does not answer, register makes the run from what the
    adapter's folder holds. Only a store that DVC removes with its experiment ends it, at its start:
    register would refuse it after the training.
    """
    refuse_scratch_store()
    try:
        run = _begin(experiment, key, settings)
    except Exception as error:  # noqa: BLE001 - MLflow, SQLAlchemy and the network raise their own
        log.warning(
            "MLflow does not answer (%s): training continues without it, "
            "register will log the loss curve",
            first_line(error),
        )
        run = TrainingRun(None, "", _silent_until=float("inf"))
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    finally:
        if run.client is not None:
            _end(run, status)


def _begin(experiment: str, key: str, settings: dict[str, Any]) -> TrainingRun:
    client = connect()
    close_orphans(client, experiment)
    run = find_run(client, experiment, TRAINING_KEY, key, unregistered=True)
    if run is None:
        run = client.create_run(
            experiment_id(client, experiment),
            run_name=f"finetune-{key[:8]}",
            tags={TRAINING_KEY: key, OWNER: owner()},
        )
        named = {f"finetune.{name}": value for name, value in settings.items()}
        log_params(client, run.info.run_id, named)
    else:
        client.set_tag(run.info.run_id, OWNER, owner())
        client.update_run(run.info.run_id, status="RUNNING")
    history = client.get_metric_history(run.info.run_id, "train_loss")
    return TrainingRun(client, run.info.run_id, max((point.step for point in history), default=0))


def _end(run: TrainingRun, status: str) -> None:
    try:
        if run.waiting:
            run.flush()
        run.client.set_terminated(run.run_id, status)
    except Exception as error:  # noqa: BLE001 - the adapter counts; register or the next start ends the run
        log.warning("cannot end the MLflow run (%s): register will", first_line(error))
