"""E-mail messages: subject and body, and every attachment as a document of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage, MIMEPart
from pathlib import Path, PurePosixPath

from tasks.ingest.readers import detect, html
from tasks.ingest.readers.decoding import decode, tidy
from tasks.ingest.readers.document import (
    Builder,
    Document,
    ReaderItem,
    ReadOptions,
    Reject,
    Unreadable,
)


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the message, then its attachments."""
    message = message_from_bytes(path.read_bytes(), policy=policy.default)
    if not isinstance(message, EmailMessage) or not message.keys():
        raise Unreadable("damaged", "no headers: not an e-mail message")
    yield _message(message)
    for number, attachment in enumerate(message.iter_attachments(), 1):
        yield from _attachment(attachment, number, options)


def _message(message: EmailMessage) -> Document:
    builder = Builder()
    builder.heading(1, tidy(str(message.get("subject", ""))))
    body = message.get_body(preferencelist=("plain", "html"))
    if body is not None:
        text = _content(body)
        if body.get_content_subtype() == "html":
            html.build(text, builder, whole=True)
        else:
            builder.paragraph(text)
    return builder.document("eml")


def _content(part: MIMEPart) -> str:
    data = part.get_payload(decode=True)
    data = data if isinstance(data, bytes) else b""
    try:
        return tidy(data.decode(part.get_content_charset() or "utf-8"))
    except (LookupError, UnicodeDecodeError):
        return decode(data)[0]


def _attachment(part: MIMEPart, number: int, options: ReadOptions) -> Iterator[ReaderItem]:
    inner = part.get_content_type() == "message/rfc822"
    name = (
        PurePosixPath((part.get_filename() or "").replace("\\", "/")).name
        or f"part-{number}{'.eml' if inner else ''}"
    )
    if options.max_depth == 0:
        yield Reject(
            f"!{name}", "nested_too_deep", "a message inside a message inside a message ..."
        )
        return
    payload = part.get_payload(0).as_bytes() if inner else part.get_payload(decode=True)  # type: ignore[union-attr, call-arg]
    with tempfile.TemporaryDirectory(prefix="attachment-") as folder:
        target = Path(folder) / f"attachment{PurePosixPath(name).suffix[:16]}"
        target.write_bytes(payload if isinstance(payload, bytes) else b"")
        try:
            for item in detect.read(target, replace(options, max_depth=options.max_depth - 1)):
                yield detect.prefix_member(item, f"!{name}")
        except Unreadable as problem:
            yield Reject(f"!{name}", problem.reason, problem.detail)
