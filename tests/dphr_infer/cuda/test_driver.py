import sys
import threading
from types import ModuleType
from typing import Any

import fake_pycuda
import numpy as np
import pytest

from dphr_infer.cuda import driver as cuda
from dphr_infer.errors import EngineError, MissingPackageError


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = fake_pycuda.FakeDriver()
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", made)
    monkeypatch.setattr(cuda, "pop_released_context", made.raw_stack.pop)
    return made


def all_given_back(driver: Any) -> bool:
    return not (driver.device_memory or driver.pinned or driver.retained or driver.raw_stack or driver.own_stack)


def test_the_properties_are_those_of_the_device(driver: Any) -> None:
    driver.driver_version = 12060
    with cuda.open_cuda() as gpu:
        found = gpu.properties
    assert (found.capability, found.driver, found.sm_count, found.shared_bytes) == ((8, 7), (12, 6), 2, 166_912)
    assert (found.name, found.memory_bytes, found.l2_bytes) == ("Fake Orin", 1 << 28, 4 << 20)


def test_bytes_go_to_the_device_and_come_back(driver: Any) -> None:
    with cuda.open_cuda() as gpu, gpu.active():
        buffer, sent, received = gpu.allocate(64, "a test"), gpu.pinned(16), gpu.pinned(64)
        sent[:] = np.arange(16)
        gpu.clear(buffer)
        gpu.upload(buffer.address + 32, sent)
        gpu.download(received, buffer.address)
        gpu.synchronize()
        assert received.tolist() == [0] * 32 + list(range(16)) + [0] * 16
        assert gpu.free_bytes() == (1 << 28) - 64
        gpu.free(buffer)
        assert gpu.free_bytes() == 1 << 28
        assert gpu.elapsed_ms(gpu.record(), gpu.record()) == 0.25
        assert gpu.stream_handle == 7
    assert all_given_back(driver)


def test_the_context_is_current_only_inside_active(driver: Any) -> None:
    with cuda.open_cuda() as gpu:
        assert driver.raw_stack == []
        with gpu.active():
            assert driver.raw_stack == ["primary"]
            with gpu.active():
                assert len(driver.own_stack) == 2
        assert driver.raw_stack == [] and driver.own_stack == []
        with pytest.raises(fake_pycuda.LogicError, match="invalid device context"):
            gpu.synchronize()
    assert all_given_back(driver)


@pytest.mark.parametrize("error", [RuntimeError("ours"), fake_pycuda.LaunchError("an illegal memory access")])
def test_everything_is_given_back_after_an_error(error: Exception, driver: Any) -> None:
    with pytest.raises((RuntimeError, EngineError)), cuda.open_cuda() as gpu, gpu.active():
        gpu.allocate(100, "a test")
        gpu.pinned(100)
        gpu.load(b"image")
        raise error
    assert all_given_back(driver)


def test_a_driver_that_refuses_to_free_after_a_failed_kernel_hides_nothing(driver: Any) -> None:
    refused = fake_pycuda.LaunchError("cuMemFree failed: an illegal memory access was encountered")
    with pytest.raises(ValueError, match="first"), cuda.open_cuda() as gpu:
        with gpu.active():
            gpu.allocate(100, "a test")
        driver.fail = {"free": refused, "synchronize": refused, "free pinned": refused}
        raise ValueError("first")
    assert driver.retained == 0 and driver.raw_stack == []


def test_a_stream_that_cannot_be_made_gives_the_context_back(driver: Any) -> None:
    driver.fail = {"Stream": fake_pycuda.OutOfMemory("cuStreamCreate failed: out of memory")}
    with pytest.raises(EngineError, match="Fake Orin: cuStreamCreate failed: out of memory"), cuda.open_cuda():
        pass
    assert all_given_back(driver)


def test_closing_twice_is_harmless_and_opening_twice_is_refused(driver: Any) -> None:
    gpu = cuda.open_cuda()
    with gpu, pytest.raises(EngineError, match="entered twice"):
        gpu.__enter__()
    gpu.__exit__(None, None, None)
    assert all_given_back(driver)
    with gpu, gpu.active():  # and it may be opened again
        gpu.allocate(8, "a test")
    assert all_given_back(driver)


def test_work_outside_the_with_statement_is_refused(driver: Any) -> None:
    with pytest.raises(EngineError, match="GPU 0 is not open"), cuda.open_cuda().active():
        pass


def test_closing_in_another_thread_is_refused_and_work_there_is_not(driver: Any) -> None:
    errors: list[BaseException] = []

    def elsewhere(gpu: cuda.Cuda) -> None:
        with gpu.active():
            gpu.allocate(8, "a test")
        try:
            gpu.__exit__(None, None, None)
        except EngineError as error:
            errors.append(error)

    with cuda.open_cuda() as gpu:
        thread = threading.Thread(target=elsewhere, args=(gpu,))
        thread.start()
        thread.join()
        assert len(driver.device_memory) == 1
    assert "Close it in the thread that opened it" in str(errors[0])
    assert all_given_back(driver)


def test_the_shared_memory_of_a_kernel_is_raised_only_above_what_is_plain(driver: Any) -> None:
    with cuda.open_cuda() as gpu, gpu.active():
        module = gpu.load(b"image")
        for shared, allowed in ((0, 48 << 10), (48 << 10, 48 << 10), (100_000, 100_000)):
            function = gpu.function(module, "scan", shared)
            assert function.allowed == allowed
        gpu.launch(function, (2, 3, 1), (256, 1, 1), b"twelve bytes", 100_000)
    assert driver.launches == [fake_pycuda.Launch("scan", (2, 3, 1), (256, 1, 1), b"twelve bytes", 100_000)]


def test_memory_that_is_not_there_is_refused_with_both_sizes(driver: Any) -> None:
    driver.memory_bytes = 1000
    words = "Fake Orin has 1,000 bytes free, but 1,001 are needed for queries"
    with pytest.raises(EngineError, match=words), cuda.open_cuda() as gpu, gpu.active():
        gpu.allocate(1001, "queries")
    assert all_given_back(driver)


def test_words_of_the_driver_become_one_line(driver: Any) -> None:
    driver.fail = {"module_from_buffer": fake_pycuda.LogicError("cuModuleLoadDataEx failed: bad\nimage - \x00\x01")}
    with pytest.raises(EngineError) as caught, cuda.open_cuda() as gpu, gpu.active():
        gpu.load(b"cut")
    assert str(caught.value).startswith("Fake Orin: cuModuleLoadDataEx failed: bad image -. If it stays")
    assert "\n" not in str(caught.value)


def test_without_pycuda_the_error_names_the_pip_line_and_the_build_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(MissingPackageError) as caught, cuda.open_cuda():
        pass
    words = str(caught.value)
    assert "pip install 'dphr[cuda]'" in words
    assert "CUDA_ENABLE_CURAND = False" in words and "~/.aksetup-defaults.py" in words and "PATH" in words
    assert "\n" not in words


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("libcuda.so.1: cannot open shared object file", "No NVIDIA driver is installed"),
        ("_driver.so: undefined symbol: cuCtxCreate_v4", "PyCUDA was built for another CUDA driver"),
    ],
)
def test_a_driver_that_does_not_load_is_named(error: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise ImportError(error)

    monkeypatch.setattr(cuda.importlib, "import_module", refuse)
    with pytest.raises(EngineError, match=words), cuda.open_cuda():
        pass


def test_a_machine_without_a_gpu_is_named(driver: Any) -> None:
    driver.n_devices = 0
    with pytest.raises(EngineError, match="finds no GPU: see nvidia-smi and CUDA_VISIBLE_DEVICES"), cuda.open_cuda():
        pass
    driver.fail = {"init": fake_pycuda.Error("cuInit failed: no CUDA-capable device is detected")}
    with pytest.raises(EngineError, match="no CUDA-capable device is detected"), cuda.open_cuda():
        pass


@pytest.mark.parametrize("number", [-1, 2, 7])
def test_a_gpu_number_out_of_range_is_refused_with_the_count(number: int, driver: Any) -> None:
    driver.n_devices = 2
    words = rf"no GPU {number}: this machine has 2, numbered 0\.\.1"
    with pytest.raises(EngineError, match=words), cuda.open_cuda(number):
        pass
