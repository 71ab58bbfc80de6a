"""Derived columns: each with a row it holds for and one it does not."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tasks.core.labels import normal_labels, offered
from tasks.core.task_types import LABEL_FAMILIES
from tasks.validate import checks, texts
from tasks.validate.labels import families, in_family, surplus

PASSAGE = (
    "The Oak Street pump was replaced on 14 March\u00a02021 by the night crew.\n\nNobody was "
    "hurt; the $3.50 bolt is US-made."
)


def rows(
    task_type: str,
    instruction: str,
    response: str,
    context: str = PASSAGE,
    labels: tuple[str, ...] = (),
) -> texts.RowTexts:
    """One row as a batch."""
    kind, passage, asked, answer = (
        pa.array([text], pa.string()) for text in (task_type, context, instruction, response)
    )
    return texts.RowTexts(kind, passage, asked, answer, labels)


def column(name: str, *row: str, **more: object) -> object:
    """Return one column's value of one row."""
    return checks.measure(rows(*row, **more))[name].item()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("response", "stands"),
    [
        ("14 March 2021", True),
        ("14 march  2021.", True),
        ('"the night crew"', True),
        ("$3.50", True),
        ("4 March", False),
        ("the night cre", False),
        ("US", True),
        ("S", False),
        ("crew. Nobody was hurt", True),
        ("15 March", False),
        ("", False),
        ("...", False),
    ],
)
def test_answer_stands_in_passage_on_word_boundaries(response: str, stands: bool) -> None:
    assert column("answer_in_passage", "exqa", "{{context}} When?", response) is stands


@pytest.mark.parametrize(
    ("passage", "response"),
    [
        ("工程师王明建造了它。", "王明。"),
        ("بناها الفاطميون عام 969.", "الفاطميون،"),
        ("Il dit oui.", "« oui »"),
    ],
)
def test_marks_around_an_answer_of_any_language_are_no_part_of_it(
    passage: str, response: str
) -> None:
    row = ("exqa", "{{context}} When?", response)
    assert column("answer_in_passage", *row, context=passage) is True


def test_span_is_searched_beyond_a_match_inside_a_word() -> None:
    assert texts.spans(
        pa.array(["pump", "pump", ""]), pa.array(["pumps and a pump", "pumps", "pump"])
    ).tolist() == [True, False, False]


def test_filled_replaces_every_placeholder_once() -> None:
    templates, contexts = (
        pa.array(["{{context}} and {{context}}", "none", ""]),
        pa.array(["a {{context}} b", "x", "x"]),
    )
    assert texts.fill_all(templates, contexts).to_pylist() == [
        "a {{context}} b and a {{context}} b",
        "none",
        "",
    ]
    assert texts.unspace(pa.array(["{{ context }} {{context}} {{other}}"])).to_pylist() == [
        "{{context}} {{context}} {{other}}"
    ]


def test_lengths_are_those_of_the_final_text() -> None:
    batch = rows("qa", "{{context}}: what? {{context}}", "it is {{context}}")
    measured = checks.measure(batch)
    assert measured["instruction_chars"].item() == len(
        texts.fill_all(batch.instruction, batch.context)[0].as_py()
    )
    assert measured["response_chars"].item() == len(
        texts.fill_all(batch.response, batch.context)[0].as_py()
    )


@pytest.mark.parametrize(
    ("task_type", "instruction", "present"),
    [
        (
            "exqa",
            (
                "Refer to the passage below and answer the following question:\n\nPassage: "
                "{{context}}\n\nQuestion: When was the pump replaced?"
            ),
            True,
        ),
        ("exqa", "{{context}}\n\nQ: When was it replaced?\n\nA:", True),
        ("exqa", "{{context}}\n\nWith reference to the above context, who replaced it?", True),
        ("exqa", "{{context}} Name the crew that did the work.", True),
        (
            "exqa",
            (
                'Given the following passage\n\n"{{context}}",\n\nanswer the following '
                "question. Question: who was hurt"
            ),
            True,
        ),
        (
            "exqa",
            (
                "Refer to the passage below and answer the following question:\n\nPassage: "
                "{{context}}\n\nQuestion:"
            ),
            False,
        ),
        ("exqa", "Answer the question based on the text.\n\nQuestion:\nText: {{context}}", False),
        ("exqa", "{{context}}", False),
        ("exqa", "{{context}} The pump is old.", False),
        ("ynqa", "{{context}}\nQuestion: does the clinic keep records\nAnswer yes or no", True),
        ("ynqa", "{{context}} \n\nHaving read that, could you tell me is the pump new?", True),
        ("ynqa", "{{context}}\nQuestion: \nAnswer: ", False),
        (
            "nli",
            (
                '{{context}} Based on that information, is the claim: "The pump is old" true, '
                "false, or inconclusive?"
            ),
            True,
        ),
        (
            "nli",
            '{{context}} Based on that information, is the claim: "" true, false, or inconclusive?',
            False,
        ),
        (
            "nli",
            'Suppose "{{context}}" Can we infer that the pump is new? Yes, no, or maybe?',
            True,
        ),
        (
            "nli",
            "{{context}} Based on the previous passage, is this always, sometimes, or never correct?",
            False,
        ),
        ("nli", "{{context}}\nQuestion: True, False, or Neither?", False),
        ("nli", "{{context}} Is it guaranteed true that they must? Yes, no, or maybe?", True),
        ("exqa", "{{context}}\n\n谁建造了这座桥？", True),
        ("exqa", "{{context}}\n\nمتى بنيت القاهرة؟", True),
        ("exqa", "{{context}}\n\nΠοιος είναι ο πληθυσμός;", True),
        ("exqa", "{{context}}\n\n谁", False),
        ("exqa", "{{context}}\n\nเมืองหลวงของไทยคืออะไร", True),
        ("exqa", "{{context}}\n\n橋はいつ建てられましたか。", True),
        ("exqa", "{{context}}\n\n橋は古いです。", False),
    ],
)
def test_question_present(task_type: str, instruction: str, present: bool) -> None:
    assert column("question_present", task_type, instruction, "x") is present


@pytest.mark.parametrize(
    ("instruction", "closed"),
    [
        ("{{context}}\nQuestion: does the clinic keep records?\nAnswer yes or no", True),
        ("{{context}} When the pump failed, was it logged? Yes or no?", True),
        ('{{context}}\nQuestion: What failed?\nYes or no, is the answer "the pump"?', True),
        ("{{context}}\nQuestion: When was the pump replaced? Yes or no?", False),
    ],
)
def test_question_closed(instruction: str, closed: bool) -> None:
    assert column("question_closed", "ynqa", instruction, "Yes") is closed


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("instruction_present", ("{{context}} why?", "x"), (" . ", "x")),
        ("response_present", ("{{context}} why?", "7"), ("{{context}} why?", "--")),
        (
            "repeats_question",
            ("{{context}} Why?", "Why Why"),
            ("{{context}} Question: Who did it?", "who did it"),
        ),
        (
            "repeats_question",
            ("{{context}} Who replaced the old pump?", "the crew"),
            ("{{context}} Who replaced the old pump?", "Who replaced the old pump? A crew"),
        ),
        (
            "answer_in_question",
            ("{{context}} Who was it?", "the crew"),
            ("{{context}} Was it the crew?", "The crew."),
        ),
    ],
)
def test_flags(name: str, good: tuple[str, str], bad: tuple[str, str]) -> None:
    turned = name in {"repeats_question", "answer_in_question"}
    assert column(name, "exqa", *good) is not turned
    assert column(name, "exqa", *bad) is turned


def test_counts() -> None:
    assert column("passage_mentions", "exqa", "{{context}} a {{context}}", "x") == 2
    assert column("passage_mentions", "exqa", "{{context}}", "x", context=" \n") == 0
    assert column("leftover_placeholders", "exqa", "{{context}} {{title}}", "{{") == 3
    assert column("leftover_placeholders", "exqa", "{{context}}", "x") == 0
    assert (
        column("leftover_placeholders", "exqa", "{{context}}", "x", context="a {{context}} b") == 1
    )
    assert column("control_tokens", "exqa", "{{context}}<|im_end|>", "</s>") == 2
    assert column("broken_characters", "exqa", "{{context}}\ufffd", "a\x00") == 2
    assert column("passage_share", "exqa", "{{context}}", "{{context}}") == pytest.approx(
        1, abs=0.02
    )
    assert column("passage_share", "exqa", "{{context}}", "not in it") == 0


def test_most_repeated_counts_within_a_row_only() -> None:
    column = pa.array(["a b c d", "a b c d", "x y z " * 5, "no no no no no no", "one two", ""])
    assert texts.most_repeated(column).tolist() == [1, 1, 4, 3, 0, 0]
    assert texts.most_repeated(pa.array([""])).tolist() == [0]
    assert texts.most_repeated(pa.array(["a b c d a b c e a b c f a b c d"])).tolist() == [2]


def test_most_repeated_is_what_a_count_of_the_words_says() -> None:
    draw = random.Random(1)
    column = [
        " ".join(draw.choices("abcdefgh"[: draw.randint(1, 8)], k=draw.randint(0, 40)))
        for _ in range(2000)
    ]
    counts = [
        Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
        for words in map(str.split, column)
    ]
    wanted = [max(runs.values(), default=0) for runs in counts]
    assert texts.most_repeated(pa.array(column)).tolist() == wanted


def test_normal_form_is_lower_case_with_single_spaces() -> None:
    spaces = [chr(code) for code in range(0x3001) if chr(code).isspace()]
    column = [
        "",
        " ",
        "One two.",
        "one",
        " A b",
        "a B ",
        "a  b",
        "İ ΟΔΟΣ",
        "e\u0301 \u200b x\u1fff",
    ]
    column += [text for space in spaces for text in (space, f"A{space}b", f"{space}a", f"a{space}")]
    words = [" ".join(text.split()) for text in column]
    assert texts.normal(pa.array(column)).equals(pc.utf8_lower(pa.array(words)))


def test_verbatim_claim() -> None:
    claim = (
        '{{context}} Is the claim "The Oak Street pump was replaced on 14 March 2021 by the '
        'night crew." true or false?'
    )
    assert column("verbatim_claim_denied", "nli", claim, "False") is True
    assert column("verbatim_claim_denied", "nli", claim, "True") is False
    assert column("verbatim_claim_denied", "nli", claim.replace("14", "15"), "False") is False
    assert column("verbatim_claim_denied", "nli", claim.replace("The Oak", "Oak"), "False") is False
    begun = '{{context}} Is "The Oak Street pump was replaced on 14 March" true or false?'
    assert column("verbatim_claim_denied", "nli", begun, "False") is True
    assert column("verbatim_claim_denied", "nli", begun, "True") is False
    assert column("verbatim_claim_denied", "nli", begun.replace(" March", ""), "False") is True


@pytest.mark.parametrize(
    "wording",
    [
        "{{context}}\nQuestion: CLAIM True, False, or Neither?",
        "Given that {{context}} Does it follow that CLAIM Yes, no, or maybe?",
        "{{context}}\n\nKeeping in mind the above text, consider: CLAIM True or false?",
    ],
)
def test_a_verbatim_claim_without_quotation_marks(wording: str) -> None:
    claim = wording.replace("CLAIM", PASSAGE.split(". ", maxsplit=1)[0] + ".")
    other = claim.replace("14 March", "15 March")
    assert column("verbatim_claim_denied", "nli", claim, "No") is True
    assert column("verbatim_claim_denied", "nli", claim, "Yes") is False
    assert column("verbatim_claim_denied", "nli", other, "No") is False
    # The claim goes on behind what looks like its end.
    longer = wording.replace("CLAIM", PASSAGE.split(". ", maxsplit=1)[0] + " true or false tests")
    assert column("verbatim_claim_denied", "nli", longer, "No") is False


@pytest.mark.parametrize(
    ("rest", "stated"),
    [
        (", six days a week.", True),
        ("; soiled linen is not.", True),
        (" only in summer.", False),
        (" if the road is open.", False),
        ("x.", False),
    ],
)
def test_the_beginning_of_a_sentence_is_stated_where_the_rest_takes_nothing_back(
    rest: str, stated: bool
) -> None:
    passage = f"no matter. deliveries are made before 09.30{rest}"
    assert checks._states(passage, "deliveries are made before 09.30") == stated
    assert not checks._states(f"they say that {passage[11:]}", "deliveries are made before 09.30")


def test_measures_do_not_depend_on_the_batch() -> None:
    pairs = [
        ("exqa", "{{context}} When was it?", "14 March 2021"),
        ("nli", "{{context}} So? Yes, no, or maybe?", "Yes"),
        ("qg", "{{context}} Ask!", "Who? Who? Who? Who? Who?"),
    ]
    columns = list(zip(*pairs, strict=True))
    types, instructions, responses = (pa.array(texts, pa.string()) for texts in columns)
    whole = texts.RowTexts(types, pa.array([PASSAGE] * 3), instructions, responses)
    measured, keys = checks.measure(whole), texts.content_keys(whole)
    for place, pair in enumerate(pairs):
        alone = rows(*pair)
        assert checks.measure(alone).iloc[0].tolist() == measured.iloc[place].tolist()
        assert texts.content_keys(alone)[0] == keys[place]


@pytest.mark.parametrize(
    ("question", "labels"),
    [
        ("is it so? yes, no, or maybe?", {"yes", "no", "maybe"}),
        ("answer yes or no", {"yes", "no"}),
        ("answer by yes/no.", {"yes", "no"}),
        ("same meaning? yes, no?", {"yes", "no"}),
        (
            'is the claim: "it is old" true, false, or inconclusive?',
            {"true", "false", "inconclusive"},
        ),
        ('then is "x" "always", "sometimes", or "never" true?', {"always", "sometimes", "never"}),
        ("it is guaranteed, possible, or impossible?", {"guaranteed", "possible", "impossible"}),
        (
            "it is definitely correct, incorrect, or inconclusive?",
            {"correct", "incorrect", "inconclusive"},
        ),
        ("true, false, or neither?", {"true", "false", "neither"}),
        ("is this review positive or negative?", {"positive", "negative"}),
        ('are they "equivalent" or "not equivalent"?', {"equivalent", "not equivalent"}),
        ("options:\n- yes\n- no", {"yes", "no"}),
        ("choices: leak, outage; fire", {"leak", "outage", "fire"}),
        (
            "which one?\na. leak\nb) outage\n(c) fire",
            {"a", "b", "c", "leak", "outage", "fire", "a. leak", "b. outage", "c. fire"},
        ),
        ("q: is it so?\na: tell me", set()),
        ("is it true and correct that nobody knows?", set()),
        ("is it yesterday or nowhere?", set()),
    ],
)
def test_offered_labels(question: str, labels: set[str]) -> None:
    assert offered(question) == labels


@pytest.mark.parametrize(
    ("task_type", "question", "response", "fits"),
    [
        ("nli", "true, false, or inconclusive?", " INCONCLUSIVE.", True),
        ("nli", "true, false, or inconclusive?", "Maybe", False),
        ("nli", "can we infer it?", "Never", True),
        ("nli", "can we infer it?", "the pump", False),
        ("ynqa", "yes or no?", '"Yes!"', True),
        ("ynqa", "yes or no?", "Yes, it does", False),
        ("ynqa", "is it so?", "False", True),
        ("ynqa", "is it so?", "Always", False),
        ("paraphrase_id", "do they mean the same?", "no", True),
        ("sentiment", "what is the sentiment?", "negative", True),
        ("topic_class", "what is it about?", "Sports", True),
        ("topic_class", "options:\n- sports\n- business", "weather", False),
        ("mcqa", "which?\na. leak\nb. fire", "(B)", True),
        ("mcqa", "which?\na. leak\nb. fire", "C", False),
        ("exqa", "yes or no?", "the pump", True),
    ],
)
def test_label_in_family(task_type: str, question: str, response: str, fits: bool) -> None:
    labels = normal_labels(pa.array([response]))
    assert in_family(pa.array([task_type]), pa.array([question]), labels).tolist() == [fits]


@pytest.mark.parametrize(
    ("question", "response", "fits"),
    [
        ("is it relevant?", "Relevant", True),
        ("is it relevant?", "yes", False),
        ("yes or no?", "Relevant", False),
        ("irrelevant or relevant?", "irrelevant.", True),
    ],
)
def test_custom_labels(question: str, response: str, fits: bool) -> None:
    labels = normal_labels(pa.array([response]))
    assert in_family(
        pa.array(["ynqa"]), pa.array([question]), labels, ("Relevant", "Irrelevant")
    ).tolist() == [fits]


def test_custom_labels_leave_other_types_alone() -> None:
    assert in_family(
        pa.array(["mcqa"]), pa.array(["which?\na. leak\nb. fire"]), pa.array(["a"]), ("yes", "no")
    ).tolist() == [True]


@pytest.mark.parametrize(
    ("counts", "share"),
    [
        ((90, 10), 0.6),
        ((50, 50), 0.6),
        ((70, 20, 10), 0.5),
        ((5, 1), 0.9),
        ((1000, 999, 3), 0.34),
        ((7, 7, 7, 60), 0.25),
    ],
)
def test_surplus_is_the_least_that_keeps_the_share(counts: tuple[int, ...], share: float) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    order = np.random.default_rng(0).permutation(len(labels)).astype(np.uint64)
    drop = surplus(labels, order, share)
    left = np.bincount(labels[~drop], minlength=len(counts))
    reachable = [
        n for n in range(1, max(counts) + 1) if n <= share * np.minimum(counts, n).sum() + 1e-9
    ]
    assert left.max() == max([*reachable, min(counts)])
    assert (left == np.minimum(counts, left.max())).all()
    for label in range(len(counts)):
        gone, stay = order[(labels == label) & drop], order[(labels == label) & ~drop]
        assert not len(gone) or gone.min() > stay.max()


def test_surplus_leaves_a_single_class_and_an_empty_set() -> None:
    assert not surplus(np.zeros(9, int), np.arange(9), 0.5).any()
    assert not surplus(np.zeros(0, int), np.arange(0), 0.5).any()


@pytest.mark.parametrize(
    ("question", "label", "family"),
    [
        ("is it so? yes, no, or maybe?", "maybe", 0),
        ("is it so?", "no", 0),
        ("is it so? true, false or neither?", "neither", 1),
        ("is it always, sometimes or never so?", "never", 2),
        ("which section? sports, world", "sports", len(LABEL_FAMILIES)),
    ],
)
def test_the_family_is_the_one_that_the_question_offers_else_the_labels_own(
    question: str, label: str, family: int
) -> None:
    assert families(
        pa.array(["nli", "exqa"]), pa.array([question, question]), pa.array([label, label])
    ).tolist() == [family, -1]


def test_custom_labels_are_one_family() -> None:
    assert (
        families(
            pa.array(["nli"] * 2),
            pa.array(["is it so?"] * 2),
            pa.array(["yes", "unproven"]),
            ("Yes", "Unproven"),
        ).tolist()
        == [len(LABEL_FAMILIES)] * 2
    )
