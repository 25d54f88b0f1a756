"""Nutrition tables as they are printed: the American label and the European column table, in many colours and proportions."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw

from client.core.pictures.dice import Colour, Dice
from client.core.pictures.lettering import Pen, text_width

_EUROPE = {
    "en": (
        "Nutrition",
        "Energy",
        "Fat",
        "of which saturates",
        "Carbohydrate",
        "of which sugars",
        "Fibre",
        "Protein",
        "Salt",
    ),
    "de": (
        "Nährwerte",
        "Energie",
        "Fett",
        "davon gesättigte Fettsäuren",
        "Kohlenhydrate",
        "davon Zucker",
        "Ballaststoffe",
        "Eiweiß",
        "Salz",
    ),
    "fr": (
        "Valeurs nutritives",
        "Énergie",
        "Matières grasses",
        "dont acides gras saturés",
        "Glucides",
        "dont sucres",
        "Fibres",
        "Protéines",
        "Sel",
    ),
    "it": (
        "Valori nutrizionali",
        "Energia",
        "Grassi",
        "di cui acidi grassi saturi",
        "Carboidrati",
        "di cui zuccheri",
        "Fibre",
        "Proteine",
        "Sale",
    ),
    "nl": (
        "Voedingswaarde",
        "Energie",
        "Vetten",
        "waarvan verzadigd",
        "Koolhydraten",
        "waarvan suikers",
        "Vezels",
        "Eiwitten",
        "Zout",
    ),
    "es": (
        "Información nutricional",
        "Energía",
        "Grasas",
        "de las cuales saturadas",
        "Hidratos de carbono",
        "de los cuales azúcares",
        "Fibra",
        "Proteínas",
        "Sal",
    ),
}
_MIXES = (
    ("en",),
    ("de",),
    ("fr",),
    ("it",),
    ("nl",),
    ("es",),
    ("de", "fr"),
    ("de", "fr", "it"),
    ("fr", "nl"),
    ("en", "fr"),
)
_AMERICA = (
    ("Total Fat", "g", True), ("Saturated Fat", "g", False), ("Trans Fat", "g", False), ("Cholesterol", "mg", True),
    ("Sodium", "mg", True), ("Total Carbohydrate", "g", True), ("Dietary Fiber", "g", False), ("Total Sugars", "g", False),
    ("Includes Added Sugars", "g", False), ("Protein", "g", True),
)  # fmt: skip
_VITAMINS = (
    ("Vitamin D", "mcg"),
    ("Calcium", "mg"),
    ("Iron", "mg"),
    ("Potassium", "mg"),
    ("Vitamin A", "mcg"),
    ("Vitamin C", "mg"),
)
_FOOTNOTE = (
    "* The % Daily Value tells you how much a nutrient in",
    "a serving of food contributes to a daily diet. 2,000",
    "calories a day is used for general nutrition advice.",
)


@dataclass(slots=True)
class Row:
    """One line of a table. `height` counts in ordinary lines; `rule` is the line under it, as a part of an ordinary line."""

    left: str
    cells: tuple[str, ...] = ()
    height: float = 1.0
    bold: bool = False
    indent: float = 0.0
    rule: float = 0.0
    band: bool = False


@dataclass(slots=True)
class Look:
    """How a table is printed."""

    paper: Colour
    ink: Colour
    border: int
    zebra: bool = False
    upright_rules: bool = False
    cell_width: float = 0.22


def american(dice: Dice) -> list[Row]:
    size = dice.integer(20, 120)
    rows = [
        Row("Nutrition Facts", height=dice.uniform(1.9, 2.6), bold=True, rule=0.06),
        Row(f"{dice.integer(2, 16)} servings per container"),
        Row("Serving size", (f"{dice.integer(1, 9)} pieces ({size}g)",), bold=True, rule=0.5),
    ]
    if dice.chance(0.6):
        rows.append(Row("Amount per serving", height=0.8, bold=True))
    rows.append(Row("Calories", (str(dice.integer(4, 62) * 10),), height=dice.uniform(1.5, 2.0), bold=True, rule=0.25))
    rows.append(Row("", ("% Daily Value*",), height=0.9, bold=True, rule=0.05))
    for name, unit, bold in dice.some(_AMERICA, dice.integer(6, len(_AMERICA))):
        amount = dice.integer(0, 40) * (10 if unit == "mg" else 1)
        share = () if dice.chance(0.15) else (f"{dice.integer(0, 45)}%",)
        rows.append(Row(f"{name} {amount}{unit}", share, bold=bold, indent=0.0 if bold else 0.8, rule=0.05))
    rows[-1].rule = 0.45
    for name, unit in dice.some(_VITAMINS, dice.integer(0, 4)):
        rows.append(Row(f"{name} {dice.integer(0, 90) * 5}{unit}", (f"{dice.integer(0, 60)}%",), rule=0.05))
    if dice.chance(0.65):
        rows[-1].rule = 0.25
        rows += [Row(line, height=0.72) for line in _FOOTNOTE]
    return rows


def _number(dice: Dice, comma: bool) -> str:
    value = f"{dice.uniform(0.1, 70.0):.1f}" if dice.chance(0.75) else f"<{dice.pick(('0.5', '0.1'))}"
    return value.replace(".", ",") if comma else value


def european(dice: Dice) -> list[Row]:
    languages = dice.pick(_MIXES)
    words = [_EUROPE[language] for language in languages]
    columns = dice.integer(1, 3)
    comma = languages != ("en",)
    heads = ("100 g", f"{dice.integer(15, 250)} g", "% RI*")[:columns]
    rule = dice.pick((0.0, 0.05, 0.05, 0.1))
    rows = [
        Row(
            " / ".join(word[0] for word in words),
            heads,
            height=dice.uniform(1.1, 1.6),
            bold=True,
            rule=0.1,
            band=dice.chance(0.35),
        )
    ]
    if dice.chance(0.3):
        heads_row = Row("", heads, height=1.0, bold=True, rule=0.1)
        rows = [Row(rows[0].left, height=1.5, bold=True, rule=0.1, band=rows[0].band), heads_row]
    kept = [1, 2, 3, 4, 5, 7, 8] + ([6] if dice.chance(0.7) else [])
    for index in sorted(kept):
        name = " / ".join(word[index] for word in words)
        indent = 0.7 if index in (3, 5) else 0.0
        if index == 1:
            joules = dice.integer(150, 2600)
            cells = tuple(f"{joules * (i + 1) // (2 * i + 1)} kJ" if i < 2 else "12%" for i in range(columns))
            rows.append(Row(name, cells, bold=dice.chance(0.5)))
            rows.append(
                Row("", tuple(f"{joules * 24 // 100} kcal" if i < 2 else "" for i in range(columns)), rule=rule)
            )
            continue
        cells = tuple(f"{_number(dice, comma)} g" if i < 2 else f"{dice.integer(1, 40)}%" for i in range(columns))
        rows.append(Row(name, cells, bold=indent == 0 and dice.chance(0.5), indent=indent, rule=rule))
    if dice.chance(0.4):
        rows.append(Row("* Reference intake of an average adult (8400 kJ / 2000 kcal)", height=0.75))
    return rows


def choose_look(dice: Dice, package: Colour) -> Look:
    """Mostly dark on light; one in seven light on dark. Some tables stand on the colour of the package itself, within their border."""
    kind = dice.uniform(0.0, 1.0)
    dark = dice.near((28, 28, 30), 26)
    white = dice.integer(222, 255)
    light: Colour = (white, dice.integer(-6, 0) + white, dice.integer(-26, 0) + white)
    border = dice.integer(1, 4)
    look = Look(light, dark, border if dice.chance(0.8) else 0)
    if kind < 0.14:
        look = Look(
            dice.near(dice.pick(((20, 30, 70), (70, 20, 24), (20, 60, 40), (16, 16, 18), (60, 40, 24))), 16),
            light,
            border,
        )
    elif kind < 0.26 and sum(package) > 420:
        look = Look(package, dark, border)
    elif kind < 0.34 and sum(package) < 300:
        look = Look(package, light, border)
    look.zebra, look.upright_rules = dice.chance(0.25), dice.chance(0.35)
    look.cell_width = dice.uniform(0.17, 0.26)
    return look


def draw_table(dice: Dice, rows: list[Row], look: Look, size: tuple[int, int]) -> Image.Image:
    """The table alone; its outer edge is the edge of the picture. Text that is too wide makes a condensed typeface of all of it."""
    width, height = size
    unit = (height - 2 * look.border) / sum(row.height + row.rule for row in rows)
    needed = max(_wanted(row, unit, look) for row in rows)
    stretch = min(2.6, max(dice.uniform(0.85, 1.15), needed / max(1, width - 2 * look.border)))
    drawn = (max(8, round(width * stretch)), height)
    panel = Image.new("RGB", drawn, look.paper)
    draw = ImageDraw.Draw(panel)
    pad = max(2.0, unit * 0.3)
    y = float(look.border)
    for number, row in enumerate(rows):
        _draw_row(draw, look, row, number, (look.border + pad, y, drawn[0] - look.border - pad, unit))
        y += (row.height + row.rule) * unit
    if drawn[0] != width:
        panel = panel.resize(size, Image.Resampling.BILINEAR)
    if look.border:
        ImageDraw.Draw(panel).rectangle((0, 0, width - 1, height - 1), outline=look.ink, width=look.border)
    return panel


def _letter_size(row: Row, unit: float) -> int:
    return max(4, round(unit * row.height * 0.78))


def _wanted(row: Row, unit: float, look: Look) -> float:
    size = _letter_size(row, unit)
    if len(row.cells) > 1:
        cells = max(text_width(cell, size) for cell in row.cells) * 1.2
        words = 1.06 * text_width(row.left, size) / (1.0 - look.cell_width * len(row.cells))
        return max(cells / look.cell_width, words) + unit * 1.6
    return text_width(row.left, size) + sum(text_width(cell, size) for cell in row.cells) + unit * (1.2 + row.indent)


def _draw_row(
    draw: ImageDraw.ImageDraw, look: Look, row: Row, number: int, place: tuple[float, float, float, float]
) -> None:
    left, y, right, unit = place
    size, middle, under = _letter_size(row, unit), y + row.height * unit / 2, y + row.height * unit
    pen = Pen(draw, look.ink)
    if row.band:
        draw.rectangle((0, y, right + left, under), fill=look.ink)
        pen.ink = look.paper
    elif look.zebra and number % 2 and len(row.cells) > 1:
        shade: Colour = tuple(round(0.86 * p + 0.14 * i) for p, i in zip(look.paper, look.ink, strict=True))  # type: ignore[assignment]  # three
        draw.rectangle((0, y, right + left, under), fill=shade)
    if row.left:
        pen.write(left + row.indent * unit, middle, row.left, size, bold=row.bold)
    wide = (right - left) * look.cell_width
    for index, cell in enumerate(reversed(row.cells)):
        pen.write(right - index * wide, middle, cell, size, bold=row.bold, anchor="r")
        if look.upright_rules and len(row.cells) > 1:
            x = right - (index + 1) * wide + unit * 0.1
            draw.line((x, y, x, under), fill=look.ink, width=1)
    if row.rule:
        thick = max(1.0, row.rule * unit)
        draw.rectangle((left, under, right, under + (thick - 1.0)), fill=look.ink)
