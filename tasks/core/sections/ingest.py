"""The section ``ingest`` of ``params.yaml``."""

from __future__ import annotations

import re

from pydantic import Field, ValidationInfo, field_validator

from tasks.core.sections.base import Count, Fraction, Section, Tokens, Workers


class Ingest(Section):
    """Documents into passages."""

    corpus: str = Field(
        description=(
            "folder or file of documents. make ingest also takes an address (s3://...) or a hub "
            "dataset (hf://owner/name); for a run write that into a file *.address"
        )
    )
    text_column: str = Field(
        "",
        description=(
            "column of tables that holds the text; empty: text, and a CSV file without it is "
            "read as a whole table"
        ),
    )
    passage_tokens: Tokens = Field(
        description="most tokens a passage may have, counted by the generator's own tokenizer"
    )
    tokenizer: str = Field(
        "",
        description=(
            "model whose tokenizer counts them instead, so that all generators get the same "
            "passages; empty: the generator's"
        ),
    )
    min_tokens: Count = Field(description="shorter passages are dropped (reason: too_short)")
    languages: tuple[str, ...] = Field(
        (), description="ISO 639-1 codes of the languages to keep, such as [en]; empty: all"
    )
    boilerplate_share: Fraction = Field(
        0.3,
        description=(
            "remove lines that are in this share of the documents, and in at least five; "
            "0: keep them"
        ),
    )
    exact_duplicates: bool = Field(
        True,
        description="drop passages equal to an earlier one except for case and white space",
    )
    near_duplicates: float = Field(
        0.9,
        ge=0.0,
        le=1.0,
        description=(
            "drop passages with this similarity to an earlier one or more (Jaccard, by MinHash); "
            "0: keep them"
        ),
    )
    mask_personal_data: bool = Field(
        False,
        description=(
            "replace such data by [EMAIL], [PHONE], [IBAN], [CARD], [IP], [SSN] before "
            "anything else"
        ),
    )
    citations: bool = Field(
        True,
        description=(
            "take out markers of sources, [12] and raised numbers, in documents that have several"
        ),
    )
    author_citations: bool = Field(
        True, description="take out sources in brackets, such as (Yao et al., 2022)"
    )
    reference_lists: bool = Field(
        True, description="take out lists of sources, below a title such as References"
    )
    infoboxes: bool = Field(True, description="take out the boxes of facts of wiki pages")
    clause_numbers: bool = Field(
        True, description="put a clause's number that stands alone on a line before its clause"
    )
    running_heads: bool = Field(
        True, description="take out page numbers of plain text, with the heads and feet beside them"
    )
    drop_evaluation_overlap: bool = Field(
        description=(
            "drop passages that overlap the evaluation set; the paper keeps them; they are "
            "always counted"
        )
    )
    evaluation_words: int = Field(
        13,
        ge=1,
        le=10_000,
        description="n-gram length, in words, that counts as overlap with the evaluation set",
    )
    ocr: bool = Field(
        False,
        description="recognise scanned PDF pages with tesseract, which must be installed",
    )
    ocr_languages: str = Field(
        "eng", description="tesseract's names of the languages, such as eng+deu"
    )
    follow_links: bool = Field(
        False, description="read symbolic links that lead out of the corpus folder"
    )
    max_file_mb: int = Field(
        256,
        ge=1,
        le=10**6,
        description=(
            "larger files, rows and unpacked archive members are refused (tables and archives "
            "are streamed)"
        ),
    )
    file_seconds: float = Field(
        120.0, gt=0.0, le=10**6, description="a file that yields nothing for this long is cut off"
    )
    file_total_seconds: float = Field(
        14400.0,
        ge=0.0,
        le=10**6,
        description="a file that takes longer in all, with its members, is cut off; 0: no limit",
    )
    file_memory_mb: int = Field(
        2048, ge=64, le=10**7, description="a file that takes more memory is cut off"
    )
    workers: Workers = Field(
        0, description="processes; 0: one per core. The result does not depend on it"
    )
    ray_workers: Workers = Field(
        0,
        description=(
            "Ray workers that read in place of these processes, one core each, on machines with "
            "the same folders; 0: none. The result does not depend on it"
        ),
    )
    ray_address: str = Field("", description="Ray cluster of the workers, as generate.ray_address")

    @field_validator("min_tokens")
    @classmethod
    def _below_the_most(cls, least: int, others: ValidationInfo) -> int:
        """Otherwise no passage would be kept."""
        most = others.data.get("passage_tokens", least)
        if least > most:
            raise ValueError(f"is above ingest.passage_tokens = {most}")
        return least

    @field_validator("languages")
    @classmethod
    def _codes(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """A name such as "english" would drop every passage."""
        for name in names:
            if not re.fullmatch("[a-z]{2}", name):
                raise ValueError(f"{name!r} is no code of two letters such as en (ISO 639-1)")
        return names
