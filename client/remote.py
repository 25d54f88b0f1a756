"""What a user says of a server elsewhere: its address, its key, how long to wait for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from client.core.plan import Target, Timeouts
from client.core.sidecar import host_of
from client.errors import UsageError

MAX_KEY_BYTES = 16_384
STAGES = {
    "connect": "connect_s",
    "write": "write_s",
    "first-byte": "first_byte_s",
    "idle": "idle_s",
    "total": "total_s",
}
LONGEST_S = 86_400.0


def base_url(text: str) -> str:
    """`http://host:8000/v1/` -> `http://host:8000`. Raises ValueError, without what may be a secret, for anything that is no http(s) address."""
    text = text.strip()
    if "@" in text:
        raise ValueError("a key or password must not stand in the URL; name its variable with --api-key-env")
    try:
        parts = urlsplit(text if "//" in text else f"http://{text}")
        _ = parts.port  # raises for a port that is none; its own words would repeat what stands there
    except ValueError:
        raise ValueError("this is no address: its brackets or its port are wrong") from None
    if parts.query or parts.fragment:
        place = f"{parts.scheme}://{parts.netloc}{parts.path}"
        raise ValueError(f"{place!r} goes on with a query or fragment; give the base address only")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{text!r} is no http:// or https:// address")
    if re.search(r"[^\x21-\x7e]", parts.netloc + parts.path):
        raise ValueError(
            f"{text!r} has a space or a special letter in it; write it percent-encoded (punycode for hosts)"
        )
    if parts.port == 0 or not _is_host(parts.hostname):
        raise ValueError(f"{parts.netloc!r} is no host and port that a server can have")
    path = re.sub(r"/+$", "", parts.path).removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path.removesuffix('/v1')}"


def _is_host(name: str) -> bool:
    """No label is empty or longer than 63 letters, and what begins as punycode is it."""
    if ":" in name:  # IPv6, checked with its brackets
        return True
    try:
        for label in name.removesuffix(".").split("."):
            plain = label[4:].encode().decode("punycode") if label.startswith("xn--") else label
            if not plain.encode("idna"):
                return False
    except UnicodeError:
        return False
    return True


def read_keys(targets: tuple[Target, ...], environment: Mapping[str, str]) -> dict[str, str]:
    """The API key of each target that has one, by target name. Raises UsageError, which never holds a key."""
    keys = {}
    for target in targets:
        if target.api_key_file is not None:
            keys[target.name] = _key(_key_file(target), f"the file {target.api_key_file}")
        elif target.api_key_env is not None:
            keys[target.name] = _key(_variable(target, environment), f"the variable {shown(target.api_key_env)}")
    return keys


def _variable(target: Target, environment: Mapping[str, str]) -> str:
    name = target.api_key_env or ""
    value = environment.get(name, "")
    if not value:
        raise UsageError(
            f"target {target.name}: the environment variable {shown(name)} is empty or not set.",
            "Give the name of the variable, never the key itself: export RUNPOD_KEY=… and --api-key-env RUNPOD_KEY.",
        )
    return value


def shown(name: str) -> str:
    """A variable's name. What does not look like one may be the key itself, given by mistake: its beginning only."""
    return name if re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name) else f"{name[:3]}…"


def _key_file(target: Target) -> str:
    path = Path(target.api_key_file or "")
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES).decode("ascii").strip()
    except OSError as error:
        raise UsageError(
            f"the key file {path} cannot be read: {error.strerror}.", "Give a file that can be read."
        ) from None
    except UnicodeDecodeError:
        raise UsageError(
            f"the key file {path} holds no key: it is no plain text.", "Give a file with the key alone."
        ) from None


def _key(value: str, place: str) -> str:
    """A key is printable ASCII without spaces: anything else could not stand in a header, or could add one."""
    value = value.strip()
    if not re.fullmatch(r"[\x21-\x7e]{1,8192}", value):
        raise UsageError(
            f"{place} does not hold a key alone ({len(value)} characters, with spaces, line breaks or special letters).",
            "Put the key there, on one line, without quotes or the word Bearer.",
        )
    return value


def parse_timeouts(texts: list[str]) -> Timeouts:
    """`["first-byte=30", "total=120"]` -> Timeouts, the others as usual."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in STAGES:
            raise UsageError(
                f"--timeout {text}: no such stage.", f"Known: {', '.join(STAGES)}; for example first-byte=30."
            )
        try:
            seconds = float(value.removesuffix("s"))
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= LONGEST_S:
            raise UsageError(f"--timeout {text}: not a number of seconds.", f"For example {name}=30.")
        found[STAGES[name]] = seconds
    return msgspec.structs.replace(Timeouts(), **found)


def elsewhere(table: dict[str, Any], url: str) -> bool:
    """Whether the file's sidecar would watch another machine's GPU: the server was named on another host than in the file."""
    try:
        return host_of(str(table.get("url"))) != host_of(url)
    except ValueError:
        return True


def refuse_same_address(targets: tuple[Target, ...]) -> None:
    seen: dict[str, str] = {}
    for target in targets:
        if target.simulated:
            continue
        address = target.base_url.replace("//localhost", "//127.0.0.1")
        if address in seen:
            raise UsageError(
                f"targets {seen[address]} and {target.name} are one and the same server: {target.base_url}.",
                f"Give another address with --url {target.name}=http://HOST:PORT.",
            )
        seen[address] = target.name


def unused_proxies(environment: Mapping[str, str]) -> str | None:
    """What a proxy in the environment would make other programs do, and this one does not; None where there is none."""
    named = [
        name
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
        if environment.get(name)
    ]
    if not named:
        return None
    return f"{', '.join(named)} is set and not used: requests go straight to the server, for a proxy's time would be measured as the server's."
