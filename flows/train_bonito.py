"""The generator's own training as a Prefect flow: remix > finetune of ``bonito/``, each module a task run of its own.

Annotations are not postponed in this module: a deployment loads it by file name, and then Prefect cannot look up their names.
"""

import sys
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field

from flows import checkout
from flows.child import CODE
from flows.reconcile import end_dead_runs, sign
from flows.reproduce import follow, line_that_matters
from flows.server import settle
from tasks.errors import PipelineError

_NAME = "train-bonito"
File = Annotated[str, Field(max_length=1000)]


def _name(_: dict[str, Any]) -> str:
    return _NAME


@flow(name=_NAME, flow_run_name=_NAME)
def train_bonito(params: File = "bonito/params.yaml", sources: File = "local/sources.yaml", templates: File = "local/templates") -> State[Any]:
    """Make a Bonito generator from annotated datasets: the CTGA remix of their templates, then training.

    Args:
        params: Settings of the remix and the training, see bonito/params.yaml.
        sources: A file that lists annotated datasets, see docs/generator.md.
        templates: Folder of promptsource templates.
    """
    log = get_run_logger()
    settle(CODE)
    try:
        for path in (params, sources, templates):
            if not (CODE / path).exists():
                raise PipelineError(f"{path} does not exist in {CODE}: see docs/generator.md")
        with checkout.hold(checkout.Run(_NAME, CODE, CODE, {})):
            sign()
            end_dead_runs(_NAME, log.info, _NAME, _name)
            inputs = ["--params", params, "--templates", templates, "--sources", sources, "--out", "local/remix"]
            run_module.with_options(task_run_name="remix")("bonito.remix", inputs)
            inputs = ["--params", params, "--rows", "local/remix/train.parquet", "--out", "local/generator"]
            run_module.with_options(task_run_name="finetune")("bonito.finetune", inputs)
    except PipelineError as error:
        return Failed(message=str(error))
    return Completed(message="the generator is in local/generator")


@task(persist_result=False)
def run_module(module: str, arguments: list[str]) -> None:
    """Run one module; a killed one goes on where it stopped when it is run again."""
    log = get_run_logger()
    lines, code = follow([sys.executable, "-m", module, *arguments], CODE, log.info, {"PIPELINE_FLOW_RUN": str(flow_run.id or "")})
    if code:
        raise PipelineError(line_that_matters(lines, code))
