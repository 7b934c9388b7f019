"""Secrets out of texts and values, before they are kept or shown for people to read.

A secret is known by its name (``password=...``, ``"api_key": ...``, a header, a flag) or by its shape (credentials in
a URL, a JWT, the key of a well-known service, a card number). Both are guesses: what has neither a name nor a shape
stays, and a word where a secret would stand goes.

This takes time in proportion to the text, whatever it holds: a pattern has a bound wherever it may fail after a
repetition, and what was looked at without a bound is replaced, and so never looked at again.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .codec import event_class

__all__ = ["DEFAULT", "MASK", "Redaction", "redact_text", "redact_value"]

MASK = "***"

# -- What a name says

# The group says what kind of secret it is: "many" of them (or their count: numbers stay), a "number" of a card or
# a person (digits go, and nothing else), a "header" (the rest of its line may belong to it), or "one" of the others.
_KEYS = "access|account|api|auth|(?:de|en)cryption|fernet|hmac|license|master|private|secret|session|shared|signing"
_NAME = re.compile(
    rf"""(?:
      (?P<no> ^(?:has|is|max|min|needs|no|num|requires?|total|uses?)_.* | (?:bos|cls|continuation|cursor|end|eos|fencing
        |idempotency|mask|next|pad|page|per|sep|special|start|stop|sync|unexpected|unk)_tokens? )
    | (?P<number> c(?:ard|c)_?(?:number|num|no) | (?:credit|debit)_?card | security_?code | social_?security(?:_number)?
        | (?:mfa|otp|verification)_?code | pin_?number | (?:^|_)(?:cvc|cvv|otp|pin|ssn|totp) )
    | (?P<header> authorization | cookies? )
    | (?P<many> pass_?words | secrets | tokens | (?:{_KEYS})_?keys | durable_keys | ^(?:basic|http|proxy)?_?auth )
    | (?P<one> pass_?(?:code|phrase|word) | passwd | pwd | secret | token | jwt | bearer | credentials? | creds
        | (?:{_KEYS})_?key | connection_?string | (?:^|php|j)_?sess(?:ion)?id | (?:amz|goog)_signature
        | (?:admin|auth|basic|database|db|e?mail|ftp|http|ldap|login|my|(?:my)?sql|pg|postgres|proxy|redis|root|smtp
          |user)_?pass )
    )(?:_(?:[0-9]+|again|base|confirm|confirmation|current|dev|encrypted|hash|live|new|old|plain|plaintext|previous|prod
      |production|raw|repeat|staging|test|v|value))*$""",
    re.VERBOSE,
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


@lru_cache(maxsize=4096)
def _kind_of(name: str) -> str | None:
    """What a name says of its value. It counts by its last word, but for those that say which one it is."""
    found = _NAME.search("_".join(_WORD.findall(name)).lower())
    return None if found is None or found["no"] else found.lastgroup


# -- A secret behind its name, in a text

_NAMED = re.compile(
    r"""(?<![\w-])(?<!://)
    (?P<name>(?:(?:api|access|private|secret|encryption|signing|card|credit|session|security)[ ])?[a-z_-][\w-]{0,63})
    (?P<close>(?:\\{0,15}["']\]?)?)[ \t]{0,4}(?P<sign>:=|=>|!=|={1,3}|:(?![:/]))[ \t]{0,8}""",
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)
_FLAG = re.compile(
    r"""(?<![\w-])--(?P<name>[a-z][\w-]{0,63})(?P<close>)(?P<sign>["'],[ ]?|[ ]{1,4})(?=[^\s-])""", re.IGNORECASE
)
_NOTHING = (
    r"(?:none|null|nil|true|false|undefined|\.{3}|%s|%\(\w{1,64}\)s|\$?\{[\w.!:]{0,64}\}|<[\w\ .:-]{1,64}>|\[\]|\(\))"
)
_KEPT = re.compile(
    rf"""[bruf]{{0,2}}(?P<quote>\\{{0,15}}["']){_NOTHING}?(?P=quote)
    | {_NOTHING}(?=[\s,;&|)\]}}"'\\<]|\.?(?:\s|$))""",
    re.IGNORECASE | re.VERBOSE,
)
"""No secret, though it stands where one would: nothing, a placeholder, a yes or no."""
_OPENING = re.compile(r"""[bBrRuUfF]{0,2}(?P<slashes>\\{0,15})(?P<quote>["'])(?P<ends>(?=[\s.,;:)\]}]|$))?""")
_DIGITS = re.compile(r"""[bu]?(?:\\{0,15}["'])?([0-9](?:[ -]?[0-9]){2,24})""")
_COUNT = re.compile(r"""(?:\\{0,15}["'])?[0-9][0-9.,_]{0,20}(?=["'\\\s;)\]}]|$)""")
_STRINGS = re.compile(r"""[\[(]\s{0,80}[bu]?\\{0,15}["']""")
_BARE = re.compile(
    r"""(?![,;&])(?:
      [^\s,;&"'()\[\]{}>\\]+
    | [,;&](?=\w)(?![\w.-]{1,64}(?:=[^\s,;&=]|:\s))  # what parts it from the next name ends it
    | ["'\])}>](?=\w)                       # as does what closes something around it
    | \\+(?!["'\\])
    )+""",
    re.VERBOSE,
)
_WITH_SCHEME = re.compile(r"(?:basic|bearer|token|negotiate|ntlm|apikey|jwt|key)[ \t]{1,4}(?=\S)", re.IGNORECASE)
_WITH_PARAMETERS = re.compile(r"(?:digest|oauth|hawk|signature|aws4-hmac-sha256)[ \t]([^\r\n]*)", re.IGNORECASE)
_COOKIES = re.compile(r"""[^\r\n"'\\]+""")
_ORDINARY = re.compile(
    r"""(?:[0-9]{1,2}|a|an|and|any|argument|at|bad|bool|bytes|can|cannot|denied|dict|does|empty|error|expected|expired
    |failed|field|flag|float|for|from|given|has|if|in|incorrect|input|int|invalid|is|it|list|malformed|may|mismatch
    |missing|must|no|none|not|null|of|ok|option|optional|or|provided|rejected|required|revoked|secretstr|send|should
    |str|string|the|this|to|too|undefined|unexpected|unknown|value|was|will|wrong|yes|your?)(?=[\s.,:;?|\[)\]}"'\\]|$)""",
    re.IGNORECASE | re.VERBOSE,
)
"""What follows the colon in ``password: must not be empty``, and is not the password."""

Span = tuple[int, int]


def _masked_where(text: str, pattern: re.Pattern[str], where: Callable[[str, re.Match[str]], Span | None]) -> str:
    """``where`` says what is secret at a match or after it; and if nothing is, with an empty span, where to go on."""
    parts, done, position = [], 0, 0
    while found := pattern.search(text, position):
        start, position = where(text, found) or (found.end(), found.end())
        if start < position:
            parts += [text[done:start], MASK]
            done = position
    return "".join([*parts, text[done:]])


def _secret_behind(text: str, found: re.Match[str]) -> Span | None:
    """Where the secret is that a name announces, if it does and there is one."""
    name, before = found["name"], text[found.start() - 1 : found.start()]
    kind = _kind_of(name)
    if kind is None and before == "\\" and name[0] in "nrt":  # a line break, as repr writes it
        kind = _kind_of(name[1:])
    if kind is None or _KEPT.match(text, start := found.end()) or (kind == "many" and _COUNT.match(text, start)):
        return None
    sign = found["sign"].strip()
    if kind == "number":
        digits = _DIGITS.match(text, start)
        return digits.span(1) if digits else None
    if opening := _OPENING.match(text, start):
        if opening["quote"] == before and opening["ends"] is not None and not found["close"]:
            return None  # 'password=' in quotes, and no value
        return opening.end(), _end_of_quoted(text, opening.end(), len(opening["slashes"]), opening["quote"])[0]
    if text[start : start + 1] in ("[", "(", "{"):
        if kind == "many" and not _STRINGS.match(text, start):
            return None
        return start, _end_of_bracketed(text, start, lines=sign == ":")
    if (kind == "many" and sign != "=") or (sign in (":", "") and _ORDINARY.match(text, start)):
        return None
    if kind == "header":
        return _secret_of_header(text, start, sign == ":" and not found["close"] and "cookie" in name.lower())
    return _bare_secret(text, start)


def _secret_of_header(text: str, start: int, cookies: bool) -> Span | None:
    if parameters := _WITH_PARAMETERS.match(text, start):
        return parameters.span(1)
    scheme = _WITH_SCHEME.match(text, start)
    start = scheme.end() if scheme else start
    bare = None if _KEPT.match(text, start) else _bare_secret(text, start)
    if bare and cookies and "=" in text[start : bare[1]] and (several := _COOKIES.match(text, start)):
        return start, max(bare[1], several.end())
    return bare


def _bare_secret(text: str, start: int) -> Span | None:
    """A secret without quotes around it: up to white space, or to what parts it from what follows."""
    end = start
    while True:
        if bare := _BARE.match(text, end):
            end = bare.end()
        if end == start or text[end : end + 1] not in ("(", "[", "{"):
            return (start, end) if end > start else None
        end = _end_of_bracketed(text, end, lines=False)  # an expression in a line of source


# A run of backslashes always matches, and so is passed over once.
_QUOTES = re.compile(r"""\\+["']?|["'\n]""")
_BRACKETS = re.compile(r"""\\+["']?|(?<![A-Za-z0-9])["']|[\[({\])}\n]""")
_LONGEST = 10_000


def _end_of_quoted(text: str, position: int, slashes: int, quote: str) -> Span:
    """Where a quoted text ends, without and with its closing quote; with the line at the latest.

    ``slashes`` are those before its opening quote: none, one in JSON within JSON, three in that in JSON again. As many
    close it, after any number of escaped ones, but for those of repr in JSON: then the text goes on with a word.
    """
    for found in _QUOTES.finditer(text, position):
        token, more = found[0], len(found[0]) - 1 - slashes
        if token == "\n" or (token[-1] == quote and more < 0):  # fewer close what is around it, which was cut off
            return found.start(), found.start()
        if token[-1] != quote:
            continue
        if more == 0 or (more % (2 * slashes + 2) == 0 and not text[found.end() : found.end() + 1].isalnum()):
            return found.end() - 1 - slashes, found.end()
    return len(text), len(text)


def _end_of_bracketed(text: str, position: int, *, lines: bool) -> int:
    """Where a bracket's other one is; with the line, or after some length, where it is missing."""
    depth, limit = 0, min(len(text), position + _LONGEST)
    while found := _BRACKETS.search(text, position, limit):
        token, position = found[0], found.end()
        if token in "[({":
            depth += 1
        elif token in "])}":
            depth -= 1
            if depth == 0:
                return position
        elif token == "\n":
            if not lines:
                return found.start()
        elif token[-1] != "\\":
            position = _end_of_quoted(text, position, len(token) - 1, token[-1])[1]
    return max(position, limit)


# -- A secret by its shape, in a text

_PEM = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[A-Za-z0-9+/=\s\\:,.]+|-(?!----))*(?:-----END[A-Z0-9 ]{0,60}(?:-----)?)?"
)
_URL = re.compile(r"""://((?:[^\s"'<>:]+|:(?!//))*)""")
_USER = re.compile(r"[^:/?#@\[\\]*:(?![0-9]{1,5}(?:[/?#,;&)]|$))")
_HOST_ENDS = re.compile(r"[/?#,;&)]")
_AFTER = re.compile(  # what signs a URL, or is itself the secret of one
    r"([?&](?:sig|signature)=|hooks\.slack\.com/(?:services|workflows|triggers)/)[^\s&\"'<>]{6,}", re.IGNORECASE
)
_IN_XML = re.compile(r"(<([\w.:-]{1,128})(?:\s[^<>]{0,256})?>)[^<]{1,8192}(?=</)")
_BEARER = re.compile(r"\b((?:bearer|basic)[ \t]{1,4})(?=[a-z._~+/-]{0,200}[0-9])[\w.~+/=-]{12,}", re.IGNORECASE)
_SHAPES = re.compile(  # of keys that say whose they are, and of JWTs
    r"""(?<![A-Za-z0-9])(?:
      (?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{8,} | whsec_[A-Za-z0-9+/=]{16,} | (?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])
    | gh[pousr]_[A-Za-z0-9]{16,} | github_pat_[A-Za-z0-9_]{16,} | glpat-[\w-]{16,} | AIza[\w-]{35} | ya29\.[\w-]{16,}
    | xox[abeoprs]-[A-Za-z0-9-]{8,} | xapp-[A-Za-z0-9-]{16,} | sk-(?:ant|or|proj|svcacct)-[\w-]{16,}
    | sk-[A-Za-z0-9]{32,} | (?:hf|npm)_[A-Za-z0-9]{30,} | pypi-[\w-]{50,} | SG\.[\w-]{16,}\.[\w-]{16,}
    | dop_v1_[0-9a-f]{32,} | shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32} | eyJ[\w-]{8,}\.[\w-]{4,}[\w.-]*
    )""",
    re.ASCII | re.VERBOSE,
)
_CARD = re.compile(
    r"""(?<![\w.])(?<!\w-)(?:
      [2-6][0-9]{3}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4} | 3[0-9]{3}([ -])[0-9]{6}\2[0-9]{4,5} | [2-6][0-9]{12,18}
    )(?!-?\w)(?!\.[0-9])""",
    re.ASCII | re.VERBOSE,
)
_ABOUT_A_CARD = re.compile(r"(?<!dis)card|visa|amex|maestro|(?<![a-z])pan(?![a-z])", re.IGNORECASE)
_DOUBLED = str.maketrans("0123456789", "0246813579")


def _card(text: str, found: re.Match[str], about_a_card: bool) -> Span:
    """One digit after another alone is an id more often than a card: a word near it has to say so."""
    start, end = found.span()
    near = slice(max(0, start - 40), end + 20)
    if _is_card(found[0]) and (about_a_card or found.lastindex or _ABOUT_A_CARD.search(text[near])):
        return start, end
    return start + 4, start + 4  # of two groups that are none, the second may begin one


def _is_card(number: str) -> bool:
    """Whether the last digit is the check digit of the others."""
    digits = number.replace(" ", "").replace("-", "")
    return sum(map(int, digits[-1::-2] + digits[-2::-2].translate(_DOUBLED))) % 10 == 0


def _without_password(found: re.Match[str]) -> str:
    """A URL without the password in it. Up to the host it may have any character, as people do not quote them."""
    rest, user = found[1], _USER.match(found[1])
    if user is None:
        return found[0]
    start = user.end()
    host = _HOST_ENDS.search(rest, start)
    end = rest.rfind("@", start, host.start() if host else len(rest))
    end = rest.find("@", start) if end < 0 else end
    return f"://{user[0]}{MASK}{rest[end:]}" if end > start else found[0]


def _clean(text: str, about_a_card: bool = False) -> str:
    text = _URL.sub(_without_password, _PEM.sub(MASK, text))
    text = _masked_where(text, _CARD, lambda text, found: _card(text, found, about_a_card))
    text = _masked_where(_masked_where(text, _NAMED, _secret_behind), _FLAG, _secret_behind)
    text = _IN_XML.sub(lambda found: found[0] if _kind_of(found[2]) is None else found[1] + MASK, text)
    return _SHAPES.sub(MASK, _BEARER.sub(rf"\1{MASK}", _AFTER.sub(rf"\1{MASK}", text)))


# -- Values

_DEEPEST = 200  # as a stored value may be
_CONTAINERS: tuple[type[Any], ...] = (dict, list, tuple, set, frozenset)
_A_FLAG = re.compile(r"--[\w-]{1,80}", re.ASCII)


class _Copying:
    """The copy of one value. What is copied is known, so that a value that holds itself, or one that many
    places share, is gone through once."""

    def __init__(self, clean: Callable[[str, bool], str]) -> None:
        self._clean = clean
        self._copies: dict[tuple[int, bool, bool], Any] = {}

    def of(self, value: Any, all_secret: bool, about_a_card: bool, depth: int) -> Any:
        kind = type(value)  # and not isinstance, which asks a proxy for what it stands for
        if issubclass(kind, (str, bytes, bytearray)):
            return _masked(value) if all_secret else self._text(value, about_a_card)
        if kind is int and about_a_card and 10**12 <= value < 10**19:
            return MASK if _is_card(str(value)) else value
        if not issubclass(kind, (*_CONTAINERS, event_class())):
            return value
        known = (id(value), all_secret, about_a_card)
        if known not in self._copies:
            self._copies[known] = "..."
            if depth < _DEEPEST:
                copy = self._dict if issubclass(kind, dict) else self._items
                try:
                    self._copies[known] = copy(value, all_secret, about_a_card, depth + 1)
                except Exception:  # a subclass that is not what it says, or far too deep
                    self._copies[known] = MASK
        return self._copies[known]

    def _text(self, value: Any, about_a_card: bool) -> Any:
        is_text = isinstance(value, str)
        plain = str.__str__(value) if is_text else bytes(value).decode("latin-1")
        clean = self._clean(plain, about_a_card)
        if clean == plain:
            return value
        return clean if is_text else clean.encode("latin-1", "replace")

    def _dict(self, value: dict[Any, Any], all_secret: bool, about_a_card: bool, depth: int) -> dict[Any, Any]:
        copy: dict[Any, Any] = {}
        for key, item in dict.items(value):
            is_text = issubclass(type(key), (str, bytes))
            name = (key.decode("latin-1") if issubclass(type(key), bytes) else key)[-80:] if is_text else ""
            kind, card = _kind_of(name), _ABOUT_A_CARD.search(name) is not None
            if kind in ("one", "header") or (kind == "number" and _is_number(item)):
                item = _masked(item)
            else:
                item = self.of(item, all_secret or kind == "many", about_a_card or card, depth)
            if is_text and (key := self._text(key, card)) in copy:
                key = f"{key} ({len(copy)})"
            copy[key] = item
        return copy

    def _items(self, value: Any, all_secret: bool, about_a_card: bool, depth: int) -> Any:
        if isinstance(value, event_class()):
            return value.model_copy(update={"payload": self.of(value.payload, all_secret, about_a_card, depth)})
        plain = next(kind for kind in _CONTAINERS if isinstance(value, kind))
        copy, after_flag = [], False
        for item in plain.__iter__(value):
            is_text = issubclass(type(item), str)
            secret = after_flag and is_text and not item.startswith("-")
            copy.append(_masked(item) if secret else self.of(item, all_secret, about_a_card, depth))
            after_flag = is_text and _A_FLAG.fullmatch(item) is not None and _kind_of(item) is not None
        return plain(copy)


def _masked(value: Any) -> Any:
    """What stands for a secret. Nothing, and a yes or no, is none."""
    empty = issubclass(type(value), (str, bytes, bytearray, *_CONTAINERS)) and len(value) == 0
    return value if value is None or value is True or value is False or empty else MASK


def _is_number(value: Any) -> bool:
    """Whether it may be the number of a card or a person, and not how many there are, or what a pin is."""
    return type(value) in _CONTAINERS or (type(value) in (int, str) and _DIGITS.search(f"{value!s:.100}") is not None)


# -- As a project wants it


@dataclass(frozen=True)
class Redaction:
    """Takes secrets out. A ``hook`` gets each text after that, and returns what stays; if it fails, a note does."""

    active: bool = True
    hook: Callable[[str], str] | None = None

    @classmethod
    def of(cls, given: Any) -> Redaction:
        """What ``durable_redact`` asks for: ``True``, ``False``, a function from text to text, or its name."""
        if given is None or isinstance(given, bool):
            return cls(given is not False)
        if isinstance(given, str):
            module, _, name = given.rpartition(".")
            try:
                given = getattr(importlib.import_module(module), name)
            except (ImportError, AttributeError, ValueError) as error:
                raise ValueError(f"it can't be loaded: {error}") from error
        if not callable(given):
            raise TypeError("True, False, a function that takes a string and returns one, or its name is expected")
        return cls(True, given)

    def text(self, text: str, about_a_card: bool = False) -> str:
        """The text without its secrets."""
        if not self.active:
            return text
        try:
            text = _clean(text, about_a_card)
            return text if self.hook is None else str.__str__(self.hook(text))
        except Exception as error:
            return f"<redaction failed: {type(error).__name__}>"

    def value(self, value: Any) -> Any:
        """A copy of plain data without its secrets. What is no plain data is left as it is."""
        return _Copying(self.text).of(value, False, False, 0) if self.active else value


DEFAULT = Redaction()
redact_text = DEFAULT.text
redact_value = DEFAULT.value
