import re
import runpy
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_loop.py"


def test_the_example_trains_and_prints_every_term(capsys):
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    terms = [
        {name: float(value) for name, value in re.findall(r"([a-z_]+) (-?[0-9.]+)(?:,|$)", line.partition(": ")[2])}
        for line in lines
    ]
    names = ["infonce", "logit_scale", "triplet", "weighted_triplet", "lambda", "alpha", "mean_weight", "loss"]
    assert [list(found) for found in terms] == 6 * [names]
    assert terms[-1]["infonce"] < terms[0]["infonce"] and terms[-1]["lambda"] > terms[0]["lambda"]


def test_the_example_fits_on_a_page():
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 40
