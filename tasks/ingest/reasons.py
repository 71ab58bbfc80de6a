"""Every reason why a file, a part of one or a passage is not used: what it says, and what can be
done.
"""

from __future__ import annotations

REASONS: dict[str, str] = {
    # files that are not opened
    "hidden": (
        "the name begins with a dot, or the sheet is hidden: rename or show it where it is a "
        "document"
    ),
    "link_outside": "a symbolic link out of the corpus: copy the file, or set ingest.follow_links",
    "link_to_folder": "a symbolic link to a folder: put the folder itself there",
    "broken_link": "a symbolic link to nothing, or to itself",
    "not_a_file": "a pipe, a socket or a device",
    "unreadable": (
        "the file, folder or object could not be opened or fetched: look at its permissions; "
        "the next run tries again"
    ),
    # files and parts of files that cannot be read
    "empty": "zero bytes, white space alone, or a row without text",
    "unsupported_format": (
        "no reader for this format: save it as PDF, .docx, .xlsx, .pptx, .odt, HTML, CSV or text"
    ),
    "damaged": "cut short or broken: the detail says what the parser found",
    "encrypted": "a password or digital rights management protects it: save a copy without",
    "no_text_layer": "scanned pages, no text: set ingest.ocr, or recognise the text first",
    "ocr_failed": "tesseract could not read the page",
    "unknown_encoding": "its bytes fit no encoding with confidence: save it as UTF-8",
    "binary": "named like text, but not text",
    "no_text_column": (
        "the table, or this row, has no column of this name, or an object in it: set "
        "ingest.text_column to one of those the detail lists"
    ),
    "too_large": "larger than ingest.max_file_mb, or unpacks to more (a bomb does)",
    "nested_too_deep": (
        "archives in archives, messages in messages or elements in elements, deeper than "
        "anyone writes them"
    ),
    "link": "a link or device inside an archive: those are not followed",
    "timeout": (
        "took longer than ingest.file_seconds without giving anything, or than "
        "ingest.file_total_seconds in all; the next run tries again"
    ),
    "memory": "took more memory than ingest.file_memory_mb; the next run tries again",
    "crashed": "the parser's process died of it; the next run tries again",
    # pieces that are taken out of the text
    "citation": "the marker of a source, such as [12] (ingest.citations)",
    "superscript": "a raised number of a note (ingest.citations)",
    "author_citation": "a source in brackets, such as (Yao et al., 2022) (ingest.author_citations)",
    "references": "a list of sources (ingest.reference_lists)",
    "infobox": "a web page's box of facts (ingest.infoboxes)",
    "running_head": (
        "a page number of plain text, with the head or foot beside it (ingest.running_heads)"
    ),
    "comment": "a comment in Markdown, <!-- -->, which no page shows",
    # passages that are not kept
    "too_short": "fewer tokens than ingest.min_tokens, and nothing beside it to join",
    "too_long": "more tokens than ingest.passage_tokens, and no place to cut",
    "language": "in none of ingest.languages",
    "boilerplate": "the same words are in many documents of the corpus (ingest.boilerplate_share)",
    "duplicate": (
        "the same text, but for case and white space, as an earlier passage "
        "(ingest.exact_duplicates)"
    ),
    "near_duplicate": "so similar to an earlier passage (ingest.near_duplicates)",
    "held_out": "a labelled item is about it, and holds it out of the corpus (make label)",
    "in_evaluation": "is also in the evaluation set (ingest.drop_evaluation_overlap)",
}
