from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dphr_infer.cuda.driver import DeviceProperties
from dphr_infer.engines.tensorrt.api import Api
from dphr_infer.engines.tensorrt.build import BuildOptions
from dphr_infer.engines.tensorrt.cache import EngineCache, EngineKey
from dphr_infer.engines.tensorrt.cached import cached_plan, engine_key, timing_cache_key
from dphr_infer.errors import EngineError

NANO = DeviceProperties(0, "Orin", (8, 7), 8, 166_912, 2 << 20, 8 << 30, (12, 6))
AGX = dataclasses.replace(NANO, sm_count=16, memory_bytes=64 << 30)
OPTIONS = BuildOptions(max_batch=16, opt_batch=4)
Model = Callable[..., bytes]


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


def test_a_key_names_all_that_a_plan_depends_on(api: Api) -> None:
    assert engine_key(api, b"model", OPTIONS, NANO) == EngineKey(
        model_sha256=hashlib.sha256(b"model").hexdigest(),
        gpu="Orin, 8 SMs",
        capability="8.7",
        tensorrt=f"TensorRT {api.version}",
        profile="batch 1..16, best 4",
        flags=("strongly typed", "no TF32", "workspace 1073741824"),
    )


def test_orins_of_the_same_name_have_keys_of_their_own(api: Api) -> None:
    assert engine_key(api, b"model", OPTIONS, NANO) != engine_key(api, b"model", OPTIONS, AGX)


@pytest.mark.parametrize(
    "change",
    [{"max_batch": 8}, {"opt_batch": 1}, {"workspace_bytes": 1 << 20}, {"opt_batch": 16, "dla_core": 0}],
    ids=lambda change: ", ".join(change),
)
def test_every_option_that_changes_a_plan_changes_its_key(api: Api, change: dict[str, int]) -> None:
    changed = dataclasses.replace(OPTIONS, **change)
    assert engine_key(api, b"model", changed, NANO) != engine_key(api, b"model", OPTIONS, NANO)


def test_a_timing_cache_changes_no_key(api: Api) -> None:
    known = dataclasses.replace(OPTIONS, timing_cache=b"known")
    assert engine_key(api, b"model", known, NANO) == engine_key(api, b"model", OPTIONS, NANO)


def test_a_tensorrt_that_builds_on_the_gpu_is_refused_without_one(api: Api) -> None:
    with pytest.raises(EngineError, match="builds for the GPU that is there, and there is none"):
        engine_key(api, b"model", OPTIONS, None)


def test_a_portable_plan_names_no_gpu_even_beside_one(rtx: Api) -> None:
    key = engine_key(rtx, b"model", OPTIONS, NANO)
    assert key == engine_key(rtx, b"model", OPTIONS, None)
    assert (key.gpu, key.capability, key.tensorrt) == ("any GPU", "8.0 and later", f"TensorRT-RTX {rtx.version}")


def test_the_second_call_takes_the_first_ones_plan(rtx: Api, cache: EngineCache, make_flat_model: Model) -> None:
    model = make_flat_model()
    first = cached_plan(rtx, model, OPTIONS, "m", None, cache)
    second = cached_plan(rtx, model, OPTIONS, "m", None, cache)
    assert first.built is not None and first.content == first.built.content
    assert second.built is None and second.content == first.content and second.key == first.key
    assert cached_plan(rtx, make_flat_model(columns=9), OPTIONS, "m", None, cache).built is not None


def test_a_damaged_plan_is_built_again(
    rtx: Api, cache: EngineCache, make_flat_model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    key = cached_plan(rtx, make_flat_model(), OPTIONS, "m", None, cache).key
    packed = bytearray(cache.path(key).read_bytes())
    packed[len(packed) // 2] ^= 1
    cache.path(key).write_bytes(packed)
    capsys.readouterr()
    again = cached_plan(rtx, make_flat_model(), OPTIONS, "m", None, cache)
    assert again.built is not None and cache.load(key) == again.content
    assert "is damaged or truncated" in capsys.readouterr().err.splitlines()[0]


def test_measured_kernels_are_carried_from_build_to_build(api: Api, device: Any, cache: EngineCache) -> None:
    key = cached_plan(api, b"first", OPTIONS, "m", NANO, cache).key
    assert device.seen["timing cache"] == b""
    cached_plan(api, b"second", OPTIONS, "m", NANO, cache)
    assert device.seen["timing cache"] == b"+"
    assert cache.load(timing_cache_key(key)) == b"++"
    cached_plan(api, b"second", OPTIONS, "m", AGX, cache)
    assert device.seen["timing cache"] == b"", "another GPU measures for itself"
    cached_plan(api, b"third", dataclasses.replace(OPTIONS, timing_cache=b"given"), "m", NANO, cache)
    assert device.seen["timing cache"] == b"given"


def test_a_refused_build_leaves_no_plan(api: Api, device: Any, cache: EngineCache) -> None:
    device.errors = ("no",)
    with pytest.raises(EngineError, match="cannot build m"):
        cached_plan(api, b"model", OPTIONS, "m", NANO, cache)
    assert {path.suffix for path in cache.folder.iterdir()} == {".lock"}


SCRIPT = """
import sys
from pathlib import Path
import tensorrt_rtx
from dphr_infer.engines.tensorrt.cache import EngineCache
from dphr_infer.engines.tensorrt.api import describe
from dphr_infer.engines.tensorrt.build import BuildOptions
from dphr_infer.engines.tensorrt.cached import cached_plan

root = Path(sys.argv[1])
options = BuildOptions(max_batch=16, opt_batch=4)
api = describe("TensorRT-RTX", tensorrt_rtx)
cached_plan(api, (root / "m.onnx").read_bytes(), options, "m", None, EngineCache(root / "cache"))
"""


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, -signal.SIGINT)])
def test_a_real_build_that_is_killed_or_interrupted_leaves_a_clean_cache(
    rtx: Api, cache: EngineCache, make_flat_model: Model, tmp_path: Path, sign: signal.Signals, code: int
) -> None:
    model = make_flat_model(columns=64, layers=80)
    (tmp_path / "m.onnx").write_bytes(model)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 20
    while not list(cache.folder.glob("*.lock")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.005)
    time.sleep(0.3)  # into the builder, which takes more than a second for these layers
    process.send_signal(sign)
    _, errors = process.communicate()
    assert process.returncode == code
    assert sign is signal.SIGKILL or "KeyboardInterrupt" in errors
    assert "[ERROR]" not in errors
    assert [path.suffix for path in cache.folder.iterdir()] == [".lock"]
    small = make_flat_model()
    assert cached_plan(rtx, small, OPTIONS, "m", None, cache).built is not None
    digest = engine_key(rtx, model, OPTIONS, None).digest()
    with (cache.folder / f"{digest}.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # free, or this would raise
