"""The sent pictures of a saved run once more: drawn again from their seed, or read again where the files still are what they were."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from client.core.plan import RunPlan
from client.core.records import ImageFact
from client.errors import UsageError
from client.workload.sources import FilePictures, SyntheticPictures, open_pictures


def jpegs_again(plan: RunPlan, facts: Mapping[str, ImageFact], wanted: Iterable[str]) -> tuple[dict[str, bytes], str]:
    """JPEG by image id for those of `wanted` whose bytes are still the ones that were sent, and why others are missing ('' if none is)."""
    ids = set(wanted) & set(facts)
    if not ids:
        return {}, ""
    try:
        # Blocks by duration deal their numbers out in turn: one that sends more than the others runs ahead of the count.
        pictures = open_pictures(plan.workload, plan.seed, max(1, 2 * len(facts)))
        found = _files(pictures, ids) if isinstance(pictures, FilePictures) else _synthetic(pictures, ids)
    except UsageError as error:
        return {}, f"The pictures that were sent cannot be read again: {error}"
    same = {name: jpeg for name, jpeg in found.items() if hashlib.sha256(jpeg).hexdigest() == facts[name].sha256}
    lost = len(ids) - len(same)
    return same, f"{lost} of {len(ids)} pictures are no longer what was sent, and are not shown." if lost else ""


def _synthetic(pictures: SyntheticPictures, ids: set[str]) -> dict[str, bytes]:
    """`synthetic-<seed>-<number>-<size>`: the id tells its number."""
    found = {}
    for name in ids:
        parts = name.split("-")
        if len(parts) >= 3 and parts[2].isdecimal():
            case = pictures.case(int(parts[2]))
            if case.image_id == name:
                found[name] = case.jpeg
    return found


def _files(pictures: FilePictures, ids: set[str]) -> dict[str, bytes]:
    """A picture is `<file>` or, where its pixels were varied, `<file>~<number>`: only files with such names are decoded."""
    found: dict[str, bytes] = {}
    names = ids | {name.rpartition("~")[0] for name in ids}
    for number in range(len(pictures)):
        if len(found) == len(ids):
            break
        if pictures.entries[number % len(pictures.entries)].name not in names:
            continue
        case = pictures.case(number)
        if case.image_id in ids:
            found[case.image_id] = case.jpeg
    return found
