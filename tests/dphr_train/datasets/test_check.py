from pathlib import Path

from dphr_infer.measure.progress import progress_shown
from dphr_train.datasets.base import CheckReport, Count
from dphr_train.datasets.check import CheckedSide, check_sides, format_report


def test_an_image_of_two_sides_is_counted_in_both_and_named_once(tmp_path, write_images):
    write_images(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    a, b, c = (tmp_path / f"{name}.jpg" for name in "abc")
    report = check_sides(tmp_path, [CheckedSide("x", 2, [a, b]), CheckedSide("y", 2, [b, c])], True, ["more"])
    assert report.counts == [Count("x", 2, 2), Count("y", 1, 2)]
    assert report.missing == ["more", "c.jpg"]
    (reason,) = report.unreadable
    assert reason.startswith("b.jpg is not a picture") and str(tmp_path) not in reason


def test_every_cut_image_is_found_among_many(tmp_path, write_images):
    names = [f"{number:03d}.jpg" for number in range(200)]
    write_images(tmp_path, names)
    cut = names[3::50]
    for name in cut:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:200])
    side = CheckedSide("images", 200, [tmp_path / name for name in names])
    report = check_sides(tmp_path, [side], True)
    assert [reason.split()[0] for reason in report.unreadable] == cut == ["003.jpg", "053.jpg", "103.jpg", "153.jpg"]
    assert check_sides(tmp_path, [side], False).complete


def test_progress_goes_to_stderr_alone(tmp_path, write_images, capsys):
    write_images(tmp_path, ["a.jpg"])
    with progress_shown():
        check_sides(tmp_path, [CheckedSide("x", 1, [tmp_path / "a.jpg"])], True)
    captured = capsys.readouterr()
    assert "check 1/1 (100%)" in captured.err and captured.out == ""


def test_the_table_shows_found_beside_official():
    report = CheckReport([Count("train/drone", 37_853, 37_854), Count("x", 951, 951)])
    assert format_report(report) == (
        "what             found   official  ok\n"
        "train/drone     37,853     37,854  no\n"
        "x                  951        951  yes\n"
        "Not as the official release: 1 of 2 counts differ, 0 missing, 0 unreadable.\n"
    )


def test_the_table_of_a_set_of_ones_own_has_no_official_counts():
    report = CheckReport([Count("train/drone", 12, 37_854)], ["a.jpg"])
    assert format_report(report, own=True) == (
        "what             found\ntrain/drone         12\nmissing: 1\n  a.jpg\n1 missing, 0 unreadable.\n"
    )


def test_a_complete_report_says_so():
    assert format_report(CheckReport([Count("x", 3, 3)])).endswith("yes\nAs the official release.\n")


def test_the_first_twenty_names_are_shown_and_the_rest_counted():
    report = CheckReport([], [f"m{number}" for number in range(1_025)], [f"u{number}" for number in range(20)])
    lines = format_report(report).splitlines()
    assert lines[1:3] == ["missing: 1,025", "  m0"] and lines[21:24] == ["  m19", "  and 1,005 more", "unreadable: 20"]
    assert lines[24:] == [
        *(f"  u{number}" for number in range(20)),
        "Not as the official release: 0 of 0 counts differ, 1,025 missing, 20 unreadable.",
    ]


def test_a_name_with_a_line_end_stays_on_its_line():
    report = CheckReport([], [str(Path("a\nb.jpg"))])
    assert "  a\\nb.jpg\n" in format_report(report)
