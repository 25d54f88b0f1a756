"""What stands around a nutrition table: the package, its print, and what is behind it. Much of it is white and looks like a table."""

from __future__ import annotations

from PIL import Image, ImageChops, ImageDraw, ImageFont

from client.core.pictures.dice import Colour, Dice
from client.core.pictures.lettering import Pen, font, slanted, text_width

Area = tuple[int, int, int, int]
_BRANDS = (
    "OATLY FIELDS",
    "Nordkorn",
    "Bella Riva",
    "Crunch'n Go",
    "VERDE",
    "Sunny Mill",
    "La Ferme",
    "KAKAO 70",
    "Alpina",
    "mio",
    "Bio Hof",
    "Tasty",
    "ZORBA",
)
_CLAIMS = (
    "NET WT 12 OZ (340g)",
    "500 g e",
    "BEST BEFORE 11/2027",
    "High in fibre",
    "Bio",
    "Vegan",
    "No added sugar",
    "Poids net 250 g",
    "Keep cool and dry",
    "www.example.org",
)
_INGREDIENTS = (
    "INGREDIENTS: WHOLE GRAIN OATS, SUGAR, CORN SYRUP, RICE FLOUR, CANOLA OIL, SALT,",
    "Zutaten: Weizenmehl, Zucker, Palmfett, Kakaobutter, Magermilchpulver, Emulgator",
    "Ingredients: farine de ble, sucre, huile de tournesol, sel, poudre a lever, aromes,",
    "natural flavor, soy lecithin, vitamin E (mixed tocopherols) added to preserve freshness.",
    "CONTAINS WHEAT, MILK AND SOY. MAY CONTAIN TREE NUTS. Distributed by Example Foods,",
    "Kuhl und trocken lagern. Mindestens haltbar bis: siehe Boden der Packung. Hergestellt in",
    "A consommer de preference avant fin: voir sur le dessus. Conserver au sec. Fabrique en",
)
_LIVELY: tuple[Colour, ...] = (
    (24, 60, 160), (190, 28, 36), (236, 190, 40), (30, 120, 60), (240, 240, 236), (90, 50, 30), (20, 20, 24), (230, 120, 30),
    (130, 30, 110), (150, 200, 220), (210, 190, 150), (250, 250, 250), (60, 150, 160), (245, 220, 225),
)  # fmt: skip
_ROOMS: tuple[Colour, ...] = (
    (196, 190, 180), (150, 112, 78), (92, 70, 52), (225, 222, 214), (60, 62, 66), (120, 126, 132), (176, 150, 120), (30, 32, 36),
    (110, 130, 110), (190, 160, 140), (244, 242, 236), (90, 100, 124),
)  # fmt: skip


def background(dice: Dice, size: tuple[int, int]) -> Image.Image:
    """A room out of focus: drawn at a thirtieth of its size and enlarged smoothly."""
    small = (max(4, size[0] // 30), max(4, size[1] // 30))
    base = dice.near(dice.pick(_ROOMS), 30)
    picture = Image.new("RGB", small, base)
    draw = ImageDraw.Draw(picture)
    for _ in range(dice.integer(3, 14)):
        x, y = dice.integer(-4, small[0]), dice.integer(-4, small[1])
        wide, high = dice.integer(1, small[0] // 2 + 1), dice.integer(1, small[1] // 2 + 1)
        colour = dice.near(base, 45) if dice.chance(0.5) else dice.near(dice.pick(_ROOMS), 40)
        (draw.ellipse if dice.chance(0.3) else draw.rectangle)((x, y, x + wide, y + high), fill=colour)
    return picture.resize(size, Image.Resampling.BICUBIC)


def package_colour(dice: Dice) -> Colour:
    return dice.near(dice.pick(_LIVELY), 26)


def neighbours(dice: Dice, picture: Image.Image, body: Area) -> None:
    """Other packages beside this one, as on a shelf."""
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = body
    wide, high = right - left, bottom - top
    for side in range(4):
        if not dice.chance(0.3):
            continue
        gap, shift = dice.integer(2, 14), dice.integer(-high // 6, high // 6)
        colour = package_colour(dice)
        area = (
            (left - gap - wide, top + shift, left - gap, bottom + shift),
            (right + gap, top + shift, right + gap + wide, bottom + shift),
            (left + shift, top - gap - high, right + shift, top - gap),
            (left + shift, bottom + gap, right + shift, bottom + gap + high),
        )[side]
        draw.rectangle(area, fill=colour)
        inner = (area[0] + wide // 10, area[1] + high // 10, area[2] - wide // 10, area[3] - high // 10)
        _element(dice, picture, inner, colour)


def body(dice: Dice, picture: Image.Image, area: Area, colour: Colour, bent: bool) -> None:
    """The package: a box with an edge in light, a bag with soft corners, or a can shaded to both sides."""
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = area
    shadow = tuple(c // 3 for c in colour)
    depth = max(3, (right - left) // dice.integer(14, 60))
    if not bent and dice.chance(0.6):
        side = depth * (1 if dice.chance(0.5) else -1)
        near_x, far_x = (right, right + side) if side > 0 else (left, left + side)
        draw.polygon(
            ((near_x, top), (far_x, top - depth), (far_x, bottom - depth), (near_x, bottom)),
            fill=tuple(c * 2 // 3 for c in colour),
        )
        draw.polygon(
            ((left, top), (left + side, top - depth), (right + side, top - depth), (right, top)),
            fill=tuple(min(255, c + 30) for c in colour),
        )
    radius = 0 if dice.chance(0.6) else dice.integer(2, max(3, min(right - left, bottom - top) // 12))
    draw.rounded_rectangle(area, radius=radius, fill=colour, outline=shadow if dice.chance(0.4) else None, width=2)
    for _ in range(dice.integer(0, 2)):
        _stripe(dice, draw, area)
    if bent:
        shade(dice, picture, area)


def _stripe(dice: Dice, draw: ImageDraw.ImageDraw, area: Area) -> None:
    left, top, right, bottom = area
    high = bottom - top
    y = top + round(high * dice.uniform(0.0, 0.85))
    draw.rectangle(
        (left, y, right, min(bottom, y + max(2, round(high * dice.uniform(0.02, 0.2))))), fill=package_colour(dice)
    )


def shade(dice: Dice, picture: Image.Image, area: Area) -> None:
    """Darkens a can towards both sides."""
    left, top, right, bottom = (
        max(0, area[0]),
        max(0, area[1]),
        min(picture.width, area[2]),
        min(picture.height, area[3]),
    )
    if right <= left or bottom <= top:
        return
    edge = dice.integer(90, 190)
    profile = Image.new("L", (5, 1))
    for x, value in enumerate((edge, (edge + 510) // 3, 255, (edge + 510) // 3, dice.integer(90, 190))):
        profile.putpixel((x, 0), value)
    smooth = profile.resize((right - left, 1), Image.Resampling.BICUBIC).resize(
        (right - left, bottom - top), Image.Resampling.NEAREST
    )
    picture.paste(
        ImageChops.multiply(picture.crop((left, top, right, bottom)), Image.merge("RGB", (smooth,) * 3)), (left, top)
    )


def prints(dice: Dice, picture: Image.Image, area: Area, table: Area, colour: Colour) -> None:
    """Fills the package around the table: above and below it, and to both sides."""
    left, top, right, bottom = (
        max(0, area[0]),
        max(0, area[1]),
        min(picture.width, area[2]),
        min(picture.height, area[3]),
    )
    gap = max(3, (table[2] - table[0]) // dice.integer(18, 60))
    regions = (
        (left + gap, top + gap, right - gap, table[1] - gap),
        (left + gap, table[3] + gap, right - gap, bottom - gap),
        (left + gap, table[1], table[0] - gap, table[3]),
        (table[2] + gap, table[1], right - gap, table[3]),
    )
    for region in regions:
        _fill(dice, picture, region, colour, 2)


def _fill(dice: Dice, picture: Image.Image, area: Area, colour: Colour, splits: int) -> None:
    left, top, right, bottom = area
    wide, high = right - left, bottom - top
    if wide < 24 or high < 16:
        return
    if splits and (max(wide, high) > 2.2 * min(wide, high) or (wide * high > 60_000 and dice.chance(0.75))):
        cut = dice.uniform(0.3, 0.7)
        if wide > high:
            x = left + round(wide * cut)
            parts = ((left, top, x - 4, bottom), (x + 4, top, right, bottom))
        else:
            y = top + round(high * cut)
            parts = ((left, top, right, y - 4), (left, y + 4, right, bottom))
        for part in parts:
            _fill(dice, picture, part, colour, splits - 1)
        return
    _element(dice, picture, area, colour)


def _element(dice: Dice, picture: Image.Image, area: Area, colour: Colour) -> None:
    kind = dice.uniform(0.0, 1.0)
    if area[2] - area[0] < 24 or area[3] - area[1] < 16:
        return
    draw = ImageDraw.Draw(picture)
    if kind < 0.3:
        _ingredients(dice, draw, area, colour)
    elif kind < 0.45:
        _barcode(dice, draw, area)
    elif kind < 0.65:
        _brand(dice, picture, draw, area, colour)
    elif kind < 0.8:
        _food(dice, draw, area)
    elif kind < 0.92:
        _claim(dice, draw, area, colour)


def _readable(dice: Dice, colour: Colour) -> Colour:
    return dice.near((26, 26, 26), 24) if sum(colour) > 380 else dice.near((235, 232, 226), 20)


def _ingredients(dice: Dice, draw: ImageDraw.ImageDraw, area: Area, colour: Colour) -> None:
    left, top, right, bottom = area
    if dice.chance(0.45):
        value = dice.integer(225, 255)
        colour = (value, value, value - dice.integer(0, 16))
        draw.rectangle(area, fill=colour, outline=dice.near((60, 60, 60), 40) if dice.chance(0.4) else None)
    pen = Pen(draw, _readable(dice, colour))
    size = max(6, min((bottom - top) // dice.integer(4, 11), (right - left) // 14))
    y, first = top + size * 0.8, dice.integer(0, len(_INGREDIENTS) - 1)
    for number in range(min(12, int((bottom - top - size * 0.4) / (size * 1.12)))):
        text = _INGREDIENTS[(first + number) % len(_INGREDIENTS)]
        letters = max(4, int(len(text) * (right - left - size) / text_width(text, size)))
        pen.write(left + size * 0.4, y, text[:letters], size, bold=number == 0)
        y += size * 1.12


def _barcode(dice: Dice, draw: ImageDraw.ImageDraw, area: Area) -> None:
    left, top, right, bottom = area
    wide = min(right - left, round((bottom - top) * 1.7))
    high = min(bottom - top, round(wide * 0.8))
    left, top = left + dice.integer(0, right - left - wide), top + dice.integer(0, bottom - top - high)
    draw.rectangle((left, top, left + wide, top + high), fill=(252, 252, 250))
    x, end, ink = left + wide * 0.08, left + wide * 0.92, dice.near((20, 20, 24), 16)
    step = max(1.0, wide / 110)
    foot = top + high * 0.8
    while x < end:
        bar = dice.integer(1, 4) * step
        draw.rectangle((x, top + high * 0.08, x + max(0.0, bar - 1.0), foot), fill=ink)
        x += bar + dice.integer(1, 3) * step
    digits = str(dice.integer(10**11, 10**12 - 1))
    Pen(draw, ink).write(left + wide / 2, top + high * 0.9, digits, max(5, int(high * 0.13)), anchor="m")


def _brand(dice: Dice, picture: Image.Image, draw: ImageDraw.ImageDraw, area: Area, colour: Colour) -> None:
    left, top, right, bottom = area
    ground = package_colour(dice)
    shape = dice.uniform(0.0, 1.0)
    if shape < 0.35:
        draw.ellipse(area, fill=ground, outline=package_colour(dice), width=dice.integer(1, 6))
    elif shape < 0.7:
        draw.rounded_rectangle(area, radius=dice.integer(0, min(right - left, bottom - top) // 4), fill=ground)
    else:
        ground = colour
    text = dice.pick(_BRANDS)
    size = max(6, min(round((bottom - top) * 0.7), round(0.9 * (right - left) / text_width(text, 100) * 100)))
    mask = Image.new("L", (round(text_width(text, size)) + size // 2, round(size * 1.5)))
    ImageDraw.Draw(mask).text(
        (size * 0.2, mask.height / 2),
        text,
        fill=255,
        font=font(size),
        anchor="lm",
        stroke_width=size * dice.uniform(0.0, 0.06),
    )
    if dice.chance(0.5):
        mask = slanted(mask, dice.uniform(-0.1, 0.35))
    at = (left + (right - left - mask.width) // 2, top + (bottom - top - mask.height) // 2)
    picture.paste(_readable(dice, ground) if dice.chance(0.7) else package_colour(dice), at, mask)


def _food(dice: Dice, draw: ImageDraw.ImageDraw, area: Area) -> None:
    left, top, right, bottom = area
    base = dice.pick(((190, 130, 60), (90, 50, 30), (200, 60, 40), (120, 150, 60), (230, 200, 140)))
    reach = max(4, min(right - left, bottom - top) // dice.integer(3, 6))
    for _ in range(dice.integer(5, 16)):
        x, y = dice.integer(left, max(left, right - reach)), dice.integer(top, max(top, bottom - reach))
        shape = (x, y, min(right, x + reach + dice.integer(0, reach // 2)), min(bottom, y + reach))
        draw.ellipse(shape, fill=dice.near(base, 34), outline=dice.near((70, 45, 25), 20))


def _claim(dice: Dice, draw: ImageDraw.ImageDraw, area: Area, colour: Colour) -> None:
    left, top, right, bottom = area
    text = dice.pick(_CLAIMS)
    size = max(6, min(round((bottom - top) * 0.5), round(0.95 * (right - left) / text_width(text, 100) * 100)))
    if text.startswith("BEST") and isinstance(stamp := ImageFont.load_default_imagefont(), ImageFont.ImageFont):
        draw.text((left, top), text, fill=_readable(dice, colour), font=stamp)  # a bitmap face, as date printers have
        return
    Pen(draw, _readable(dice, colour)).write(
        (left + right) / 2, (top + bottom) / 2, text, size, bold=dice.chance(0.4), anchor="m"
    )
