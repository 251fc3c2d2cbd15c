"""JSON-lines files of text to learn from: one record per line, each of them checked."""

import json
from pathlib import Path
from typing import Any

__all__ = ["read_jsonl"]

_FORMS = ({"prompt", "completion"}, {"text"}, {"messages"})
_WANTED = '{"prompt", "completion"}, {"text"} or {"messages"}'


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """Every record of a JSON-lines file, each checked; blank lines are skipped.

    A record is ``{"prompt": str, "completion": str}``, ``{"text": str}`` or ``{"messages":
    [{"role": str, "content": str}, …]}`` whose last message is the assistant's. Other keys beside
    these are kept and mean nothing here.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is no such record, is not JSON or is not UTF-8; the message names
            the first such line and counts the others. If there is no record at all.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "data.jsonl"
        >>> _ = path.write_text('{"text": "one"}\\n\\n{"prompt": "a", "completion": "b"}\\n')
        >>> read_jsonl(path)
        [{'text': 'one'}, {'prompt': 'a', 'completion': 'b'}]
    """
    # Not splitlines(): a JSON string may hold characters that Unicode counts as a line's end.
    lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    records, bad = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(_parse(line))
        except ValueError as error:
            bad.append(f"{path}, line {number}: {error}")
    if bad:
        more = f" (and {len(bad) - 1} more bad lines)" if len(bad) > 1 else ""
        raise ValueError(bad[0] + more)
    if not records:
        raise ValueError(f"expected at least one record in {path}, got none")
    return records


def _parse(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected UTF-8 text, got the byte 0x{line[error.start]:02x} at byte {error.start + 1}"
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"expected a JSON object, got text that is not JSON ({error.msg}, column {error.colno})"
        ) from error
    except RecursionError as error:
        raise ValueError("expected a JSON object, got one nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got {_kind(record)}")
    known = record.keys() & set().union(*_FORMS)
    if known not in _FORMS:
        raise ValueError(f"expected the keys of one of {_WANTED}, got {sorted(record)}")
    if "messages" in record:
        _check_messages(record["messages"])
    for key in known - {"messages"}:
        _check_text(record[key], key, may_be_empty=key == "prompt")
    return record


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise ValueError(f'expected a list of messages in "messages", got {_kind(messages)}')
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            got = sorted(message) if isinstance(message, dict) else _kind(message)
            raise ValueError(f'expected "role" and "content" in message {i + 1}, got {got}')
        _check_text(message["role"], "role")
        _check_text(message["content"], "content", may_be_empty=i + 1 < len(messages))
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        roles = [message["role"] for message in messages]
        raise ValueError(f"expected messages that end with the assistant's answer, got {roles}")


def _check_text(value: Any, key: str, *, may_be_empty: bool = False) -> None:
    if not isinstance(value, str):
        raise ValueError(f'expected a string in "{key}", got {_kind(value)}')
    if not may_be_empty and not value.strip():
        raise ValueError(f'expected some text in "{key}", got {value!r}')
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can write half a character: "\ud800"
        raise ValueError(f'expected whole characters in "{key}", got a lone surrogate') from error


def _kind(value: Any) -> str:
    """What JSON calls a value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    if isinstance(value, list) and not value:
        return "an empty list"
    return names.get(type(value), "a number")
