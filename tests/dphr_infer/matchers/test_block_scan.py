import os

import numpy as np
import pytest

from dphr_infer.errors import ConfigError
from dphr_infer.locate.devices import open_matcher
from dphr_infer.locate.settings import SCANS, DeviceSettings, Scan
from dphr_infer.measure.machine import usable_cores


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_than_one_thread_is_refused(scan: Scan, threads: int) -> None:
    with pytest.raises(ConfigError, match=f"`threads` is {threads}; expected a whole number, at least 1"):
        open_matcher(np.eye(8, dtype=np.float16), DeviceSettings(scan=scan, threads=threads))


def test_only_cores_that_the_process_may_use_are_counted() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
