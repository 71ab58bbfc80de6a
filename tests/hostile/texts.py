"""Items, profiles, settings, names, templates, adapters, models and requests that are out to hurt.

Each is (name, input, verdict): a regular expression of the one line that refuses it, or the empty
string where it is taken.
"""

from __future__ import annotations

import json
import math
import struct

_ITEM = {"id": "1", "context": "A pump failed.", "question": "Did it?", "answer": "yes"}


def _items(*changes: dict[str, object], **kwargs: object) -> bytes:
    rows = [_ITEM | change for change in changes or ({},)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode(
        str(kwargs.get("encoding", "utf-8"))
    )


#: (name, suffix, content, verdict): evaluation items of a yes-no dataset.
ITEMS = (
    ("good", ".jsonl", _items(), ""),
    ("none", ".jsonl", b"", "has no items"),
    ("blank lines", ".jsonl", b"\n\n \n", "has no items"),
    ("UTF-16", ".jsonl", _items(encoding="utf-16"), "is not UTF-8"),
    (
        "Latin-1",
        ".jsonl",
        _items({"question": "é"}).replace(rb"\u00e9", b"\xe9"),
        "line 1 is not UTF-8",
    ),
    ("a byte order mark", ".jsonl", b"\xef\xbb\xbf" + _items(), ""),
    ("half a line", ".jsonl", _items()[:-9], "line 1 is not valid JSON"),
    ("no object", ".jsonl", b"[1]\n", "line 1 is not a JSON object"),
    ("a number", ".jsonl", b"7\n", "line 1 is not a JSON object"),
    ("deep", ".jsonl", b"[" * 99999, "line 1 is not valid JSON"),
    ("a huge number", ".jsonl", b'{"id": 1' + b"0" * 5000 + b"}\n", "line 1 is not valid JSON"),
    ("a key twice", ".jsonl", b'{"id": "1", "id": "2", ' + _items()[1:], ""),
    ("no passage", ".jsonl", _items({"context": ""}), r"row 1: the passage \(context\) is empty"),
    ("a passage that is null", ".jsonl", _items({"context": None}), "row 1: context is None"),
    (
        "a passage that is an object",
        ".jsonl",
        _items({"context": {"a": 1}}),
        "row 1: context is an object",
    ),
    ("a passage that is NaN", ".jsonl", _items({"context": float("nan")}), "row 1: context is nan"),
    ("an id that is null", ".jsonl", _items({"id": None}), "row 1: id is None"),
    ("an id twice", ".jsonl", _items({}, {}), "row 2: the id '1' was there before"),
    ("an unknown label", ".jsonl", _items({"answer": "maybe"}), "unknown label 'maybe'"),
    (
        "a label in capitals",
        ".jsonl",
        _items({"answer": "Yes"}),
        "unknown label 'Yes'.*did you mean 'yes'",
    ),
    ("a label that is a list", ".jsonl", _items({"answer": ["yes"]}), "row 1: answer is "),
    ("no label", ".jsonl", _items({}).replace(b'"answer"', b'"x"'), "no column 'answer'"),
    ("no question", ".jsonl", _items({}).replace(b'"question"', b'"x"'), "'question' is undefined"),
    ("a question that is a template", ".jsonl", _items({"question": "{{ 7 * 7 }}{% for %}"}), ""),
    (
        "a question of half a character",
        ".jsonl",
        _items({"question": "\ud800"}),
        "half a character",
    ),
    ("a passage of a zero byte", ".jsonl", _items({"context": "a\0b"}), ""),
    ("a long passage", ".jsonl", _items({"context": "a " * 500000}), ""),
    ("another suffix", ".xls", b"x", "rows must be in a file of"),
    ("no gzip", ".jsonl.gz", b"nothing", "cannot be read after line 0"),
    ("half a gzip", ".jsonl.gz", b"\x1f\x8b\x08\0\0\0\0\0", "cannot be read after line 0"),
    ("no Parquet", ".parquet", b"PAR1" + bytes(20) + b"PAR1", "cannot be read"),
    ("no Arrow", ".arrow", b"ARROW1\0\0" + bytes(20), "cannot be read"),
    (
        "a cell too many",
        ".csv",
        b"id,context,question,answer\n1,a b,c,yes,5\n",
        "line 2 has 5 cells, the header has 4",
    ),
    ("a huge cell", ".csv", b"id,context,question,answer\n1," + b"a" * 200000 + b",c,yes\n", ""),
    ("an open quote", ".csv", b'id,context,question,answer\n1,"a,c,yes\n', "cannot be read|cells"),
    ("a header alone", ".csv", b"id,context,question,answer\n", "has no items"),
)

#: (name, YAML of a profile, verdict).
PROFILES = (
    ("good", b"finetune: {seed: 5}", ""),
    ("nothing", b"", "must be a YAML mapping"),
    ("a list", b"- a", "must be a YAML mapping"),
    ("a text", b"hello", "must be a YAML mapping"),
    ("half", b"a: [", "not valid YAML"),
    ("tabs", b"a:\n\tb: 1", "not valid YAML"),
    ("Latin-1", b"a: \xe9", r"is not UTF-8 \(byte 3\)"),
    ("UTF-16", "a: 1".encode("utf-16"), "is not UTF-8|not valid YAML"),
    ("zero bytes", bytes(9), "not valid YAML"),
    ("a Python object", b"a: !!python/object/apply:os.system ['touch ran']", "not valid YAML"),
    ("a Python name", b"a: !!python/name:os.system", "not valid YAML"),
    ("an unknown tag", b"a: !x 1", "not valid YAML"),
    (
        "aliases of aliases",
        b"a: &a [x, x]\n"
        + b"".join(
            b"%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c]\n" % ((c, c) + (c - 1,) * 6)
            for c in range(98, 112)
        ),
        "aliases stand for more than",
    ),
    ("an endless alias", b"a: &a [*a]", "aliases stand for more than|not valid YAML"),
    ("deep", b"[" * 9999, "nested too deeply|not valid YAML"),
    ("a key twice", b"finetune: {seed: 1, seed: 2}", "key 'seed' is given twice"),
    ("two documents", b"finetune: {seed: 1}\n---\nfinetune: {seed: 2}", "not valid YAML"),
    ("an unknown section", b"finetun: {}", "unknown key 'finetun'.*did you mean 'finetune'"),
    ("an unknown key", b"finetune: {sed: 1}", "unknown key 'finetune.sed'"),
    ("a section that is a number", b"finetune: 7", "finetune = 7"),
    ("a section that is null", b"finetune:", "finetune is empty"),
    ("a date for a number", b"finetune: {seed: 2024-13-45}", "finetune.seed = '2024-13-45'"),
    ("text for a number", b"finetune: {seed: '5'}", "finetune.seed = '5'"),
    ("true for a number", b"finetune: {seed: true}", "finetune.seed = true"),
    ("a negative seed", b"finetune: {seed: -1}", "finetune.seed = -1"),
    ("a huge seed", b"finetune: {seed: 99999999999}", "finetune.seed = 99999999999"),
    ("endless epochs", b"finetune: {epochs: .inf}", "finetune.epochs = inf"),
    ("epochs that are no number", b"finetune: {epochs: .nan}", "finetune.epochs = nan"),
    ("an endless temperature", b"generate: {temperature: .inf}", "generate.temperature = inf"),
    (
        "an endless learning rate",
        b"finetune: {learning_rate: .inf}",
        "finetune.learning_rate = inf",
    ),
    ("a huge rank", b"finetune: {lora_rank: 10000000000}", "finetune.lora_rank"),
    ("a huge bootstrap", b"evaluate: {bootstrap: 1000000000000}", "evaluate.bootstrap"),
    *(
        (f"a huge {name.decode()}", b"%s: {%s: %s}" % (section, name, number), "must be at most")
        for section, name, number in (
            (b"finetune", b"processes", b"1000000000000"),
            (b"finetune", b"batch_rows", b"10000000000000000000"),
            (b"finetune", b"learning_rate", b"1.0e+19"),
            (b"finetune", b"epochs", b"1000000000000"),
            (b"finetune", b"max_tokens", b"10000000000000000000"),
            (b"generate", b"samples", b"1000000000000"),
            (b"generate", b"workers", b"1000000000000"),
            (b"ingest", b"max_file_mb", b"1000000000000"),
            (b"ingest", b"file_seconds", b"1.0e+12"),
            (b"verify", b"answers", b"1000000000000"),
        )
    ),
    ("endless seconds", b"ingest: {file_seconds: .inf}", "ingest.file_seconds"),
    (
        "a token",
        b"finetune: {model: hf_abcdefghijklmnopqrstuvwxyz012345}",
        "looks like a password or a key",
    ),
    (
        "a password in an address",
        b"ingest: {corpus: 'ftp://me:secret1234@host/x'}",
        "looks like a password or a key",
    ),
    ("passages shorter than short ones", b"ingest: {passage_tokens: 5, min_tokens: 50}", "ingest"),
    ("a micro batch that does not divide", b"finetune: {micro_batch_rows: 3}", "must divide"),
    ("a model's name with a slash", b"register: {model_name: a/b}", "register.model_name"),
    ("an unknown task type", b"generate: {task_types: [exq]}", "unknown task type 'exq'"),
    ("no task type", b"generate: {task_types: []}", "generate.task_types"),
    ("a number of 10,000 digits", b"finetune: {seed: 0x" + b"f" * 9000 + b"}", "finetune.seed = "),
    ("a key that is a number", b"finetune: {1: 2}", "'finetune.1' is no key"),
    ("a key that is a list", b"{[1, 2]: 3}", "not valid YAML"),
    ("a key that is null", b"finetune: {null: 1}", "'finetune.None' is no key"),
    ("a set", b"finetune: !!set {seed}", "must be keys with values"),
    ("bytes", b"finetune: {seed: !!binary AAAA}", "must be a whole number"),
    ("a merge of a text", b"finetune: {<<: x}", "not valid YAML"),
    ("a merge of 2,000", b"finetune: {<<: [" + b"{seed: 5}," * 2000 + b"]}", ""),
)

#: (name, setting or run name, verdict), as the form and the command line give them.
SETTINGS = (
    ("good", "finetune.seed=5", ""),
    ("nothing", "", "is not a setting"),
    ("no value", "finetune.seed", "is not a setting"),
    ("no section", "seed=5", "is not a setting"),
    ("capitals", "FINETUNE.SEED=5", "is not a setting"),
    ("an option", "--name=x", "is not a setting"),
    ("a path", "../../x=1", "is not a setting"),
    ("Python", "finetune.__class__=1", "unknown key|is not a setting"),
    ("half YAML", "generate.task_types=[exqa", "not valid YAML"),
    ("a Python object", "finetune.seed=!!python/object/apply:os.getpid []", "not valid YAML"),
    ("a section replaced", "finetune.seed.x=1", "finetune.seed"),
    ("deep", "finetune.seed=" + "[" * 9999, "not valid YAML"),
    ("a shell", "finetune.model=$(touch ran)", ""),
    ("line ends", "finetune.seed=5\nfinetune.epochs=9", "not valid YAML|finetune.seed"),
    ("a token", "finetune.model=hf_abcdefghijklmnopqrstuvwxyz012345", "looks like a password"),
)
NAMES = (
    ("good", "my-run_1.2", ""),
    ("up", "..", "cannot name a run"),
    ("a path", "a/b", "cannot name a run"),
    ("absolute", "/etc", "cannot name a run"),
    ("an option", "-f", "cannot name a run"),
    ("hidden", ".git", "cannot name a run"),
    ("a lock", "a.lock", "cannot name a run"),
    ("a dot at the end", "a.", "cannot name a run"),
    ("long", "a" * 81, "cannot name a run"),
    ("a shell", "$(touch ran)", "cannot name a run"),
    ("line ends", "a\nb", "cannot name a run"),
    ("a line end behind", "a\n", "cannot name a run"),
    ("a zero byte", "a\0b", "cannot name a run"),
    ("another alphabet", "рun", "cannot name a run"),
    ("default", "default", "cannot name a run"),
    ("a range", "a..b", "cannot name a run"),
    ("a token", "hf_abcdefghijklmnopqrstuvwxyz012345", "looks like a password"),
)

#: (name, instruction of a dataset's template, verdict).
TEMPLATES = (
    ("good", "{{ context }} {{ question }}", ""),
    ("half", "{{ context", "template 't'"),
    ("an unknown tag", "{{ context }}{% bomb %}", "template 't'"),
    ("an unknown column", "{{ context }}{{ nothing }}", "'nothing' is undefined"),
    ("no passage", "{{ question }}", "does not show the passage"),
    ("classes", "{{ context }}{{ context.__class__.__mro__ }}", "template 't'"),
    ("classes by filter", "{{ context }}{{ context|attr('__cla' ~ 'ss__') }}", "template 't'"),
    (
        "globals",
        "{{ context }}{{ cycler.__init__.__globals__.os.system('touch ran') }}",
        "template 't'",
    ),
    ("subclasses", "{{ context }}{{ ''.__class__.__base__.__subclasses__() }}", "template 't'"),
    ("a file", "{% include '/etc/passwd' %}{{ context }}", "template 't'"),
    ("a module", "{% import 'os' as os %}{{ context }}", "template 't'"),
    ("a parent", "{% extends 'a' %}{{ context }}", "template 't'"),
    ("format", "{{ context }}{{ '{0.__class__}'.format(context) }}", "template 't'"),
    (
        "an endless macro",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ context }}{{ m() }}",
        "template 't'",
    ),
    ("a division by 0", "{{ context }}{{ 1 // 0 }}", "template 't'"),
    ("a wrong type", "{{ context }}{{ context + 1 }}", "template 't'"),
    ("a long range", "{{ context }}{% for n in range(999999999) %}{% endfor %}", "template 't'"),
    ("chance", "{{ context }}{{ [1, 2] | random }}", "template 't'"),
    (
        "classes by a filter's name",
        "{{ context }}{{ [context]|selectattr('__class__')|list }}",
        "template 't'",
    ),
    (
        "format by a table",
        "{{ context }}{{ '{a.__class__}'.format_map({'a': context}) }}",
        "template 't'",
    ),
    ("itself", "{{ context }}{{ self._TemplateReference__context }}", "template 't'"),
    ("a passage as it is written", "{% raw %}{{ context }}{% endraw %}", "not show the passage"),
    (
        "a loop in a loop",
        "{{ context }}{% for c in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "template 't'",
    ),
    ("deep brackets", "{{ context }}{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "template 't'"),
    ("a debugger", "{{ context }}{% debug %}", "template 't'"),
)

_LAYERS = b'{"base_model_name_or_path": "a/b", %s}'
_WEIGHTS = ("adapter_model.safetensors",)
#: (name, adapter_config.json, files beside it, verdict).
ADAPTERS = (
    ("no JSON", b"{", ("adapter_model.safetensors",), "adapter_config.json"),
    ("nothing", b"", ("adapter_model.safetensors",), "adapter_config.json"),
    ("a list", b"[]", ("adapter_model.safetensors",), "names no base model"),
    ("null", b"null", ("adapter_model.safetensors",), "names no base model"),
    ("no base", b"{}", ("adapter_model.safetensors",), "names no base model"),
    (
        "a base that is a number",
        b'{"base_model_name_or_path": 3}',
        ("adapter_model.safetensors",),
        "names no base model",
    ),
    (
        "an empty base",
        b'{"base_model_name_or_path": ""}',
        ("adapter_model.safetensors",),
        "names no base model",
    ),
    ("no weights", b'{"base_model_name_or_path": "a/b"}', (), "has no adapter_model.safetensors"),
    (
        "a pickle",
        b'{"base_model_name_or_path": "a/b"}',
        ("adapter_model.bin",),
        "has no adapter_model.safetensors",
    ),
    (
        "Latin-1",
        b'{"base_model_name_or_path": "\xe9"}',
        ("adapter_model.safetensors",),
        "adapter_config.json",
    ),
    ("deep", b"[" * 99999, ("adapter_model.safetensors",), "adapter_config.json"),
    (
        "a base that is no folder",
        b'{"base_model_name_or_path": "../../etc"}',
        ("adapter_model.safetensors",),
        "is neither a folder here nor a hub name",
    ),
    (
        "an absolute base",
        b'{"base_model_name_or_path": "/nowhere"}',
        ("adapter_model.safetensors",),
        "is neither a folder here nor a hub name",
    ),
    (
        "an unknown embedded base",
        b'{"base_model_name_or_path": "embedded:x"}',
        ("adapter_model.safetensors",),
        "unknown embedded model",
    ),
    *(
        (
            f"the kind {kind}",
            b'{"base_model_name_or_path": "a/b", "peft_type": %s}' % kind.encode(),
            ("adapter_model.safetensors",),
            "only LORA is taken",
        )
        for kind in ('"XLORA"', '"IA3"', "null", '["LORA"]')
    ),
    *(
        (f"{key} that never end", _LAYERS % f'"{key}": {value}'.encode(), _WEIGHTS, "regular expr")
        for key, value in (
            ("target_modules", '"(a|a)*(.*.*)*x"'),
            ("exclude_modules", '"(.+)+"'),
            ("layers_pattern", '["(.*)*x"]'),
            ("rank_pattern", '{"(.*)*x": 8}'),
            ("alpha_pattern", '{"(.*)*x": 8}'),
        )
    ),
    ("modules that are numbers", _LAYERS % b'"target_modules": [1]', _WEIGHTS, "regular expr"),
    *(
        (f"the rank {rank}", _LAYERS % f'"r": {rank}'.encode(), _WEIGHTS, "must be a whole number")
        for rank in ("10000000000", "0", "-1", '"16"', "1.5", "null", "[8]")
    ),
    ("modules that are a number", _LAYERS % b'"target_modules": 5', _WEIGHTS, "regular expr"),
    (
        "parameters that never end",
        _LAYERS % b'"target_parameters": ["(.*)*x"]',
        _WEIGHTS,
        "regular expr",
    ),
    *(
        (
            f"a module's rank {rank}",
            _LAYERS % f'"rank_pattern": {{"q_proj": {rank}}}'.encode(),
            _WEIGHTS,
            "must be a whole number",
        )
        for rank in ("10000000000", "0", '"8"', "null")
    ),
    ("ranks in a list", _LAYERS % b'"rank_pattern": ["q_proj"]', _WEIGHTS, "must be an object"),
    (
        "a library of another name",
        _LAYERS % b'"megatron_config": {"a": 1}, "megatron_core": "antigravity"',
        _WEIGHTS,
        "megatron_config",
    ),
    *(
        (
            f"a beginning by {kind}",
            _LAYERS % f'"init_lora_weights": "{kind}"'.encode(),
            _WEIGHTS,
            "init_lora_weights",
        )
        for kind in ("pissa_niter_999999999", "corda", "eva", "loftq")
    ),
    ("a revision outside", _LAYERS % b'"revision": "../../x"', _WEIGHTS, "revision"),
    ("a revision that is an object", _LAYERS % b'"revision": {"a": 1}', _WEIGHTS, "revision"),
)

_ROW = "base_model.model.model.layers.{}.self_attn.q_proj.lora_A.weight"


def _safetensors(name: str, shape: list[int]) -> bytes:
    """Return a safetensors file of one tensor of zeros."""
    size = 4 * math.prod(shape)
    header = json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}})
    return struct.pack("<Q", len(header)) + header.encode() + bytes(size)


_GOOD = _safetensors(_ROW.format(0), [8, 4])
#: (name, adapter_model.safetensors, config.json of its base model, verdict).
TENSORS = (
    ("good", _GOOD, {"hidden_size": 4, "num_hidden_layers": 1}, ""),
    ("a number", _safetensors(_ROW.format(0), []), {}, "0 dimensions"),
    ("a row", _safetensors(_ROW.format(0), [8]), {}, "1 dimensions"),
    ("a cube", _safetensors(_ROW.format(0), [8, 2, 2]), {}, "3 dimensions"),
    ("a layer of 5,000 digits", _safetensors(_ROW.format("9" * 5000), [8, 4]), {}, "a layer 9"),
    ("layers that are a text", _GOOD, {"num_hidden_layers": "x"}, "num_hidden_layers"),
    ("layers that are null", _GOOD, {"num_hidden_layers": None}, "num_hidden_layers"),
    ("a width that is a text", _GOOD, {"hidden_size": "x"}, "hidden_size"),
    ("a header of 2**63 bytes", struct.pack("<Q", 1 << 63) + b"{}", {}, "cannot be read"),
    ("a deep header", struct.pack("<Q", 99_999) + b"[" * 99_999, {}, "cannot be read"),
    ("another rank", _safetensors(_ROW.format(0), [9, 4]), {}, "rank 9"),
)

#: (name, provenance.json of an adapter to start from, verdict).
PROVENANCES = (
    ("good", b'{"settings": {"quantization": "none"}}', ""),
    ("a list", b"[1]", "provenance.json"),
    ("a text", b'"abc"', "provenance.json"),
    ("settings in a list", b'{"settings": []}', "provenance.json"),
    ("settings that are null", b'{"settings": null}', "provenance.json"),
    ("deep", b"[" * 99_999, "provenance.json"),
)

_OWN = b'{"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "own.Own"}}'
_PLAIN = {"config.json": b'{"model_type": "llama"}', "model.safetensors": b""}
_PICKLE = b"\x80\x04cos\nsystem\n(S'touch ran'\ntR."
#: (name, files of a model's folder, verdict).
MODELS = (
    ("plain", _PLAIN, ""),
    ("nothing", {}, "holds no .safetensors weights"),
    ("own code", {**_PLAIN, "config.json": _OWN}, "brings code of its own"),
    ("a tokenizer's own code", {**_PLAIN, "tokenizer_config.json": _OWN}, "brings code of its own"),
    ("a processor's own code", {**_PLAIN, "processor_config.json": _OWN}, "brings code of its own"),
    ("a list", {**_PLAIN, "config.json": b'["auto_map"]'}, "is no JSON object|brings code"),
    ("half", {**_PLAIN, "config.json": b"{"}, "config.json"),
    ("Latin-1", {**_PLAIN, "config.json": b'{"a": "\xe9"}'}, "config.json"),
    ("deep", {**_PLAIN, "config.json": b"[" * 99999}, "config.json"),
    ("a pickle", {"config.json": b"{}", "pytorch_model.bin": _PICKLE}, "holds no .safetensors"),
    *(
        (
            f"an index that names {what}",
            {
                "config.json": b"{}",
                "evil.bin": _PICKLE,
                "model.safetensors.index.json": json.dumps({"weight_map": {"a": file}}).encode(),
            },
            "no .safetensors file beside it",
        )
        for what, file in (
            ("a pickle", "evil.bin"),
            ("a file outside", "../model.safetensors"),
            ("a file of the system", "/etc/hostname"),
            ("a file without end", "a" * 5000 + ".safetensors"),
            ("a zero byte", "a\0.safetensors"),
            ("half a character", "\ud800.safetensors"),
            ("nothing", ""),
        )
    ),
    ("a pickle of another name", {"config.json": b"{}", "model.pt": _PICKLE}, "holds no .safetens"),
)

#: (name, max_position_embeddings of a model's config.json as JSON, verdict).
POSITIONS = (
    ("good", b"2048", ""),
    ("null", b"null", ""),
    ("a text", b'"many"', "max_position_embeddings"),
    ("a list", b"[1]", "max_position_embeddings"),
    ("no end", b"1e999", "max_position_embeddings"),
    ("below zero", b"-5", "max_position_embeddings"),
)

#: (name, headers, status) of a request to a server on 127.0.0.1:4200.
REQUESTS = (
    ("good", {}, 200),
    ("another name of loopback", {"Host": "localhost:4200"}, 200),
    ("its own page", {"Origin": "http://127.0.0.1:4200"}, 200),
    ("a foreign name", {"Host": "evil.example"}, 403),
    ("a name that begins well", {"Host": "127.0.0.1.evil.example"}, 403),
    ("a name that ends well", {"Host": "evil-127.0.0.1"}, 403),
    ("a user before the name", {"Host": "127.0.0.1@evil.example"}, 403),
    ("a name behind a user", {"Host": "evil.example@127.0.0.1"}, 403),
    ("half an IPv6 address", {"Host": "[::1"}, 403),
    ("no name", {"Host": ""}, 403),
    ("white space", {"Host": " "}, 403),
    ("two names in one", {"Host": "127.0.0.1, evil.example"}, 403),
    ("a path in the name", {"Host": "127.0.0.1/evil.example"}, 403),
    ("a number for a name", {"Host": "2130706433"}, 403),
    ("all interfaces", {"Host": "0.0.0.0"}, 403),
    ("a link-local name", {"Host": "169.254.169.254"}, 403),
    ("a foreign page", {"Origin": "http://evil.example"}, 403),
    ("another port's page", {"Origin": "http://127.0.0.1:3000"}, 403),
    ("a file's page", {"Origin": "null"}, 403),
    ("an extension's page", {"Origin": "chrome-extension://abc"}, 403),
    ("a page of a name that begins well", {"Origin": "http://127.0.0.1:4200.evil.example"}, 403),
    ("a name in capitals", {"Host": "LocalHost:4200", "Origin": "HTTP://LOCALHOST:4200"}, 200),
    ("an IPv6 address", {"Host": "[::1]:4200", "Origin": "http://[::1]:4200"}, 200),
    ("an IPv6 address in full", {"Host": "[0:0:0:0:0:0:0:1]:4200"}, 403),
    ("an IPv6 address of IPv4", {"Host": "[::ffff:127.0.0.1]:4200"}, 403),
    ("an IPv6 address with a zone", {"Host": "[::1%25lo]:4200"}, 403),
    ("an IPv6 address without brackets", {"Host": "::1"}, 403),
    ("a dot behind the name", {"Host": "localhost.:4200"}, 403),
    ("a dot behind the address", {"Host": "127.0.0.1.:4200"}, 403),
    ("a short address", {"Host": "127.1"}, 403),
    ("an address in octal", {"Host": "0177.0.0.1"}, 403),
    ("an address in hexadecimal", {"Host": "0x7f000001"}, 403),
    ("another address of loopback", {"Host": "127.0.0.2:4200"}, 403),
    ("a name below localhost", {"Host": "evil.localhost:4200"}, 403),
    ("a name that resolves to loopback", {"Host": "127.0.0.1.nip.io:4200"}, 403),
    ("a port that is a name", {"Host": "localhost:evil.example"}, 403),
    ("two ports", {"Host": "localhost:4200:80"}, 403),
    ("a tab in the name", {"Host": "local\thost"}, 403),
    ("a name in percent signs", {"Host": "%6cocalhost:4200"}, 403),
    ("a back slash in the name", {"Host": "localhost\\@evil.example"}, 403),
    ("a name that a proxy saw", {"X-Forwarded-Host": "evil.example", "Forwarded": "host=x"}, 200),
    ("an own name behind a foreign one", {"Host": "evil", "X-Forwarded-Host": "localhost"}, 403),
    ("an own name by another header", {"Host": "evil", "X-Original-Host": "localhost"}, 403),
    ("two pages in one", {"Origin": "http://127.0.0.1:4200, http://evil.example"}, 403),
    ("two pages by a space", {"Origin": "http://127.0.0.1:4200 http://evil.example"}, 403),
    ("a page without a name", {"Origin": ""}, 403),
    ("a page of a user of this name", {"Origin": "http://127.0.0.1:4200@evil.example"}, 403),
    ("a page with a path", {"Origin": "http://127.0.0.1:4200/"}, 403),
    ("a page of another name of loopback", {"Origin": "http://localhost:4200"}, 403),
    ("a page of any origin", {"Origin": "*"}, 403),
    ("a foreign page's picture", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}, 403),
    ("a foreign page's script", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "script"}, 403),
    ("a foreign page's frame", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"}, 403),
    ("another port's frame", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "iframe"}, 403),
    ("a foreign page's object", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "object"}, 403),
    ("a foreign page's question", {"Sec-Fetch-Site": "cross-site"}, 403),
    ("a foreign page's link", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}, 200),
    ("its own picture", {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "image"}, 200),
    ("an address that was typed", {"Sec-Fetch-Site": "none", "Sec-Fetch-Dest": "document"}, 200),
)
