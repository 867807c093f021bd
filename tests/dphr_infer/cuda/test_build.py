import hashlib
import json
import stat
from pathlib import Path

import pytest

from dphr_infer.cuda import build as fatbin
from dphr_infer.errors import EngineError

ORIN, H200, RTX_4090, T4 = (8, 7), (9, 0), (8, 9), (7, 5)
# Writes its arguments where the machine code would go, and a line to a log for every compilation.
FAKE_NVCC = """#!/bin/sh
if [ "$1" = "--version" ]; then echo "Cuda compilation tools, release {version}, V{version}.88"; exit 0; fi
echo compiled >> {log}
all="$*"
while [ "$1" != "-o" ]; do shift; done
echo "$all" > "$2"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sources without a fatbin."""
    made = tmp_path / "kernels" / "topk"
    made.mkdir(parents=True)
    (made / "topk.cu").write_text('#include "keys.cuh"\nextern "C" __global__ void k(int *x) { *x = 1; }\n')
    (made.parent / "keys.cuh").write_text("// keys\n")
    (made / "other.cuh").write_text("// included by nobody\n")
    return made.parent


@pytest.fixture
def no_nvcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(fatbin, "_JETPACK_NVCC", tmp_path / "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def put_nvcc(path: Path, version: str = "13.0") -> Path:
    path.write_text(FAKE_NVCC.format(version=version, log=path.with_suffix(".log")))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def nvcc(no_nvcc: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler of CUDA 13.0 on PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    return put_nvcc(tmp_path / "nvcc")


def compilations(nvcc: Path) -> int:
    log = nvcc.with_suffix(".log")
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_the_shipped_fatbin_is_loaded_where_its_sources_gpu_and_driver_fit(folder: Path, nvcc: Path) -> None:
    manifest = fatbin.build_fatbin(nvcc, folder)
    assert compilations(nvcc) == 1
    image = fatbin.load_fatbin(ORIN, (13, 0), folder)
    assert hashlib.sha256(image).hexdigest() == manifest.sha256
    words = image.decode().split()
    assert "-gencode=arch=compute_87,code=sm_87" in words and "-gencode=arch=compute_80,code=compute_80" in words
    assert fatbin.load_fatbin(H200, (14, 2), folder) == image  # later drivers run older code
    assert fatbin.load_fatbin(RTX_4090, (13, 0), folder) == image  # by its PTX
    assert compilations(nvcc) == 1


def test_the_manifest_names_every_source_and_the_compiler(folder: Path, nvcc: Path) -> None:
    fatbin.build_fatbin(nvcc, folder)
    raw = json.loads((folder / "topk/topk.json").read_text())
    assert raw["sources"]["keys.cuh"] == hashlib.sha256(b"// keys\n").hexdigest()
    assert set(raw["sources"]) == {"topk.cu", "keys.cuh"}
    assert raw["toolkit"] == [13, 0] and [8, 7] in raw["native"]


@pytest.mark.parametrize("change", ["touch a source", "add a header", "no fatbin", "no manifest"])
def test_a_missing_or_stale_fatbin_is_compiled_once_for_this_gpu(change: str, folder: Path, nvcc: Path) -> None:
    fatbin.build_fatbin(nvcc, folder)
    if change == "touch a source":
        (folder / "topk/topk.cu").write_text("// other\n")
    elif change == "add a header":
        (folder / "topk/more.cuh").write_text("")
        (folder / "keys.cuh").write_text('#include "more.cuh"\n')
    else:
        (folder / "topk" / ("topk.fatbin" if change == "no fatbin" else "topk.json")).unlink()
    image = fatbin.load_fatbin(ORIN, (13, 0), folder)
    assert b"-cubin -arch=sm_87" in image
    assert fatbin.load_fatbin(ORIN, (13, 0), folder) == image
    assert compilations(nvcc) == 2  # the build, and one compilation that the cache then answers
    (folder / "topk/topk.cu").write_text("// another\n")
    fatbin.load_fatbin(ORIN, (13, 0), folder)
    assert compilations(nvcc) == 3


def test_a_cut_cache_entry_is_compiled_again(folder: Path, nvcc: Path, tmp_path: Path) -> None:
    fatbin.load_fatbin(ORIN, (13, 0), folder)
    (entry,) = (tmp_path / "cache" / "dphr" / "kernels").glob("*/topk.sm_87")
    for kept in (0, 31, 40):
        entry.write_bytes(entry.read_bytes()[:kept])
        assert b"-cubin -arch=sm_87" in fatbin.load_fatbin(ORIN, (13, 0), folder)
    assert compilations(nvcc) == 4


def test_a_cut_fatbin_is_refused_with_both_sizes(folder: Path, nvcc: Path) -> None:
    manifest = fatbin.build_fatbin(nvcc, folder)
    path = folder / "topk/topk.fatbin"
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(EngineError, match=f"damaged: it has 10 bytes of the {manifest.n_bytes}"):
        fatbin.load_fatbin(ORIN, (13, 0), folder)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"sources": 3}', '{"toolkit": 1, "ptx": 2, "flags": 3}'])
def test_a_damaged_manifest_is_refused(text: str, folder: Path, nvcc: Path) -> None:
    fatbin.build_fatbin(nvcc, folder)
    (folder / "topk/topk.json").write_text(text)
    with pytest.raises(EngineError, match=r"topk\.json is damaged"):
        fatbin.load_fatbin(ORIN, (13, 0), folder)


@pytest.mark.usefixtures("no_nvcc")
def test_without_a_fatbin_and_without_nvcc_the_error_says_what_to_install(folder: Path) -> None:
    with pytest.raises(EngineError, match=r"No fatbin lies in .*no nvcc on PATH.*toolkit 12\.x.*nvidia-jetpack"):
        fatbin.load_fatbin(ORIN, (12, 6), folder)


@pytest.mark.parametrize(
    ("capability", "driver", "words"),
    [
        (ORIN, (12, 6), r"built by CUDA 13\.0, but the driver is too old for it: it serves CUDA 12\.6"),
        (RTX_4090, (12, 9), r"built by CUDA 13\.0.*serves CUDA 12\.9"),
    ],
)
def test_a_driver_too_old_for_the_fatbin_is_named_with_both_versions(
    capability: tuple[int, int], driver: tuple[int, int], words: str, folder: Path, tmp_path: Path, no_nvcc: None
) -> None:
    compiler = put_nvcc(tmp_path / "elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/bin:/usr/bin")
        fatbin.build_fatbin(compiler, folder)
    with pytest.raises(EngineError, match=words):
        fatbin.load_fatbin(capability, driver, folder)


def test_an_old_driver_is_served_by_a_compiler_of_its_own_version(folder: Path, nvcc: Path, tmp_path: Path) -> None:
    fatbin.build_fatbin(nvcc, folder)
    with pytest.raises(EngineError, match=r"CUDA 13\.0, whose code a driver that serves CUDA 12\.6 does not run"):
        fatbin.load_fatbin(ORIN, (12, 6), folder)
    put_nvcc(tmp_path / "nvcc", "12.6")
    assert b"-arch=sm_87" in fatbin.load_fatbin(ORIN, (12, 6), folder)


def test_a_fatbin_without_this_gpu_and_without_ptx_for_it_names_both(folder: Path, nvcc: Path, tmp_path: Path) -> None:
    fatbin.build_fatbin(nvcc, folder)
    path = folder / "topk/topk.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "native": [[9, 0]], "ptx": [9, 0]}))
    nvcc.unlink()
    with pytest.raises(EngineError, match=r"code for 9\.0 and PTX for 9\.0, but this GPU has compute capability 8\.7"):
        fatbin.load_fatbin(ORIN, (13, 0), folder)


def test_a_gpu_older_than_the_kernels_need_is_named(folder: Path) -> None:
    with pytest.raises(EngineError, match=r"compute capability 7\.5; the kernels need 8\.0"):
        fatbin.load_fatbin(T4, (13, 0), folder)


def test_a_compiler_that_fails_is_quoted_in_one_line(folder: Path, nvcc: Path) -> None:
    nvcc.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo release 13.0 && exit 0\necho "topk.cu(3):\nerror" >&2\nexit 1\n'
    )
    with pytest.raises(EngineError, match=r"failed with code 1: topk\.cu\(3\): error") as caught:
        fatbin.load_fatbin(ORIN, (13, 0), folder)
    assert "\n" not in str(caught.value)
    nvcc.write_text("#!/bin/sh\necho nothing\n")
    with pytest.raises(EngineError, match="names no release: 'nothing'"):
        fatbin.load_fatbin(ORIN, (13, 0), folder)


@pytest.mark.parametrize("stem", fatbin.KERNELS)
def test_the_shipped_fatbin_was_built_from_the_shipped_sources(stem: str) -> None:
    source = fatbin.source_of(stem)
    path = source.with_suffix(".json")
    if not path.exists():
        pytest.skip("no fatbin is shipped: the kernels are compiled at first use")
    raw = json.loads(path.read_text(encoding="utf-8"))
    image = source.with_suffix(".fatbin").read_bytes()
    assert raw["sources"] == fatbin.source_digests(source), "run make kernels"
    assert (len(image), hashlib.sha256(image).hexdigest()) == (raw["n_bytes"], raw["sha256"])


def test_each_source_has_a_fatbin_of_its_own_that_another_source_leaves_fresh(folder: Path, nvcc: Path) -> None:
    fatbin.build_fatbin(nvcc, folder)
    (folder / "preprocess").mkdir()
    source = folder / "preprocess/preprocess.cu"
    source.write_text('#include "window.cuh"\n#include "keys.cuh"\n')
    source.with_name("window.cuh").write_text("// of this folder\n")
    manifest = fatbin.build_fatbin(nvcc, folder, "preprocess")
    assert set(manifest.sources) == {"preprocess.cu", "window.cuh", "keys.cuh"}
    images = {stem: fatbin.load_fatbin(ORIN, (13, 0), folder, stem) for stem in ("topk", "preprocess")}
    assert all(f"{stem}.cu".encode() in image for stem, image in images.items())
    source.write_text("// another\n")
    assert fatbin.load_fatbin(ORIN, (13, 0), folder) == images["topk"]
    assert b"-cubin -arch=sm_87" in fatbin.load_fatbin(ORIN, (13, 0), folder, "preprocess")


def test_the_real_compiler_makes_a_fatbin_of_the_stated_targets(folder: Path) -> None:
    real = fatbin.find_nvcc()
    if real is None or fatbin.nvcc_version(real) < (13, 0):
        pytest.skip("needs nvcc 13 for Thor")
    manifest = fatbin.build_fatbin(real, folder)
    assert (folder / "topk/topk.fatbin").read_bytes()[:4] == b"\x50\xed\x55\xba"  # the fatbin's magic number
    assert fatbin.load_fatbin(ORIN, manifest.toolkit, folder)[:4] == b"\x50\xed\x55\xba"
