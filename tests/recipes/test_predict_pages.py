"""Pages that explain predictions, with a recipe that replaces letters."""

from __future__ import annotations

import base64
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tsallis.decoding import Certificate, Status
from tsallis.recipes._shared import explanations
from tsallis.recipes._shared.predictions import Prediction

from .spelling import letters_table, make_run, predict, read_tsv

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", letters_table())


def test_the_page_shows_every_line_and_obeys_none(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run.parent / "page"
    content = b"<script>\n<b>&\n\nabc\n"
    plain = predict(run, content, capsys, status=1)
    assert predict(run, content, capsys, "--explain", str(folder), status=1) == plain
    assert [path.name for path in folder.iterdir()] == ["index.html"]
    page = (folder / "index.html").read_text()
    assert page.endswith("</body>\n</html>\n")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;&amp;" in page
    assert "&lt;b&gt;row" in page
    assert "An empty line" in page
    images = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert len(images) == 4, "an alignment and a tree of each line that has a prediction"
    drawn = [ElementTree.fromstring(base64.b64decode(image)) for image in images]
    names = {element.tag.rpartition("}")[2] for root in drawn for element in root.iter()}
    assert "text" in names
    assert "script" not in names
    labels = [{(element.text or "") for element in root.iter() if element.tag.endswith("}text")} for root in drawn]
    assert {"<", ">", "s", "</s>"} <= labels[0], "letters of the source"
    rows = read_tsv(plain)
    assert any(label.startswith(rows[3]["prediction"][:1]) for label in labels[3])
    assert f"{rows[3]['certificate']}" in page


@pytest.mark.parametrize(
    ("status", "predicted", "words"),
    [
        (Status.UNKNOWN, True, "UNKNOWN: nothing is proved."),
        (Status.BOUNDED, True, "BOUNDED(2): a more probable sequence may exist. Proved: none that was not found is "
         "above 0.25."),
        (Status.BOUNDED, False, "BOUNDED(2): nothing was found. Proved: no sequence is above 0.25."),
        (Status.ARGMAX_EXACT, True, "ARGMAX_EXACT: proved: no sequence is more probable; none that was not found is "
         "above 0.25."),
        (Status.ENUMERATED, True, "ENUMERATED: proved: every sequence of non-zero probability was found."),
    ],
)  # fmt: skip
def test_the_page_says_what_is_proved(status: Status, predicted: bool, words: str, tmp_path: Path) -> None:
    unseen = {Status.UNKNOWN: math.nan, Status.ENUMERATED: -math.inf}.get(status, math.log(0.25))
    proof = Certificate(status, 2.0, 1, 0.5, unseen, 1)
    with explanations.explanations(tmp_path, "Toy") as page:
        page.add(1, "a", Prediction("b" if predicted else None, -1.0, proof, reason=None if predicted else "None"))
    assert f"<p>{words}</p>" in (tmp_path / "index.html").read_text()
    far = Certificate(Status.BOUNDED, 2.0, 0, 0.0, -2000.0, 0)
    assert explanations.proved(far, True).endswith("above 2.57654e-869.")


def test_the_page_ends_somewhere(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(explanations, "DRAWN", 2)
    out = predict(run, b"a\nb\nc\na\n", capsys, "--explain", str(run.parent / "page"))
    assert len(read_tsv(out)) == 4
    page = (run.parent / "page" / "index.html").read_text()
    assert page.count("<h2>") == 2
    assert "The first 2 lines are explained" in page
