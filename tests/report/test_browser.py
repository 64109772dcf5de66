"""The report in a real browser: opened from a file, it draws all, asks nobody, complains of nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from report import chromium
from report.synthetic import make
from thalweg.report import render

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.find() is None, reason="no Chromium on this machine"),
]

# Share of a picture's pixels that are not its ground, for each canvas of the page.
INKED = """
(() => {
  const canvases = [];
  const walk = node => {
    if (node.shadowRoot) walk(node.shadowRoot);
    for (const child of node.children) {
      if (child.tagName === "CANVAS") canvases.push(child);
      walk(child);
    }
  };
  for (const plot of document.querySelectorAll(".plot")) walk(plot);
  return canvases.filter(c => c.width > 100).map(c => {
    const data = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
    let inked = 0;
    for (let i = 3; i < data.length; i += 4) inked += data[i] > 0;
    return 4 * inked / data.length;
  });
})()
"""
# Things wider than the page, which a reader would have to scroll sideways for.
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def look_at(
    path: Path, *, dark: bool = False, width: int = 1280, evaluate: tuple[str, ...] = ()
) -> list[object]:
    executable = chromium.find()
    assert executable is not None
    with chromium.Page(executable, width=width, dark=dark) as page:
        page.open(path)
        found = [page.evaluate(expression) for expression in evaluate]
        assert page.requests == [path.resolve().as_uri()]
        assert page.complaints == []
    return found


@pytest.mark.parametrize("dark", [False, True])
def test_a_report_opens_from_disk(page: str, tmp_path: Path, dark: bool):
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    pictures, inked, overflow, ground = look_at(
        path,
        dark=dark,
        evaluate=(
            "document.querySelectorAll('.plot').length",
            INKED,
            OVERFLOW,
            "getComputedStyle(document.body).backgroundColor",
        ),
    )
    assert pictures == 18
    # every picture has ink, and none has a painted ground of its own
    painted = [share for share in inked if share > 0.005]
    assert len(painted) >= pictures
    assert max(inked) < 0.9
    assert overflow <= 0
    assert ground == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")


def test_names_of_users_stay_text(tmp_path: Path):
    names = ["<script>alert(1)</script>", "</script>", "$$x^2$$", "<img src=x onerror=alert(2)>", "\\[y\\]"]
    path = tmp_path / "a report #1.html"
    path.write_text(
        render(make(names, classes=names, target=names[0], diverged_confirmation=names[1], trials=4)),
        encoding="utf-8",
    )
    shown, images = look_at(
        path,
        width=1000,
        evaluate=(
            "document.querySelector('.board').innerText",
            "document.querySelectorAll('main img').length",
        ),
    )
    for name in names:
        assert name[:8] in shown
    assert images == 0


def test_a_hidden_name_is_hidden_in_all_three_learning_curves(page: str, tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    toggled = """
    (async () => {
      const banded = r => r.renderers.some(g => g.glyph.type === "VArea");
      const plots = Bokeh.documents[0].roots().filter(r => banded(r) && r.x_scale.type === "LinearScale");
      const [main] = plots.filter(p => p.right.some(r => r.type === "Legend"));
      const legend = main.right.find(r => r.type === "Legend");
      const name = legend.items[0].renderers[1].data_source.data.name[0];
      const shown = () =>
        plots.map(p => p.renderers.filter(g => g.data_source.data.name[0] === name && g.visible).length);
      const before = shown();
      for (const renderer of legend.items[0].renderers) renderer.visible = false;
      // links between models work asynchronously
      const tick = () => new Promise(r => setTimeout(r, 50));
      for (let i = 0; i < 100 && shown().some(n => n); i++) await tick();
      return [before, shown()];
    })()
    """
    ((before, after),) = look_at(path, evaluate=(toggled,))
    assert before == [3, 3, 3]
    assert after == [0, 0, 0]


def test_printing_fills_pages(page: str, tmp_path: Path):
    path, printed = tmp_path / "report.html", tmp_path / "report.pdf"
    path.write_text(page, encoding="utf-8")
    executable = chromium.find()
    assert executable is not None
    with chromium.Page(executable) as browser:
        browser.open(path)
        browser.pdf(printed)
        assert browser.complaints == []
    content = printed.read_bytes()
    assert content.startswith(b"%PDF")
    # A4 in points, as the style sheet asks for
    assert b"594.95" in content or b"595" in content
    assert 5 <= content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") <= 14
