"""A page that explains predictions: what each attended to, and the tree of what else was possible."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import BinaryIO

import matplotlib
from matplotlib.figure import Figure

from ... import decoding
from ...decoding import Certificate, Status
from .files import replacing
from .predictions import Prediction, probability
from .report import END, head, table

# Lines that are drawn: a page with more pictures is slow to open.
DRAWN = 100


class Page:
    """A page that is being written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = DRAWN

    def write(self, text: str) -> None:
        """Add HTML."""
        self._file.write(text.encode("utf-8", "backslashreplace"))

    def add(self, number: int, line: str, prediction: Prediction) -> None:
        """Add what is known of a line, unless there are DRAWN already."""
        if not self._left:
            return
        self._left -= 1
        self.write(f"<h2>{number}: {escape(_short(line))}</h2>\n")
        if prediction.reason is not None:
            self.write(f'<p class="warning">{escape(prediction.reason)}</p>\n')
        if prediction.text is not None:
            found = [(prediction.text, prediction.probability), *prediction.alternatives]
            rows = [{"prediction": _short(text), "probability": f"{p:.6g}"} for text, p in found]
            self.write(f"{table(rows)}\n")
        if prediction.certificate is not None:
            said = proved(prediction.certificate, prediction.text is not None)
            self.write(f"<p>{escape(str(prediction.certificate))}: {said}</p>\n")
        if (shown := prediction.alignment) is not None:
            self._draw(decoding.plot_alignment(shown.weights, shown.source, shown.target), "Alignment; white is zero")
        if prediction.tree is not None:
            self._draw(decoding.plot_tree(prediction.tree, prediction.name), "Tree of the sequences found")
        if not self._left:
            self.write(f"<p>The first {DRAWN} lines are explained.</p>\n")

    def _draw(self, figure: Figure, caption: str) -> None:
        source = base64.b64encode(_svg(figure)).decode()
        image = f'<img alt="{escape(caption)}" src="data:image/svg+xml;base64,{source}">'
        self.write(f'<figure class="wide">{image}<figcaption>{escape(caption)}</figcaption></figure>\n')


@contextmanager
def explanations(folder: Path, title: str, note: str = "") -> Iterator[Page]:
    """The page index.html in a folder, there when the block ends without an error; a note stands above all lines."""
    with replacing(folder / "index.html") as file:
        page = Page(file)
        page.write(head(title, title) + "\n")
        if note:
            page.write(f"<p>{escape(note)}</p>\n")
        yield page
        page.write(END)


def proved(certificate: Certificate, predicted: bool) -> str:
    """What a search has proved, in plain words; ``predicted`` says whether it found anything."""
    unseen = probability(certificate.unseen)
    match certificate.status:
        case Status.UNKNOWN:
            return "nothing is proved."
        case Status.BOUNDED if predicted:
            return f"a more probable sequence may exist. Proved: none that was not found is above {unseen}."
        case Status.BOUNDED:
            return f"nothing was found. Proved: no sequence is above {unseen}."
        case Status.ARGMAX_EXACT:
            return f"proved: no sequence is more probable; none that was not found is above {unseen}."
        case Status.ENUMERATED:
            return "proved: every sequence of non-zero probability was found."


def _short(text: str, length: int = 200) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _svg(figure: Figure) -> bytes:
    """The figure with its letters as text, for which a browser has fonts where matplotlib has none."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tsallis"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
