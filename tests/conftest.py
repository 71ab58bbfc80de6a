"""Fixtures: a tiny random language model (the only thing faked is its knowledge), and small files
of every row type.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core import code
from tasks.core.card import card_bytes
from tasks.core.files import write_json
from tasks.core.lock import hold_lock
from tasks.core.overlay import overlay
from tasks.core.params import Params, parse_params
from tasks.core.parquet import write_table
from tasks.core.rows import INSTRUCTIONS, PASSAGES
from tasks.core.yaml_file import read_yaml

ROOT = Path(__file__).resolve().parents[1]
# Garbage is collected seldom: while the libraries are imported Python would look through them again
# and again, a sixth of the time that it takes. What the tests start reads tests/early.
gc.set_threshold(10_000, 20, 20)
EARLY = str(ROOT / "tests/early")
if EARLY not in (_PATHS := os.environ.get("PYTHONPATH", "").split(os.pathsep)):
    # Last: a sitecustomize of the soak counts the recovery branches, and would be hidden.
    os.environ["PYTHONPATH"] = os.pathsep.join([*filter(None, _PATHS), EARLY])
# Bytecode is kept, whatever the user's Python does: the tests start hundreds of processes that would
# each compile our code.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# A process of pytest-xdist has the width of a terminal that it does not write to.
os.environ.pop("COLUMNS", None)
# Prefect and the hub's libraries make these folders when they are imported: not in the user's home,
# and not one for two of the processes that `make test` shares the tests among.
_OWN = ROOT / ".work" / "tests" / os.environ.get("PYTEST_XDIST_WORKER", "main")
os.environ["PREFECT_HOME"] = str(_OWN / "prefect")
os.environ["HF_HOME"] = str(_OWN / "huggingface")
# A shell that starts the tests in the background lets them ignore Ctrl-C, and what they start with
# them: some of that is to be stopped by it.
signal.signal(signal.SIGINT, signal.default_int_handler)
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}{% if "
    "add_generation_prompt %}<|im_start|>{% endif %}"
)


def pytest_sessionstart() -> None:
    """End where torch sees a GPU: the tests compare sums of a CPU, and share it between processes."""
    if card_bytes() is not None:
        pytest.exit(
            "the tests are for the CPU's packages: give DEVICE=cpu make test in another clone; "
            "make gpu-check tests this card",
            returncode=2,
        )


#: Files that take longest, the longest first: `make test` gives them out in this order, so that no
#: long one is the last.
LONGEST = (
    "tests/flows/test_flows.py",
    "tests/test_whole_graph.py",
    "tests/flows/test_follow.py",
    "tests/faults/test_faults.py",
    "tests/bonito/test_graph.py",
    "tests/core/test_processes.py",
    "tests/flows/test_limits.py",
    "tests/lm/test_memory.py",
    "tests/flows/test_matrix.py",
    "tests/flows/test_deploy.py",
    "tests/test_dvc_tables.py",
    "tests/core/test_ray_workers.py",
    "tests/ingest/test_ingest.py",
    "tests/start/test_plan.py",
    "tests/benchmarks/test_benchmarks.py",
    "tests/core/test_network.py",
    "tests/evaluate/test_evaluate.py",
    "tests/generate/test_generate.py",
    "tests/ingest/test_read_again.py",
    "tests/flows/test_live.py",
    "tests/core/test_pool.py",
    "tests/start/test_start.py",
    "tests/verify/test_verify.py",
    "tests/start/test_look.py",
    "tests/flows/test_shared_runs.py",
    "tests/benchmarks/test_data.py",
    "tests/validate/test_validate.py",
    "tests/core/test_privacy.py",
    "tests/review/test_why.py",
    "tests/bonito/test_evaluate.py",
    "tests/lm/test_memory_stages.py",
    "tests/verify/test_memory.py",
    "tests/register/test_card.py",
    "tests/register/test_parity.py",
    "tests/release/test_release.py",
)
#: Files that use vLLM in their own process, whose import takes six seconds: one process gets them
#: all.
VLLM = (
    "tests/lm/test_memory.py",
    "tests/lm/test_engine.py",
    "tests/lm/test_nucleus.py",
    "tests/lm/test_weight_files.py",
    "tests/test_serve.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    places = {ROOT / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


#: What a process removes when it ends: tests/toy.py's repository, sockets, vLLM's meeting place.
_UNTIL_THE_END = ("toy-", "pymp-", "vllm_dist_")


@pytest.fixture(scope="session")
def _system_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in the place of the system's for temporary files, for this process alone."""
    tmp_path_factory.getbasetemp()  # pytest's own is not in it
    folder, before = Path(tempfile.mkdtemp(prefix="tests-")), tempfile.tempdir
    tempfile.tempdir = str(folder)
    yield folder
    tempfile.tempdir = before
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _nothing_temporary_is_left(_system_folder: Path) -> Iterator[None]:
    """Fail where a test leaves a temporary file, as CI does for all of them together."""
    before = set(_system_folder.iterdir())
    yield
    left = [path.name for path in set(_system_folder.iterdir()) - before]
    left = [name for name in left if not name.startswith(_UNTIL_THE_END)]
    assert not left, f"left in the system's folder for temporary files: {left}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are processors, where there is memory for it: part of the time
    the tests wait for servers, polls and processes that end.
    """
    processors = psutil.cpu_count() or 1
    return processors + (psutil.virtual_memory().total > 12 * 2**30)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give out files as ``--dist=loadfile`` does, those of :data:`VLLM` as if they were one."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return VLLM[0] if file in VLLM else file

    return Scheduler(config, log)


def freeze_memory() -> None:
    """Keep what is in memory now, mostly libraries, out of garbage collection.

    A stage collects garbage to free its models. To look through the libraries each time takes half
    a second, and was most of what such a test cost.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def frozen_libraries() -> None:
    """Freeze what the test files have imported."""
    freeze_memory()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See :func:`make_tiny_model`."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def make_tiny_model(folder: Path) -> Path:
    """A two-layer random Llama with a tokenizer of its own and a chat template, saved as
    safetensors.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    tokenizer = _tokenizer()
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_sentencepiece_model(folder: Path, model_type: str, fast: bool = True) -> Path:
    """A folder that looks like a Llama or Mistral model with a SentencePiece tokenizer, which puts
    a space before a text.

    With ``fast`` there is a tokenizer.json of the published form (the space is prepended by its
    normaliser), else a tokenizer.model alone. The weights are none.
    """
    from sentencepiece import SentencePieceTrainer
    from transformers import AutoTokenizer

    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    with (folder / "tokenizer.model").open("wb") as model:
        SentencePieceTrainer.train(
            sentence_iterator=iter(["Answer: yes no maybe. Why did the pump fail? its seal"] * 50),
            model_writer=model,
            vocab_size=335,
            model_type="bpe",
            byte_fallback=True,
            minloglevel=2,
        )
    write_json(folder / "config.json", {"model_type": model_type})
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", **marks})
    if fast:
        inner = json.loads(AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str())
        steps = [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]
        inner |= {
            "pre_tokenizer": None,
            "normalizer": {"type": "Sequence", "normalizers": steps},
        }
        write_json(folder / "tokenizer.json", inner)
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = [
        (
            "The pump failed at noon because the seal broke. Question: Why did it fail? "
            "Answer yes or no."
        ),
        "Instruct: <|input|> <|output|> <|pipe|>",
    ]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(words, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )
    fast.chat_template = _CHAT
    return fast


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that ``make`` has filled, once for all the processes of these tests: one that
    comes while another fills it waits.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, partial = base / name, base / f"{name}.partial"
    with hold_lock(base / f"{name}.lock", name, patience=300):
        if not folder.exists():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            make(partial)
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store. To make one takes MLflow a second, to copy it a millisecond."""

    def make(folder: Path) -> None:
        import mlflow

        mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()

    return make_once(tmp_path_factory, "empty-store", make) / "mlflow.db"


@pytest.fixture(scope="session")
def empty_prefect(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy repository's folder ``.prefect`` after its server's first start, to be copied. That
    start makes the database, which takes six seconds of a processor.
    """

    def make(folder: Path) -> None:
        from tests.prefect_server import prefect_server

        with prefect_server(folder):
            pass

    return make_once(tmp_path_factory, "empty-prefect", make) / ".prefect"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Path:
    """The working folder of a test that runs stages, with a cache and an MLflow store of its
    own.
    """
    freeze_memory()  # libraries that the test before was the first to use
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def params() -> Params:
    """The embedded default."""
    return parse_params(read_yaml(ROOT / "params.yaml"), "params.yaml")


@pytest.fixture
def make_params(tmp_path: Path) -> Any:
    """Return a function that writes params.yaml with overrides to ``tmp_path`` and returns its
    path.
    """
    import yaml

    def make(**sections: dict[str, Any]) -> Path:
        path = tmp_path / "params.yaml"
        path.write_text(
            yaml.safe_dump(overlay(read_yaml(ROOT / "params.yaml"), sections)), encoding="utf-8"
        )
        return path

    return make


@pytest.fixture
def finetuned(
    workplace: Path, make_params: Any, tiny_model: Path, instructions: Path
) -> Callable[..., Path]:
    """Return a function that trains an adapter in the workplace and returns its parameter file:
    ``finetune_tiny`` of tests/registered.py on the tiny model and the twelve rows.
    """
    from tests.registered import finetune_tiny

    return partial(finetune_tiny, make_params, tiny_model, instructions)


@pytest.fixture
def registered(
    workplace: Path, make_params: Any, tiny_model: Path, instructions: Path
) -> Callable[..., dict[str, Any]]:
    """Return a function that also scores and registers it: ``registered`` of tests/registered.py."""
    from tests.registered import registered

    return partial(registered, make_params, tiny_model, instructions)


def passage_table(count: int) -> pa.Table:
    """Return ``count`` passages as rows.PASSAGES."""
    rows = [
        {
            "passage_id": f"{number:016x}",
            "document": f"report-{number // 4}.md",
            "page": 0,
            "section": "",
            "start": 0,
            "end": 30,
            "tokens": 12,
            "sha256": f"{number:064x}",
            "in_evaluation": False,
            "text": f"Pump P-{number} failed at {number} minutes past noon because its seal broke.",
        }
        for number in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=PASSAGES)


def instruction_table(count: int) -> pa.Table:
    """Return ``count`` training rows as rows.INSTRUCTIONS."""
    rows = []
    for number in range(count):
        context = f"Pump P-{number} failed at noon because its seal broke."
        rows.append(
            {
                "row_id": f"row-{number}",
                "passage_id": f"{number:016x}",
                "document": "report.md",
                "task_type": "exqa",
                "context": context,
                "instruction": f"{context}\n\nQuestion: Why did P-{number} fail?",
                "response": "its seal broke",
            }
        )
    return pa.Table.from_pylist(rows, schema=INSTRUCTIONS)


@pytest.fixture
def instructions(tmp_path: Path) -> Path:
    """A file of 12 training rows."""
    path = tmp_path / "instructions.parquet"
    write_table(path, instruction_table(12))
    return path


def assert_pages_are_checked(path: Path) -> None:
    """Change bytes at the end of each column's pages: each change that reading would not notice must
    be refused once page checksums are verified.
    """
    content, whole, silent = path.read_bytes(), pq.ParquetFile(path), 0
    group = whole.metadata.row_group(0)

    def read(part: bytes, column: str, **options: bool) -> pa.Table:
        # Of this column alone, and the footer once: a check of all columns took two seconds.
        with pq.ParquetFile(pa.BufferReader(part), metadata=whole.metadata, **options) as file:
            return file.read([column], use_threads=False)

    for chunk in (group.column(number) for number in range(group.num_columns)):
        column = chunk.path_in_schema.partition(".")[0]
        rows = whole.read([column])
        first = chunk.dictionary_page_offset or chunk.data_page_offset
        for position in range(chunk.data_page_offset, first + chunk.total_compressed_size)[-40:]:
            changed = bytearray(content)
            changed[position] ^= 1
            damaged = bytes(changed)
            with contextlib.suppress(pa.ArrowInvalid, OSError):
                if read(damaged, column).equals(rows):
                    continue
                silent += 1
                read(damaged, column, page_checksum_verification=True)
                pytest.fail(f"{path}: a change of byte {position} is not noticed")
    assert silent, f"{path}: no change was tried that only a checksum can notice"


class Code:
    """A copy of the product code that :func:`tasks.core.code.code_digest` looks at, to be edited
    as a developer would.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for package in ("tasks", "bonito"):
            shutil.copytree(ROOT / package, root / package)

    def edit(self, name: str, old: str, new: str) -> Any:
        """Replace text in a module such as ``tasks.lm.prompts``; return the changed module."""
        path = self.root.joinpath(*name.split(".")).with_suffix(".py")
        assert old in path.read_text(), f"{name} has no {old!r}"
        path.write_text(path.read_text().replace(old, new))
        code.code_digest.cache_clear()
        spec = importlib.util.spec_from_file_location(f"edited_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module


@pytest.fixture
def edited_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Code]:
    """See :class:`Code`."""
    copy = Code(tmp_path / "code")
    monkeypatch.setattr(code, "ROOT", copy.root)
    code.code_digest.cache_clear()
    yield copy
    code.code_digest.cache_clear()


@pytest.fixture
def bounded_arrow() -> Callable[[float], contextlib.AbstractContextManager[None]]:
    """Return a context manager that fails if Arrow uses more than a given number of bytes."""

    @contextlib.contextmanager
    def bounded(most: float) -> Iterator[None]:
        before = pa.default_memory_pool()
        pool = pa.proxy_memory_pool(before)
        pa.set_memory_pool(pool)
        try:
            yield
        finally:
            pa.set_memory_pool(before)
        assert 0 < pool.max_memory() < most

    return bounded
