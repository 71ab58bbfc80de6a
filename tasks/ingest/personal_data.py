"""Masks personal data, which is found by its form and its check digits."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable


def mask(text: str) -> tuple[str, dict[str, int]]:
    """Return ``text`` with personal data as ``[EMAIL]``, ``[IBAN]``, ``[CARD]``, ``[IP]``,
    ``[SSN]`` and ``[PHONE]``, and how many of each there were.

    IBANs and card numbers must have valid check digits, IP addresses must be valid; telephone
    numbers are recognised by their form alone.
    """
    counts: Counter[str] = Counter()
    for name, pattern, is_valid in _KINDS:

        def replace(
            match: re.Match[str], name: str = name, is_valid: Callable[[str], bool] = is_valid
        ) -> str:
            value = match[0]
            # Capitals that follow an IBAN look like more of it.
            while name == "IBAN" and " " in value and not is_valid(value):
                value = value.rpartition(" ")[0]
            if not is_valid(value):
                return match[0]
            counts[name] += 1
            return f"[{name}]{match[0][len(value) :]}"

        text = pattern.sub(replace, text)
    return text, dict(counts)


def _is_iban(value: str) -> bool:
    # ISO 13616: move the first four characters to the end, letters count from 10; the number modulo
    # 97 must be 1.
    bare = value.replace(" ", "")
    digits = "".join(str(int(character, 36)) for character in bare[4:] + bare[:4])
    return 15 <= len(bare) <= 34 and int(digits) % 97 == 1


def _is_card(value: str) -> bool:
    digits = _digits(value)
    doubled = [
        sum(divmod(2 * digit, 10)) if place % 2 else digit
        for place, digit in enumerate(reversed(digits))
    ]
    return sum(doubled) % 10 == 0 and any(digits)


def _is_ip(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    # "::" and the like are valid addresses, and not worth hiding.
    return "." in value or sum(character.isalnum() for character in value) > 3


def _is_phone(value: str) -> bool:
    # Dates and amounts are shorter, and come without a country code.
    return 9 <= len(_digits(value)) <= 15 and not re.fullmatch(
        r"\d{4}[ .-]\d{2}[ .-]\d{2}.*|\d{2}[ .-]\d{2}[ .-]\d{4}.*", value
    )


def _digits(value: str) -> list[int]:
    return [int(character) for character in value if character.isdecimal()]


def _has_its_form(value: str) -> bool:
    """Tell that nothing but the form can be checked."""
    return True


#: Name, form, and what else it must have.
_KINDS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("EMAIL", re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"), _has_its_form),
    (
        "IBAN",
        re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
        _is_iban,
    ),
    ("CARD", re.compile(r"(?<![\w.+-])(?:\d[ -]?){12,18}\d(?![\w-])"), _is_card),
    (
        "IP",
        re.compile(
            r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)"
            r"|(?<![\w:])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])"
        ),
        _is_ip,
    ),
    (
        "SSN",
        re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])"),
        _has_its_form,
    ),
    (
        "PHONE",
        re.compile(
            r"(?<![\w.])(?:\+\d{1,3}[ .-]?)?(?:\(\d{1,5}\)[ .-]?)?"
            r"\d{2,5}(?:[ .-]\d{2,5}){1,4}(?![\w.])"
            r"|(?<![\w.])\+\d{9,14}(?![\w.])"
        ),
        _is_phone,
    ),
)
