"""What a server's first answers say of it: its models, its clock, whether two addresses are one server. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime

import msgspec

from client.core.outcomes import message_of, one_line
from client.core.plan import Target
from client.core.records import ServerSnapshot
from client.errors import TargetError

NAMES_SHOWN = 8
KEY_HINT = "Name the variable that holds the key with --api-key-env, or its file with --api-key-file."


class Model(msgspec.Struct):
    id: str = ""
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[Model] = []


class _Version(msgspec.Struct):
    version: str | None = None


def read_models(page: bytes) -> tuple[Model, ...]:
    """The models that a server lists; none when the page is something else."""
    try:
        return tuple(model for model in msgspec.json.decode(page, type=_Models).data if model.id)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()


def read_version(page: bytes) -> str | None:
    try:
        version = msgspec.json.decode(page, type=_Version).version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if version is None else one_line(version)


def refusal(target: Target, status: int, headers: Sequence[tuple[str, str]], content: bytes) -> TargetError | None:
    """Why a server that answers cannot be measured: it asks for a key, or sends us elsewhere. None when neither."""
    where = f"target {target.name} at {target.base_url}"
    if status in (401, 403):
        given = "the key that was given" if target.api_key_env or target.api_key_file else "a request without a key"
        said = one_line(message_of(content))
        return TargetError(f"{where} refuses {given} (HTTP {status}{f': {said}' if said else ''}).", KEY_HINT)
    if 300 <= status < 400:
        location = one_line(next((value for name, value in headers if name.lower() == "location"), "nowhere"))
        return TargetError(
            f"{where} redirects to {location} (HTTP {status}), which is not followed: the key and the load would go to another address.",
            f"If that is the server, say so: --url {target.name}={location.removesuffix('/v1/models')}",
        )
    return None


def choose_model(target: Target, status: int, page: bytes) -> tuple[str, tuple[Model, ...]]:
    """The name to ask for, and all that are served. Raises TargetError when it cannot be told."""
    served = read_models(page) if status == 200 else ()
    names = [model.id for model in served]
    if target.model is not None and (not names or target.model in names):
        return target.model, served
    if len(names) == 1 and target.model is None:
        return names[0], served
    if names:
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        listed = ", ".join(one_line(name) for name in names[:NAMES_SHOWN]) + more
        hint = f"Served there: {listed}. Choose with --model {target.name}={one_line(names[0])}."
        if target.model is None:
            raise TargetError(f"target {target.name} serves {len(names)} models and none was named.", hint)
        raise TargetError(f"target {target.name} does not serve the model {target.model}.", hint)
    said = one_line(message_of(page))
    raise TargetError(
        f"target {target.name}: {target.base_url}/v1/models lists no model (HTTP {status}{f': {said}' if said else ''}).",
        f"Is it an OpenAI-compatible server? If so, name the model: --model {target.name}=MODEL.",
    )


def clock_offset_s(date: str | None, sent_wall_ns: int, received_wall_ns: int) -> float | None:
    """The server's wall clock minus ours, good to about a second, from the Date header (RFC 9110 §6.6.1: whole seconds, cut off)
    of an answer that was asked for and came at these times of our clock. None when there is no such header. 0.0 where both may agree."""
    try:
        when = parsedate_to_datetime(date or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
    theirs = when.timestamp()
    low, high = theirs - received_wall_ns / 1e9, theirs + 1.0 - sent_wall_ns / 1e9
    return 0.0 if low <= 0.0 <= high else (low + high) / 2


def birth_marks(page: ServerSnapshot | None) -> tuple[str, ...]:
    """The creation times of a server's counters, to the microsecond: equal on two pages only if one process made both."""
    if page is None or page.text is None:
        return ()
    return tuple(
        line.rpartition(" ")[2] for line in page.text.splitlines() if "_created{" in line or "_created " in line
    )
