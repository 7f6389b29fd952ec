"""Changes known-good input: bytes, lines, words, and the values inside JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

from fuzz import hostile

_TOKEN = re.compile(rb"[A-Za-z_]\w*|\d+(?:\.\d+)?|\s+|[^\w\s]")
_DEEP = (b"(" * 400, b"[" * 5000 + b"]" * 5000, b"{" * 5000, b"-" * 20_000, b"not " * 3000, b"lambda: " * 500)
_BYTES = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80", b"\xed\xa0\x80", b"\x1b[2J", b"\r", b"\x0c", b"9" * 5000, b"1e999",
    b"NaN",
    b"Infinity", b"0x" + b"f" * 9000, b"#" * 300_000, b" " * 200_000, b"a=" * 50_000, b"# coding: latin-1\n",
    b"# coding: utf-7\n", b"# coding: nonsense\n",
    b"\xc2\x9b", b"\xe2\x80\xa8", b"\\", b'"', b"'''", b"\n", b"\t", b"-", b"1" * 400, b":", b",", b"}", b"]", b")",
)  # fmt: skip


def damaged(raw: bytes, rng: Random) -> bytes:
    """Input that is broken as files are broken, or nearly right."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        raw = rng.choice(_WAYS)(raw, rng)
    return raw


def reworded(raw: bytes, rng: Random, words: tuple[bytes, ...] = ()) -> bytes:
    """A few tokens replaced, removed, doubled or moved: what comes out is often still of the right form."""
    tokens = _TOKEN.findall(raw)
    if not tokens:
        return raw
    solid = [index for index, token in enumerate(tokens) if not token.isspace()] or [0]
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        index, other = rng.choice(solid), rng.choice(solid)
        action = rng.randrange(5)
        if action == 0:
            tokens[index] = b""
        elif action == 1:
            tokens[index] = tokens[other]
        elif action == 2:
            tokens[index], tokens[other] = tokens[other], tokens[index]
        elif action == 3:
            tokens[index] *= 2
        else:
            tokens[index] = rng.choice(words or _BYTES)
    return b"".join(tokens)


def _flip(raw: bytes, rng: Random) -> bytes:
    changed = bytearray(raw or b"\0")
    for _ in range(rng.choice((1, 4, 64))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _insert(raw: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(raw) + 1)
    return raw[:at] + rng.choice(_BYTES + _DEEP) + raw[at:]


def _cut(raw: bytes, rng: Random) -> bytes:
    return raw[: rng.randrange(len(raw) + 1)]


def _remove(raw: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(raw) + 1)
    return raw[:start] + raw[start + rng.choice((1, 10, 1000)) :]


def _shuffle_lines(raw: bytes, rng: Random) -> bytes:
    lines = raw.split(b"\n")
    index, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    action = rng.randrange(4)
    if action == 0:
        lines[index], lines[other] = lines[other], lines[index]
    elif action == 1:
        lines.insert(index, lines[other])
    elif action == 2:
        del lines[index]
    else:
        lines[index] = b" " * rng.choice((1, 4, 7)) + lines[index]
    return b"\n".join(lines)


def _encode(raw: bytes, rng: Random) -> bytes:
    text = raw.decode("utf-8", errors="replace")
    return text.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig", "latin-1", "utf-16-be", "cp037")), errors="replace")


def _join_lines(raw: bytes, rng: Random) -> bytes:
    return raw.replace(b"\n", rng.choice((b" ", b"\r", b"", b"\r\n", b"\0")))


def _noise(raw: bytes, rng: Random) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 20, 3000)))


def _repeat(raw: bytes, rng: Random) -> bytes:
    return raw * rng.choice((2, 3, 20)) if len(raw) < 20_000 else raw + raw


_WAYS: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flip, _insert, _insert, _cut, _remove, _shuffle_lines, _shuffle_lines, _encode, _join_lines, _noise, _repeat,
    reworded, reworded, reworded,
)  # fmt: skip


def json_with_other_values(raw: bytes, rng: Random) -> bytes:
    """JSON with a few of its values, keys or items changed; each line on its own where it is JSON lines."""
    lines = raw.split(b"\n")
    whole = _loaded(raw)
    if whole is not None:
        return _dumps(_changed_often(whole, rng))
    for _ in range(rng.choice((1, 1, 2, 9))):
        index = rng.randrange(len(lines))
        document = _loaded(lines[index])
        if document is not None:
            lines[index] = _dumps(_changed_often(document, rng))
    return b"\n".join(lines)


def _loaded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _changed_often(document: Any, rng: Random) -> Any:
    for _ in range(rng.choice((1, 1, 2, 5))):
        document = _changed(document, rng)
    return document


def _dumps(document: Any) -> bytes:
    try:
        return json.dumps(document).encode()
    except (RecursionError, ValueError):
        return b"[" * 100_000


def _changed(document: Any, rng: Random) -> Any:
    """One place in it changed."""
    if isinstance(document, dict) and document and rng.random() < 0.9:
        key = rng.choice(list(document))
        action = rng.randrange(8)
        if action == 0:
            return {name: item for name, item in document.items() if name != key}
        if action == 1:
            return {**document, hostile.text(rng): hostile.value(rng)}
        if action == 2:
            return {**document, key: document[rng.choice(list(document))]}
        return {**document, key: _changed(document[key], rng)}
    if isinstance(document, list) and document and rng.random() < 0.8:
        index = rng.randrange(len(document))
        action = rng.randrange(6)
        if action == 0:
            return document[:index] + document[index + 1 :]
        if action == 1:
            return [*document, hostile.value(rng)]
        return [*document[:index], _changed(document[index], rng), *document[index + 1 :]]
    if isinstance(document, str) and rng.random() < 0.7:
        return hostile.text(rng)
    if isinstance(document, int | float) and rng.random() < 0.7:
        return hostile.number(rng)
    return hostile.value(rng)
