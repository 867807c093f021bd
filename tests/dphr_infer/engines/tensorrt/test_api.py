from __future__ import annotations

import builtins
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dphr_infer.engines.tensorrt.api import Api, Messages, describe, open_tensorrt, precision_name
from dphr_infer.errors import EngineError, MissingPackageError

Stub = Callable[[str], ModuleType]


def flags_of(api: Api) -> set[str]:
    kinds = api.module.NetworkDefinitionCreationFlag
    return {flag.name for flag in kinds if api.network_flags() >> int(flag) & 1}


def test_a_network_is_strongly_typed_in_every_version(tensorrt_of: Stub, version: str) -> None:
    expected = {"STRONGLY_TYPED"} | ({"EXPLICIT_BATCH"} if version.startswith("10.") else set())
    assert flags_of(describe("TensorRT", tensorrt_of(version))) == expected


def test_the_stand_ins_lack_what_their_version_dropped_or_does_not_have_yet(tensorrt_of: Stub) -> None:
    old, middle, new = (tensorrt_of(version) for version in ("10.3.0.30", "10.13.3.9", "11.4.1.3"))
    assert hasattr(old.BuilderFlag, "FP16") and not hasattr(new.BuilderFlag, "FP16")
    assert hasattr(middle.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")
    assert not hasattr(new.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")
    config = new.Builder(None).create_builder_config()
    with pytest.raises(AttributeError, match="IBuilderConfig has no int8_calibrator"):
        config.int8_calibrator = None
    assert not hasattr(config, "int8_calibrator")
    assert hasattr(old.Builder(None).create_builder_config(), "int8_calibrator")
    assert not hasattr(old.Builder, "build_serialized_network_to_stream")
    assert hasattr(middle.Builder, "build_serialized_network_to_stream")


def test_tensorrt_is_preferred_to_tensorrt_rtx(tensorrt_of: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_of("10.3.0.30"))
    api = open_tensorrt()
    assert (api.flavour, api.version, api.name) == ("TensorRT", "10.3.0.30", "TensorRT 10.3.0.30")
    assert api.capabilities.timing_cache and api.capabilities.dla and not api.capabilities.portable


def test_tensorrt_rtx_serves_where_tensorrt_is_missing() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    api = open_tensorrt()
    assert (api.flavour, api.version) == ("TensorRT-RTX", rtx.__version__)
    assert api.network_flags() == 1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert api.capabilities.portable and not (api.capabilities.timing_cache or api.capabilities.dla)


@pytest.mark.parametrize("version", ["8.5.2.2", "8.6.1", "9.3.0"])
def test_a_tensorrt_before_10_is_refused_with_the_jetpack_that_fixes_it(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=version))
    with pytest.raises(EngineError, match=rf"TensorRT {version} is too old, at least 10\.0 .*JetPack 5 .*JetPack 6"):
        open_tensorrt()


@pytest.mark.parametrize("version", ["", "ten", "10"])
def test_a_tensorrt_without_a_readable_version_is_called_damaged(version: str) -> None:
    with pytest.raises(EngineError, match=f"names its version '{version}': it is damaged"):
        describe("TensorRT", SimpleNamespace(__version__=version))


def refuse_imports(monkeypatch: pytest.MonkeyPatch, refusals: dict[str, ImportError | OSError]) -> None:
    def find(name: str, *arguments: Any) -> ModuleType:
        if name in refusals:
            raise refusals[name]
        return builtins.__import__(name, *arguments)

    monkeypatch.setattr("dphr_infer.engines.tensorrt.api.importlib.import_module", find)


def test_with_neither_the_error_says_where_each_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("tensorrt", "tensorrt_rtx")
    refuse_imports(monkeypatch, {name: ModuleNotFoundError(f"No module named {name}", name=name) for name in names})
    with pytest.raises(MissingPackageError, match=r"pip install 'dphr\[rtx\]' brings .*JetPack.*--system-site-packag"):
        open_tensorrt()


@pytest.mark.parametrize(
    "refusal",
    [
        ImportError("libnvinfer.so.10: cannot open shared object file"),
        OSError("libnvinfer.so.10: cannot open shared object file"),
        ModuleNotFoundError("No module named 'tensorrt_libs'", name="tensorrt_libs"),
    ],
)
def test_a_tensorrt_that_cannot_be_loaded_is_not_passed_over(
    refusal: ImportError | OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_imports(monkeypatch, {"tensorrt": refusal})
    with pytest.raises(EngineError, match=r"TensorRT is installed but cannot be loaded \(.*\)") as caught:
        open_tensorrt()
    assert "\n" not in str(caught.value)


def test_messages_are_kept_once_on_one_line_and_only_from_warnings_up() -> None:
    messages = Messages()
    for severity, text in [
        ("ERROR", "first\n  line"),
        ("ERROR", "first line"),
        ("INTERNAL_ERROR", "second"),
        ("WARNING", "careful"),
        ("INFO", "chatter"),
        ("VERBOSE", "more chatter"),
    ]:
        messages.add(severity, text)
    assert (messages.errors, messages.warnings) == (["first line", "second"], ["careful"])


def test_precisions_have_the_projects_names() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    kinds = [rtx.DataType.FLOAT, rtx.DataType.HALF, rtx.DataType.INT8, rtx.DataType.UINT8, rtx.DataType.INT64]
    assert [precision_name(kind) for kind in kinds] == ["fp32", "fp16", "int8", "uint8", "int64"]


def test_importing_the_bridge_loads_no_tensorrt() -> None:
    script = (
        "import sys, dphr_infer.engines.tensorrt.cached; print([n for n in sys.modules if n.startswith('tensorrt')])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"
