"""A heat map adds up to the score, names its tokens, and is drawn as one file that loads nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import counterpoint
from counterpoint.cli import app
from counterpoint.encoders.text import load
from counterpoint.encoders.tokens import token_sets
from counterpoint.evaluation.explained import HeatMap, heat_map, render
from counterpoint.objectives.transport import rcmd

ATTACK = "<script>alert(1)</script>"


@pytest.mark.proves(row=161, fact="closed-form")
def test_it_adds_up_to_the_score_of_the_same_tokens(tiny: Path) -> None:
    encoder = load(str(tiny)).eval()
    found = heat_map(encoder, "q1 q2 w3", "d1 w3", tokens=8)
    assert (found.left, found.right) == (["[CLS]", "q1", "q2", "w3", "[SEP]"], ["[CLS]", "d1", "w3", "[SEP]"])
    x, y = (
        token_sets(encoder, [text], role, tokens=8) for text, role in (("q1 q2 w3", "anchor"), ("d1 w3", "positive"))
    )
    wanted = rcmd(mask="mask").of((x.z, x.mask), (y.z, y.mask), "fp32").item()
    assert found.score == pytest.approx(wanted, abs=1e-5)
    assert heat_map(encoder, "q1 w3", "q1 w3").score == pytest.approx(1.0, abs=1e-5)


def test_the_page_escapes_what_it_shows_and_has_no_scripts() -> None:
    found = HeatMap([ATTACK, "b"], ["c"], torch.tensor([[0.5], [-0.1]]))
    page = render(found, ATTACK, "text", trained=False)
    assert "<script" not in page
    assert "script-src 'none'" in page
    assert page.count('class="some"') == page.count('class="less"') == 1
    assert "was not trained" in page
    assert "was not trained" not in render(found, "a", "b")


def test_the_command_says_and_draws_it(tiny: Path, tmp_path: Path) -> None:
    run, out = CliRunner().invoke, tmp_path / "heat.html"
    good = run(app, ["explain", str(tiny), "q1 w3", "q1 w3", "--out", str(out)])
    assert good.exit_code == 0, good.output
    assert good.output.splitlines()[0].split() == ["1.000", "alike"]
    assert "q1 matches q1" in good.output
    assert out.read_text().startswith("<!doctype html>")
    bad = run(app, ["explain", str(tiny), "a", "b", "--out", str(tmp_path / "nowhere" / "heat.html")])
    assert isinstance(bad.exception, counterpoint.Refusal)
