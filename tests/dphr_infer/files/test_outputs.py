from pathlib import Path

import pytest

from dphr_infer.errors import ConfigError
from dphr_infer.files.outputs import Output, check_outputs, output_of, path_of, picture_names


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"--out": "photos/1.png"}, "--out would write .*1.png, which is a photo too"),
        ({"--out": "photos/../truth.csv"}, "which is the truth too"),
        ({"--out": "list", "--summary": "list"}, "--summary would write .*list, which is --out too"),
        ({"--summary": "bundle/manifest.json"}, "into the bundle"),
        ({"--out": "link"}, "which is the truth too"),
    ],
)
def test_an_output_that_would_destroy_something_is_refused(tmp_path: Path, outputs: dict, words: str) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "truth.csv").touch()
    (tmp_path / "link").symlink_to(tmp_path / "truth.csv")
    inputs = {"a photo": [tmp_path / "photos/0.png", tmp_path / "photos/1.png"], "the truth": tmp_path / "truth.csv"}
    with pytest.raises(ConfigError, match=words):
        check_outputs({option: tmp_path / name for option, name in outputs.items()}, inputs, tmp_path / "bundle")


def test_outputs_beside_the_inputs_are_free(tmp_path: Path) -> None:
    outputs = {"--out": tmp_path / "new/list", "--summary": tmp_path / "summary"}
    check_outputs(outputs, {"the truth": tmp_path / "truth.csv"}, tmp_path / "bundle")


def test_no_two_pictures_have_one_name() -> None:
    photos = [Path(name) for name in ("a/1.jpg", "b/1.jpg", "b/1-2.jpg", "map.jpg", "a/1.jpg", "B.png", "b.jpg")]
    names = ["1.png", "1-2.png", "1-2-2.png", "map-2.png", "B.png", "b-2.png"]
    assert list(picture_names(photos).values()) == names
    assert picture_names(photos)[Path("a/1.jpg")] == "1.png"


def test_a_home_folder_is_meant_where_a_path_begins_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/pilot")
    for text in ("~/x/list.csv", Path("~/x/list.csv")):
        assert path_of(text) == Path("/home/pilot/x/list.csv")
        assert output_of(text) == Output(Path("/home/pilot/x/list.csv"))
    assert path_of("a/~/b") == Path("a/~/b")


@pytest.mark.parametrize(
    ("text", "words"), [("-", '"-" is no file here'), ("", "A path is empty"), ("~no-such-user/x", "not known here")]
)
def test_a_path_that_is_none_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        path_of(text)


def test_an_output_is_standard_output_or_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output_of("-").write("printed\n")
    output_of(str(tmp_path / "-")).write("written\n")
    assert capsys.readouterr().out == "printed\n"
    assert (tmp_path / "-").read_text() == "written\n"
