"""validate: parse and validate predictions, rows a second; ours judges every row by its task type's
expectations, the peers judge next to nothing.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks import made, peers
from benchmarks.harness import PASSED, BenchOptions, Contender, ContenderResult, race
from benchmarks.rows import ResultRow, compare

#: ``parse``: ours without its judging, which does just what the authors' package does.
NAMES = ("validate", "parse")
_AUTHORS = ("bonito-llm", "bonito-llm without its process pool")
TARGETS = {"bonito-llm": 10.0, "bonito-llm without its process pool": 10.0, "distilabel": 5.0}
_ROWS, _QUICK_ROWS = 20_000, 400
#: Rows in memory at once of the second run of ours, which must keep the same rows.
_OTHER_BATCH = 1000


def run(options: BenchOptions) -> list[ResultRow]:
    """Return one row a peer."""
    folder = options.work / "validate"
    count = _QUICK_ROWS if options.quick else _ROWS
    predictions = made.write_predictions(folder / f"predictions-{count}.parquet", count)
    contenders = _contenders(options, {"predictions": str(predictions)}, str(folder))
    done = race(contenders, options, folder)
    again = Contender(
        "ours-other-batch",
        contenders[0].module,
        {**contenders[0].config, "out": f"{folder}/other-batch", "batch": _OTHER_BATCH},
    )
    other = race([again], replace(options, rounds=1), folder)[again.name]
    note = f"{count} predictions, one in eight broken; from a Parquet file to Parquet files"
    rows = [
        compare(
            NAMES[0],
            done["ours"],
            done[peer],
            _gate(done["ours"], done[peer], other),
            unit="rows/s",
            target=target,
            note=note,
        )
        for peer, target in TARGETS.items()
    ]
    parse = done["ours-parse"]
    rows += [
        compare(NAMES[1], parse, done[peer], _same_pairs(parse, done[peer]), unit="rows/s")
        for peer in _AUTHORS
    ]
    return rows


def _contenders(options: BenchOptions, given: dict[str, str], folder: str) -> list[Contender]:
    python, why = peers.interpreter(options.work, options.install)
    ours = "benchmarks.contenders.validate_ours"
    authors = "benchmarks.contenders.validate_bonito_llm"
    distilabel = "benchmarks.contenders.validate_distilabel"
    return [
        Contender("ours", ours, {**given, "out": f"{folder}/ours", "judge": True}),
        Contender("ours-parse", ours, {**given, "out": f"{folder}/parse", "judge": False}),
        Contender(_AUTHORS[0], authors, {**given, "out": f"{folder}/pool.parquet", "pool": True}),
        Contender(
            _AUTHORS[1], authors, {**given, "out": f"{folder}/no-pool.parquet", "pool": False}
        ),
        Contender(
            "distilabel", distilabel, {**given, "out": f"{folder}/distilabel.parquet"}, python, why
        ),
    ]


def _gate(ours: ContenderResult, theirs: ContenderResult, other: ContenderResult) -> str:
    """Return ``passed`` if both made the same pairs of what is well-formed, and ours kept the same
    rows in batches of another size.
    """
    if ours.failure or theirs.failure:
        return PASSED  # the failure itself is told
    if other.failure:
        return f"ours in other batches: {other.failure}"
    kept = ours.read()["kept"]
    if kept != other.read()["kept"]:
        return "ours keeps other rows in batches of another size"
    return _same_pairs(ours, theirs) if kept else "ours keeps no rows at all"


def _same_pairs(ours: ContenderResult, theirs: ContenderResult) -> str:
    if ours.failure or theirs.failure:
        return PASSED
    mine, wanted = ours.read()["pairs"], theirs.read()["pairs"]
    if mine == wanted:
        return PASSED
    differ = sum(one != two for one, two in zip(mine, wanted, strict=False))
    return (
        f"the pairs of instruction and response are not the same: {len(mine)} of ours, "
        f"{len(wanted)} of theirs, {differ} differ"
    )
