"""The border: files, environment and argv in; a checked `RunPlan` out. Nothing behind it doubts a value again."""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from client.core.conditions import parse_slo
from client.core.effect_size import read_min_effect
from client.core.measurable import check_conditions, check_primary
from client.core.plan import (
    BoxFrame,
    Design,
    RunPlan,
    Target,
    TargetKind,
    Workload,
)
from client.core.runpod import kind_of, openai_base
from client.errors import UsageError
from client.load_options import at_least, between, load_profile
from client.remote import base_url, elsewhere, parse_timeouts, read_keys, refuse_same_address

TARGETS_FILE = Path(__file__).parent.parent / "server" / "targets.toml"
PROFILES = ("rtx-6000-ada", "h100")
MAX_TARGETS_FILE_BYTES = 1_000_000
FLAGS = {
    "url": "--url", "model": "--model", "precision": "--precision", "image": "--served-image", "args": "--engine-args",
    "price_usd_per_hour": "--price", "api_key_env": "--api-key-env", "api_key_file": "--api-key-file",
    "server_log": "--server-log", "sidecar": "--sidecar",
}  # fmt: skip
"""The flag that overrides each field of a target."""


class TargetEntry(BaseModel):
    """One table of targets.toml, with the environment and the flags laid over it."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    url: str
    model: str | None = None
    precision: str = "unknown"
    image: str | None = None
    args: list[str] = Field(default_factory=list)
    price_usd_per_hour: float | None = Field(default=None, gt=0)
    kind: TargetKind | None = None
    api_key_env: str | None = None
    api_key_file: str | None = None
    server_log: str | None = None
    sidecar: str | None = None

    @field_validator("url")
    @classmethod
    def _base_url(cls, value: str) -> str:
        return base_url(value)

    @field_validator("sidecar")
    @classmethod
    def _sidecar(cls, value: str | None) -> str | None:
        return None if value in (None, "", "none") else value


def build_plan(arguments: argparse.Namespace, environment: Mapping[str, str]) -> RunPlan:
    """Raises UsageError, with the place and the next step, for whatever cannot be done."""
    targets = _targets(arguments, environment)
    workload, load = _workload(arguments), load_profile(arguments)
    slos = tuple(parse_slo(text) for text in arguments.slo)
    return RunPlan(
        targets=targets,
        workload=workload,
        load=load,
        timeouts=parse_timeouts(arguments.timeout),
        design=_design(arguments, targets),
        seed=at_least("--seed", arguments.seed, 0),
        primary=check_primary(arguments.primary, workload, load, slos),
        min_effect=read_min_effect(arguments.min_effect),
        iou_margin=between("--iou-margin", arguments.iou_margin, 0.0, 1.0),
        quality=at_least("--quality", arguments.quality, 0),
        logprobs=_logprobs(arguments.logprobs, arguments.quality),
        slos=slos,
        fail_if=check_conditions(arguments.fail_if, targets, workload, load, slos),
        simulate=arguments.simulate,
    )


def _logprobs(top: int, quality: int) -> int:
    if not 0 <= top <= MOST_LOGPROBS:
        raise UsageError(
            f"--logprobs {top}: servers list 1 to {MOST_LOGPROBS} tokens at a position.", "For example --logprobs 5."
        )
    if top and not quality:
        raise UsageError(
            "--logprobs without --quality: tokens are compared in quality passes only, so that no timed request pays for them.",
            "Add --quality 100, or leave --logprobs out.",
        )
    return top


def _design(arguments: argparse.Namespace, targets: tuple[Target, ...]) -> Design:
    if arguments.isolate:
        _refuse_impossible_isolation(arguments)
        return Design.SERIAL if len(targets) > 1 else Design.SINGLE
    if len(targets) == 1:
        return Design.SINGLE
    return Design(arguments.design) if arguments.design else Design.INTERLEAVED


def _refuse_impossible_isolation(arguments: argparse.Namespace) -> None:
    if arguments.simulate is not None:
        raise UsageError(
            "--isolate and --simulate together: simulated servers of this process need no isolation.",
            "Leave one of them out; docker-compose.sim.yml holds simulated servers in containers.",
        )
    if arguments.docker == "off":
        raise UsageError("--isolate starts containers, and --docker off forbids it.", "Leave one of them out.")
    if arguments.design == "interleaved":
        raise UsageError(
            "--isolate and --design interleaved together: turns on a live pair need both servers alive.",
            "Leave one of them out.",
        )


# ---------------------------------------------------------------- targets


def _targets(arguments: argparse.Namespace, environment: Mapping[str, str]) -> tuple[Target, ...]:
    if arguments.simulate is not None and arguments.simulate not in PROFILES:
        raise UsageError(f"--simulate {arguments.simulate}: no such profile.", f"Known: {', '.join(PROFILES)}.")
    tables = read_targets_file(Path(arguments.targets) if arguments.targets else TARGETS_FILE)
    flags = _per_target_flags(arguments)
    names = list(dict.fromkeys(arguments.target or (list(tables) if arguments.targets else ["bf16", "fp8"])))
    if arguments.simulate is not None:
        _refuse_flags_of_real_servers(arguments)
    for name in names:
        if (
            name not in tables
            and "url" not in flags.get(name, {})
            and not ("url" in flags.get("", {}) and len(names) == 1)
        ):
            raise UsageError(
                f"--target {name}: no such target in {arguments.targets or 'server/targets.toml'}.",
                f"Known: {', '.join(tables)}. For another server give --url {name}=http://HOST:PORT too.",
            )
    for name in flags:
        if name and name not in names:
            raise UsageError(
                f"a flag names the target {name}, which is not measured.", f"Measured: {', '.join(names)}."
            )
    if "" in flags and "url" in flags[""] and len(names) > 1:
        raise UsageError(
            f"--url {flags['']['url']} would make {' and '.join(names)} one and the same server.",
            "Say which target it is (--url fp8=http://…), or measure one target (--target fp8).",
        )
    targets = tuple(_target(name, tables.get(name, {}), flags, arguments, environment) for name in names)
    refuse_same_address(targets)
    read_keys(targets, environment)  # a missing key costs nothing now
    return targets


def read_targets_file(path: Path) -> dict[str, dict[str, Any]]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_TARGETS_FILE_BYTES + 1)
        if len(text) > MAX_TARGETS_FILE_BYTES:
            raise UsageError(f"{path} is over {MAX_TARGETS_FILE_BYTES} bytes.", "That is no targets file.")
        data = tomllib.loads(text.decode())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}.", "Give a readable file with --targets.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}.", "server/targets.toml shows the form.") from None
    tables = data.get("targets")
    if not isinstance(tables, dict) or not tables or not all(isinstance(table, dict) for table in tables.values()):
        raise UsageError(f"{path} has no [targets.NAME] tables.", "server/targets.toml shows the form.")
    return tables


def _refuse_flags_of_real_servers(arguments: argparse.Namespace) -> None:
    for flag in ("url", "model", "api_key_env", "server_log", "sidecar"):
        if getattr(arguments, flag):
            raise UsageError(
                f"--{flag.replace('_', '-')} and --simulate together: a simulated server is not asked for that.",
                "Leave one of them out.",
            )


def _per_target_flags(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """{"fp8": {"url": …}, "": {…}} where the empty name stands for every target."""
    found: dict[str, dict[str, Any]] = {}
    for field, flag in FLAGS.items():
        for value in getattr(arguments, flag.removeprefix("--").replace("-", "_")):
            name, equals, rest = value.partition("=")
            named = bool(equals) and re.fullmatch(r"[A-Za-z0-9._-]+", name) is not None
            text = rest if named else value
            found.setdefault(name if named else "", {})[field] = _words(flag, text) if field == "args" else text
    return found


def _words(where: str, text: str) -> list[str]:
    """As a shell splits them."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(
            f"{where}: {text!r} cannot be split into arguments ({error}).", "Close its quotes, or escape them."
        ) from None


def _from_environment(prefix: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """HALFWEIGHT_FP8_URL and so on. Only known fields: HALFWEIGHT_FP8_BLOCK_URL may be of a target named fp8-block."""
    found: dict[str, Any] = {}
    for field in TargetEntry.model_fields:
        value = environment.get(prefix + field.upper())
        if value:
            found[field] = _words(prefix + "ARGS", value) if field == "args" else value
    return found


def _target(
    name: str,
    table: dict[str, Any],
    flags: dict[str, dict[str, Any]],
    arguments: argparse.Namespace,
    environment: Mapping[str, str],
) -> Target:
    prefix = f"HALFWEIGHT_{re.sub(r'[^A-Za-z0-9]', '_', name).upper()}_"
    from_environment = _from_environment(prefix, environment)
    fields = {**table, **from_environment, **flags.get("", {}), **flags.get(name, {})}
    if arguments.simulate:
        # A simulated server stands in for the real one: only the name and the precision of the target remain.
        price = fields.get("price_usd_per_hour")
        fields = {"url": "http://127.0.0.1:1", "precision": table.get("precision", name), "price_usd_per_hour": price}
    try:
        entry = TargetEntry.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        flag = f" or {FLAGS[where]}" if where in FLAGS else ""
        hint = f"It comes from targets.toml, {prefix}{where.upper()}{flag}."
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"target {name}, {where}: {message}.", hint) from None
    kind = entry.kind or kind_of(entry.url)
    by_file = "sidecar" in table and not any(
        "sidecar" in over for over in (from_environment, flags.get("", {}), flags.get(name, {}))
    )
    return Target(
        name=name,
        base_url=openai_base(entry.url) if kind is TargetKind.RUNPOD_SERVERLESS else entry.url,
        kind=kind,
        model=entry.model,
        precision=entry.precision if entry.precision != "unknown" else name,
        image=entry.image,
        engine_args=tuple(entry.args),
        price_usd_per_hour=entry.price_usd_per_hour,
        api_key_env=None if entry.api_key_file else entry.api_key_env,
        api_key_file=entry.api_key_file,
        server_log=entry.server_log,
        sidecar_url=None if by_file and elsewhere(table, entry.url) else entry.sidecar,
        simulated=arguments.simulate is not None,
    )


# ---------------------------------------------------------------- workload


def _workload(arguments: argparse.Namespace) -> Workload:
    match = re.fullmatch(r"(\d+)[xX](\d+)", arguments.image_size)
    if not match:
        raise UsageError(f"--image-size {arguments.image_size}: not a size.", "Write it as 1024x759.")
    width, height = int(match[1]), int(match[2])
    for side in (width, height):
        if not 56 <= side <= 8192:
            raise UsageError(
                f"--image-size {arguments.image_size}: sides go from 56 to 8192 pixels.", "For example 1024x759."
            )
    return Workload(
        images=arguments.images,
        width=width,
        height=height,
        max_side=at_least("--max-side", arguments.max_side, 56),
        repeat_image=arguments.repeat_image,
        prompt=arguments.prompt,
        system_prompt=arguments.system_prompt,
        max_tokens=at_least("--max-tokens", arguments.max_tokens, 1),
        temperature=between("--temperature", arguments.temperature, 0.0, 2.0),
        ignore_eos=arguments.ignore_eos,
        box_frame=BoxFrame(arguments.box_frame),
    )


MOST_LOGPROBS = 20
"""vLLM's own limit (--max-logprobs) where none was given."""
