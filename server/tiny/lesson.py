"""What the network is taught with: altered pictures, and losses that know that digits are numbers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

SPREAD = 0.004
"""Standard deviation of the doubt in a coordinate: neighbours of the true digit are nearly right."""


def altered(pixels: Any, boxes: Any) -> tuple[Any, Any]:
    """Pictures (bytes) mirrored, cropped and differently lit, 0..1, with their boxes. The table always stays inside."""
    batch, device = len(pixels), pixels.device

    def chance(*shape: int) -> Any:
        return torch.rand(shape or (batch,), device=device)

    x0, y0, x1, y1 = boxes.unbind(1)
    # A window around the table: each side moves inwards by some part of its free space, in half of the pictures.
    crop = (chance() < 0.5).float()
    part = 0.45
    left, top = x0 * chance() * part * crop, y0 * chance() * part * crop
    right, bottom = 1 - (1 - x1) * chance() * part * crop, 1 - (1 - y1) * chance() * part * crop
    wide, high = right - left, bottom - top
    flip_x, flip_y = (chance() < 0.5).float(), (chance() < 0.3).float()
    matrix = torch.zeros(batch, 2, 3, device=device)
    matrix[:, 0, 0], matrix[:, 0, 2] = wide * (1 - 2 * flip_x), left + right - 1
    matrix[:, 1, 1], matrix[:, 1, 2] = high * (1 - 2 * flip_y), top + bottom - 1
    image = pixels.float() / 255
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    image = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    nx0, nx1, ny0, ny1 = (x0 - left) / wide, (x1 - left) / wide, (y0 - top) / high, (y1 - top) / high
    moved = torch.stack(
        [
            torch.where(flip_x > 0, 1 - nx1, nx0),
            torch.where(flip_y > 0, 1 - ny1, ny0),
            torch.where(flip_x > 0, 1 - nx0, nx1),
            torch.where(flip_y > 0, 1 - ny0, ny1),
        ],
        dim=1,
    )
    gain = (0.8 + 0.4 * chance(batch, 3, 1, 1)) * (0.75 + 0.4 * chance(batch, 1, 1, 1))
    image = image * gain + 0.1 * (chance(batch, 1, 1, 1) - 0.5)
    return image.clamp(0, 1), moved.clamp(0, 1)


def spell(boxes: Any, template: Any, digit_ids: Any) -> Any:
    """Token ids of the answers (batch, length): the template with the twelve decimals and four leading digits filled in."""
    answers = template.expand(len(boxes), -1).clone()
    thousandths = (boxes * 1000).round().long().clamp(0, 1000)
    for side in range(4):
        value, at = thousandths[:, side], 1 + 7 * side
        answers[:, at] = digit_ids[value // 1000]
        for place, unit in enumerate((100, 10, 1)):
            answers[:, at + 2 + place] = digit_ids[value // unit % 10]
    return answers


def digit_loss(logits: Any, boxes: Any, answers: Any, digit_ids: Any) -> Any:
    """Cross-entropy over an answer, where each decimal is compared with a bell around the true coordinate instead of one digit."""
    logits = logits.float()
    length = answers.shape[1]
    loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten(), reduction="none").view(-1, length)
    thousandths = (boxes * 1000).round().clamp(0, 1000)
    decimals, values = [], []
    for side in range(4):
        for place in range(3):
            decimals.append(1 + 7 * side + 2 + place)
            values.append(_bell(boxes[:, side], thousandths[:, side], place))
    soft = torch.stack(values, dim=1)  # (batch, 12, 10)
    chosen = logits[:, decimals].log_softmax(-1)[:, :, digit_ids]
    plain = [at for at in range(length) if at not in decimals]
    return (-(soft * chosen).sum(-1).sum(1) + loss[:, plain].sum(1)).mean() / length


def _bell(value: Any, thousandths: Any, place: int) -> Any:
    """(batch, 10): the share of each digit at a decimal place, given that the digits before it are right."""
    unit = (100, 10, 1)[place]
    base = torch.div(thousandths, unit * 10, rounding_mode="floor") * unit * 10
    edges = (base[:, None] + unit * torch.arange(11, device=value.device) - 0.5) / 1000
    below = torch.special.ndtr((edges - value[:, None]) / SPREAD)
    share = below[:, 1:] - below[:, :-1] + 1e-6
    return share / share.sum(1, keepdim=True)


def coverage(boxes: Any, rows: int, columns: int) -> Any:
    """(batch, rows * columns): which part of each image token's cell the table covers."""

    def along(low: Any, high: Any, count: int) -> Any:
        edge = torch.arange(count, device=boxes.device) / count
        return ((high[:, None].minimum(edge + 1 / count) - low[:, None].maximum(edge)) * count).clamp(0, 1)

    return (
        along(boxes[:, 1], boxes[:, 3], rows)[:, :, None] * along(boxes[:, 0], boxes[:, 2], columns)[:, None]
    ).flatten(1)
