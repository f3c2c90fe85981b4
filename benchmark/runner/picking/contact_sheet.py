"""A contact sheet: one HTML file with a thumbnail of every pick, which opens offline."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable

from PIL import Image, ImageDraw

from benchmark.runner.picking.picks import Pick, Picks
from benchmark.text.escaping import make_visible
from benchmark.text.words import plural
from benchmark.vision.data.image_files import decode_image

SIDE = 160  # pixels of a thumbnail, at most
MAX_SHOWN = 2000  # picks with a thumbnail, about 10 MB
BOX_COLOUR = "#ff7f0e"
STYLE = """\
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(176px, 1fr)); gap: 12px }
figure { margin: 0; padding: 8px; border: 1px solid #ddd; border-radius: 4px; text-align: center }
img { max-width: 160px; min-height: 64px; object-fit: contain; image-rendering: auto }
figcaption { overflow-wrap: anywhere; font-size: 12px; color: #555; text-align: left }
b { color: #222 }"""


def draw_sheet(picks: Picks) -> str:
    """Returns the page.

    Raises:
        ValueError: an image cannot be read.
    """
    title = f"{plural(len(picks), 'pick')} by {make_visible(picks.strategy)}"
    facts = f"of {plural(picks.num_unlabelled, 'unlabelled image')}, {plural(picks.num_labelled, 'image')} labelled"
    shown = picks.picks[:MAX_SHOWN]
    more = f"<p>The first {MAX_SHOWN:,} are shown.</p>" if len(shown) < len(picks) else ""
    return "\n".join([
        "<!doctype html>", '<html lang="en"><head><meta charset="utf-8">', f"<title>{html.escape(title)}</title>",
        f"<style>{STYLE}</style></head><body>", f"<h1>{html.escape(title)}</h1>", f"<p>{facts}</p>{more}", "<main>",
        *draw_figures(shown), "</main></body></html>", "",
    ])  # fmt: skip


def draw_figures(picks: Iterable[Pick]) -> Iterable[str]:
    """Yields a thumbnail with a caption for each pick."""
    for pick in picks:
        score = "" if pick.score is None else f", score {pick.score:.4g}"
        classes = dict.fromkeys(thing.label for thing in pick.predictions)
        words = html.escape(make_visible(", ".join(classes)))
        name = html.escape(make_visible(pick.name))
        caption = f"<b>{pick.rank}</b>{score}<br>{name}" + (f"<br>predicted: {words}" if words else "")
        source = f"data:image/jpeg;base64,{thumbnail(pick)}"
        yield f'<figure><img src="{source}" alt="{name}"><figcaption>{caption}</figcaption></figure>'


def thumbnail(pick: Pick) -> str:
    """Returns a small JPEG of an image with its predicted boxes, in base64."""
    image, _ = decode_image(pick.path, pick.size)  # turned as the model saw it
    scale = SIDE / max(image.size)
    if scale > 1:
        scale = float(int(min(scale, 4)))  # small images are enlarged by a whole number, so that pixels stay sharp
        small = image.resize([round(side * scale) for side in image.size], Image.Resampling.NEAREST)
    else:
        small = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
    canvas = ImageDraw.Draw(small)
    for thing in pick.predictions:
        if thing.corners is not None:
            canvas.rectangle([side * scale for side in thing.corners], outline=BOX_COLOUR, width=2)
    packed = io.BytesIO()
    small.save(packed, "JPEG", quality=80)
    return base64.b64encode(packed.getvalue()).decode()
