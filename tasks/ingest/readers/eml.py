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
    Alive,
    Begin,
    Builder,
    Document,
    ReaderItem,
    ReadOptions,
    Reject,
    Unreadable,
    printable,
    spare,
)

#: The HTML is read in place of the plain text where it has more than this many times the text: some
#: programs write only a blank or "view this message in an HTML capable client" as plain text.
_STUB = 2


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the message, then its attachments."""
    message = message_from_bytes(path.read_bytes(), policy=policy.default)
    if not isinstance(message, EmailMessage) or not message.keys():
        raise Unreadable("damaged", "no headers: not an e-mail message")
    _drop_broken_headers(message)
    attachments = enumerate(message.iter_attachments(), 1)
    if not options.skip:
        lost: list[Reject] = []
        with spare(lost, ""):
            yield _message(message)
        yield from lost
    for number, attachment in attachments:
        if number > options.skip:
            name = _attachment_name(attachment, number)
            yield Begin(f"!{name}", number)
            yield from _attachment(attachment, name, replace(options, skip=0))


def _drop_broken_headers(message: EmailMessage) -> None:
    """Remove from each part what would say its type or name and cannot be parsed: it is then an
    attachment without a name, or text.
    """
    for part in message.walk():
        for name in ("Content-Type", "Content-Disposition"):
            try:
                part.get(name)
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001  the library raises many kinds at a broken header
                del part[name]


def _message(message: EmailMessage) -> Document:
    """Return subject and body: the plain text, or the page where that has far more text."""
    short, long = Builder(), Builder()
    for builder in (short, long):
        builder.heading(1, tidy(str(message.get("subject", ""))))
    before = short.length
    plain = message.get_body(preferencelist=("plain",))
    page = _find_page(message, plain)
    text = _content(plain).strip() if plain is not None else ""
    short.paragraph(text)
    if page is not None:
        lost: list[Reject] = []
        with spare(lost, ""):
            html.build(_content(page), long, whole=True)
        if lost and not text:
            raise Unreadable(lost[0].reason, lost[0].detail)
        if not lost and long.length - before > _STUB * len(text):
            return long.document("eml")
    return short.document("eml")


def _find_page(message: EmailMessage, plain: MIMEPart | None) -> MIMEPart | None:
    """Return the body in HTML: where there is one in plain text, the alternative to it."""
    if plain is None:
        return message.get_body(preferencelist=("html",))
    for part in message.walk():
        is_choice = part.get_content_type() == "multipart/alternative"
        if is_choice and any(choice is plain for choice in part.iter_parts()):
            return part.get_body(preferencelist=("html",))
    return None


def _content(part: MIMEPart) -> str:
    data = part.get_payload(decode=True)
    data = data if isinstance(data, bytes) else b""
    try:
        return tidy(data.decode(part.get_content_charset() or "utf-8"))
    except (LookupError, ValueError):  # no such name, no name at all, or the codec "undefined"
        return decode(data)[0]


def _attachment_name(part: MIMEPart, number: int) -> str:
    suffix = ".eml" if part.get_content_maintype() in ("message", "multipart") else ""
    given = PurePosixPath((part.get_filename() or "").replace("\\", "/")).name
    return given or f"part-{number}{suffix}"


def _bytes_of(part: MIMEPart, inner: bool) -> bytes:
    """Return an attachment's bytes; of a message inside, or of several parts, those of a mail."""
    if inner:
        return bytes(part.get_payload(0).as_bytes())  # type: ignore[union-attr, call-arg]
    if part.is_multipart():
        whole = message_from_bytes(part.as_bytes(), policy=policy.default)
        del whole["Content-Disposition"]  # its first part is then a body
        return whole.as_bytes()
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _attachment(part: MIMEPart, name: str, options: ReadOptions) -> Iterator[ReaderItem]:
    inner = part.get_content_type() == "message/rfc822"
    if options.max_depth == 0:
        yield Reject(
            f"!{name}", "nested_too_deep", "a message inside a message inside a message ..."
        )
        return
    with tempfile.TemporaryDirectory(prefix="attachment-") as folder:
        target = Path(folder) / ("attachment" + printable(PurePosixPath(name).suffix)[:16])
        lost: list[Reject] = []
        with spare(lost, f"!{name}"):
            target.write_bytes(_bytes_of(part, inner))
            for item in detect.read(target, replace(options, max_depth=options.max_depth - 1)):
                nested = Alive() if isinstance(item, Begin) else item
                yield detect.prefix_member(nested, f"!{name}")
        yield from lost
