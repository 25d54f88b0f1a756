"""The frame of an HTML page: what is inside comes escaped, no network is reachable, and it reads well without a script.

The content security policy names the page's own scripts by their hashes and allows nothing else: text from a model that got past the
escaping would still not run and could not call home.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Sequence

from client.reports.charts.chart import Chart
from client.reports.charts.look import DARK, LIGHT, Spec, css
from client.reports.terminal import plain

STYLE = """
:root{color-scheme:light dark;--paper:#fdfdfc;--card:#fff;--good:#00694c;--bad:#a83f00;--warn-paper:#fbf3e4;--warn-ink:#6b4600;--link:#00598c;LIGHT}
@media (prefers-color-scheme:dark){:root{--paper:#17181b;--card:#1c1d21;--good:#5fcfa6;--bad:#f0a04b;--warn-paper:#2d2617;--warn-ink:#eccb86;--link:#7cc4f0;DARK}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI","Helvetica Neue",Arial,sans-serif;overflow-wrap:break-word}
main,header,footer{max-width:62rem;margin:0 auto;padding:0 1.5rem}
header{padding-top:2.25rem}
h1,h2,.verdict{font-family:"Iowan Old Style","Palatino Linotype",Palatino,"Book Antiqua",Georgia,serif;font-weight:500;text-wrap:balance}
h1{font-size:clamp(1.55rem,1.1rem + 2.2vw,2.35rem);line-height:1.18;margin:.35rem 0 1rem;letter-spacing:-.01em}
h2{font-size:1.45rem;line-height:1.25;margin:3.25rem 0 .9rem}
h3{font-size:1.05rem;line-height:1.35;margin:2.5rem 0 .35rem}
p{margin:.5rem 0;max-width:46rem}
.meta,.note,figcaption,footer{color:var(--muted);font-size:.875rem}
.brand{max-width:none;display:flex;flex-wrap:wrap;gap:.1rem 1rem;justify-content:space-between}
.brand b{color:var(--ink);font-weight:600}
.verdict{font-size:clamp(1.12rem,1rem + .6vw,1.35rem);line-height:1.42;margin:0 0 .9rem;text-wrap:pretty}
.banner{background:var(--warn-paper);color:var(--warn-ink);padding:.7rem 1rem;border-left:3px solid currentColor;margin:1rem 0;max-width:none}
.banner ul{margin:.35rem 0 0;padding-left:1.1rem}
.banner strong{letter-spacing:.04em}
nav ul{list-style:none;margin:1.25rem 0 0;padding:0;display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;font-size:.9rem}
nav a{display:inline-block;padding:.2rem 0}
a{color:var(--link);text-underline-offset:.18em;text-decoration-thickness:1px}
:focus-visible{outline:2px solid var(--link);outline-offset:2px;border-radius:2px}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:.5rem;background:var(--card);padding:.4rem .8rem}
.scroll{overflow-x:auto;margin:1.1rem 0 .5rem}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.42rem .9rem .42rem 0;text-align:left;vertical-align:baseline;border-bottom:1px solid var(--rule)}
th:last-child,td:last-child{padding-right:0}
thead th,thead td{border-bottom:1.5px solid var(--ink)}
thead th{font-weight:600;min-width:5.5rem;max-width:20rem;overflow-wrap:anywhere}
thead th:first-child{min-width:7.5rem}
td:has(br){min-width:16rem}
tbody th{font-weight:400;min-width:7.5rem;max-width:18rem}
td.k{white-space:nowrap}
td.n,th.n{text-align:right;white-space:nowrap}
#results table:not(:has(thead :nth-child(3))){max-width:34rem}
.i{color:var(--muted)}
.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}
ul.plain{padding-left:1.1rem;margin:.5rem 0;max-width:46rem}
ul.plain li{margin:.3rem 0}
figure{margin:0 0 1rem}
.panel{font-size:.85rem;font-weight:600;margin:1.1rem 0 .3rem}
.narrow{max-width:32rem!important}
.chart{min-height:4rem;margin:0 0 .2rem;max-width:100%;overflow:hidden}
.chart .vega-embed{display:block;width:100%;padding:0}
.chart svg{display:block;max-width:100%}
details{margin:.5rem 0;font-size:.95rem}
summary{cursor:pointer;color:var(--link);font-size:.875rem;padding:.2rem 0;width:fit-content}
.photos{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr));gap:1.5rem 1.25rem;margin-top:1rem}
.photos img{display:block;width:100%;height:auto;background:#fff;border:1px solid var(--rule)}
.photos figcaption{margin-top:.35rem}
footer{border-top:1px solid var(--rule);margin-top:4rem;padding-top:1rem;padding-bottom:3rem}
footer p{max-width:none}
#vg-tooltip-element{display:none;position:fixed;z-index:9;background:var(--card);color:var(--ink);border:1px solid var(--rule);border-radius:4px;padding:.45rem .6rem;font-size:.8rem;box-shadow:0 2px 10px rgb(0 0 0/.16);pointer-events:none;max-width:18rem}
#vg-tooltip-element.visible{display:block}
#vg-tooltip-element table{width:auto;font-size:.8rem}
#vg-tooltip-element td{padding:.1rem .4rem .1rem 0;border:0}
#vg-tooltip-element td.key{color:var(--muted)}
@media (max-width:40rem){main,header,footer{padding-left:1rem;padding-right:1rem}h2{margin-top:2.5rem}
#results table{font-size:.78rem}#results th,#results td{padding-right:.55rem}#results td:last-child{padding-right:0}
#results .i{display:block;font-size:.72rem}
#results table:not(:has(thead :nth-child(5))){table-layout:fixed}
#results thead th,#results tbody th{min-width:0}#results tr>*{white-space:normal;overflow-wrap:break-word;hyphens:auto}#results tr>:first-child{width:26%}}
@media print{
:root{--paper:#fff;--card:#fff;--good:#00694c;--bad:#a83f00;--warn-paper:#fff;--warn-ink:#6b4600;--link:#1c1d20;LIGHT}
body{font-size:10.5pt}main,header,footer{max-width:none;padding:0}nav,.skip{display:none}
figure,tr,.banner{break-inside:avoid}h2,h3{break-after:avoid}.scroll{overflow:visible}td.n,th.n,thead th{white-space:normal}
details::details-content{content-visibility:visible;block-size:auto}
a{text-decoration:none}
}
""".replace("LIGHT", css(LIGHT)).replace("DARK", css(DARK)).strip()  # fmt: skip

DRAW = """
(async () => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const root = document.documentElement;
  const options = {mode: 'vega-lite', renderer: 'svg', actions: false, ast: true, defaultStyle: false,
    tooltip: {disableDefaultStyle: true, theme: 'custom'}, config: read('chart-config')};
  let failed = 0;
  for (const place of document.querySelectorAll('[data-spec]')) {
    try {
      await vegaEmbed(place, read(place.dataset.spec), options);
      // The place itself is named; the parts of the drawing have no names that would help.
      place.querySelectorAll('svg').forEach((drawing) => drawing.setAttribute('aria-hidden', 'true'));
    }
    catch (error) { failed += 1; place.textContent = 'This chart could not be drawn; its numbers are in the table below.'; console.error(error); }
  }
  performance.mark('charts drawn');
  root.dataset.charts = failed ? 'failed' : 'drawn';
})();
""".strip()


def safe(text: str) -> str:
    """Text from outside: no control characters, no markup."""
    return html.escape(plain(text))


def data_block(identity: str, value: object) -> str:
    """JSON that no content can end early: `<` is written as its escape."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for char, escape in (
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        text = text.replace(char, escape)
    return f'<script type="application/json" id="{identity}">{text}</script>'


def _hash(script: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() + "'"


def page(title: str, body: str, scripts: Sequence[str] = ()) -> str:
    """The whole document. `body` is markup; `title` is text. `scripts` run at its end, in order."""
    # A bundle may hold the text `</script`; in JavaScript strings and expressions the escaped form means the same.
    scripts = [script.replace("</script", "<\\/script") for script in scripts]
    allowed = " ".join(_hash(script) for script in scripts) or "'none'"
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
        f'<title>{safe(title)}</title>\n<link rel="icon" href="data:,">\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n{body}\n'
        + "".join(f"<script>{script}</script>\n" for script in scripts)
        + "</body>\n</html>\n"
    )


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    label: str,
    numbers: Iterable[int] = (),
    unbroken: Iterable[int] = (),
    markup: bool = False,
) -> str:
    """A table in its own scroll box, reachable by keyboard. Cells are text, unless `markup` says that they are ready."""
    right, whole = frozenset(numbers), frozenset(unbroken)
    show = (lambda cell: cell) if markup else safe

    def cell(tag: str, k: int, text: str, scope: str = "") -> str:
        mark = ' class="n"' if k in right else ' class="k"' if k in whole else ""
        return f"<{tag}{scope}{mark}>{show(text)}</{tag}>"

    top = "".join(cell("th", k, text, ' scope="col"') if text else "<td></td>" for k, text in enumerate(head))
    lines = "".join(
        "<tr>"
        + "".join(cell("td" if k else "th", k, text, "" if k else ' scope="row"') for k, text in enumerate(row))
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{safe(label)}"><table>\n'
        f"<thead><tr>{top}</tr></thead>\n<tbody>\n{lines}</tbody>\n</table></div>"
    )


def bullets(items: Iterable[str]) -> str:
    return '<ul class="plain">' + "".join(f"<li>{safe(item)}</li>" for item in items) + "</ul>"


def figure(chart: Chart, panels: Sequence[Spec], details: str) -> str:
    """A chart with its heading, its sentence, a place for each panel and its numbers as a table.

    Titles of panels are text of the page, where they can wrap; the drawing goes without them (`spec_blocks`).
    """
    label = f"{safe(chart.title)}. {safe(chart.sentence)}"
    places = "".join(
        f'<p class="panel">{safe(spec["title"]["text"])}</p>'
        f'<div class="chart{" narrow" if chart.narrow else ""}" role="img" aria-label="{label}" data-spec="{_id(chart.key, k)}"></div>\n'
        for k, spec in enumerate(panels)
    )
    more = f'<p class="note">{safe(chart.note)}</p>' if chart.note else ""
    return (
        f"<figure>\n<h3>{safe(chart.title)}</h3>\n<p>{safe(chart.sentence)}</p>\n{places}{more}\n{details}\n</figure>"
    )


def _id(chart_key: str, k: int) -> str:
    return f"spec-{''.join(c if c.isalnum() and c.isascii() else '-' for c in chart_key)}-{k}"


def spec_blocks(chart_key: str, specs: Sequence[Spec]) -> str:
    return "\n".join(data_block(_id(chart_key, k), spec) for k, spec in enumerate(specs))
