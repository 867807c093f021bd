"""The rules of the house, read from every file's syntax tree, also inside functions.

A rule is a function from one parsed file to findings "file:line what"; each is tried on planted wrong sources below.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("dphr_infer", "dphr_train", "export", "bench")
# The rooms of a floor, lowest first; a file or folder imports from its own room and from those before it.
ROOMS = {
    "dphr_infer": (
        *("errors", "types", "geo", "measure", "images", "files", "matchers", "cuda", "engines", "maps", "register"),
        *("locate", "indexing", "flight", "evaluate", "watch", "cli"),
    ),
    "export": (
        *(
            "request",
            "graph",
            "sources",
            "gate",
            "int8",
            "signing",
            "to_tensorrt",
            "build_bundle",
            "add_int8",
            "calibrate",
        ),
        *("report", "commands", "verbs", "cli", "__main__"),
    ),
    # Cities come first: a renderer that knows nothing of training.
    "dphr_train": (
        *(
            "cities",
            "types",
            "config_checks",
            "config_data",
            "config",
            "config_json",
            "schedule",
            "device",
            "distributed",
            "metrics",
            "presets",
        ),
        *("augment", "datasets", "samplers", "heads", "encoder", "losses", "objective", "step", "run_log"),
        *("run_record", "checkpoint", "evaluate", "rank_model", "failures", "build", "state", "trainer"),
        *("throughput", "compare", "ablation", "commands", "cli"),
    ),
    "bench": (
        *("machine", "sampling", "record", "request", "cases", "validity", "peers", "report", "compare"),
        *("steps", "run", "sweeps", "flights", "gpu", "commands", "cli", "__main__"),
    ),
}
MAX_FILES = 9
# Floors whose folders are counted.
COUNTED = ("dphr_infer", "bench")
VAGUE = ("utils", "util", "common", "helpers", "helper", "misc")
# The house says about 300 and about 50; beyond these it is two.
MAX_LINES = 350
MAX_FUNCTION_LINES = 55

# A heavy package -> the files and folders that may import it; the others ask these.
OWNERS = {
    "onnxruntime": ("dphr_infer/engines/onnxruntime.py", "export/int8/calibration.py", "bench/peers/runs.py"),
    "tyro": ("dphr_infer/cli/", "dphr_train/", "export/", "bench/"),
    "pycuda": ("dphr_infer/cuda/driver.py",),
    "cryptography": ("dphr_infer/files/signature.py", "export/signing.py"),
    "tensorrt": ("dphr_infer/engines/tensorrt/api.py",),
    "tensorrt_rtx": ("dphr_infer/engines/tensorrt/api.py",),
    "cv2": ("dphr_infer/watch/video.py", "dphr_infer/register/features.py"),
    "rasterio": ("dphr_infer/maps/raster.py", "dphr_train/cities/geotiff.py"),
    "timm": ("dphr_train/encoder.py",),
    "torchvision": ("dphr_train/encoder.py",),
    "numba": ("dphr_train/cities/compiled.py",),
    "scipy": (
        *("dphr_train/datasets/cvact.py", "dphr_train/samplers/neighbours.py", "bench/compare/judge.py"),
        *("bench/flights/intervals.py", "export/calibrate/"),
    ),
    "faiss": ("bench/peers/cpu.py", "bench/peers/gpu.py"),
    "usearch": ("bench/peers/cpu.py",),
    "hnswlib": ("bench/peers/cpu.py",),
    "onnx": ("export/",),
    "onnxscript": ("export/",),
    "jinja2": ("export/report/page.py",),
    "matplotlib": ("dphr_train/", "export/report/plots.py", "bench/report/"),
    "torch": ("dphr_train/", "export/", "bench/peers/cpu.py", "bench/peers/gpu.py", "bench/peers/runs.py"),
}
# What flies may import besides itself and the standard library, and what only one of its files may.
RUNTIME_BASE = ("numpy", "PIL", "safetensors")
UNSAFE = ("pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal")


@dataclass(frozen=True)
class Source:
    """One file: its path below the root, its text, and the tree of it."""

    path: str
    text: str

    @property
    def module(self) -> str:
        """Dotted name, of the package for an __init__.py."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @cached_property
    def _nodes(self) -> list[ast.AST]:
        return list(ast.walk(ast.parse(self.text)))

    def nodes(self) -> Iterator[ast.AST]:
        """Every node of the tree."""
        return iter(self._nodes)


@dataclass(frozen=True)
class Import:
    """One imported module; `name` is the dotted module, with the imported name where that may be a module too."""

    line: int
    name: str


def imports_of(source: Source) -> list[Import]:
    """All imports, also inside functions, and what calls of import_module and __import__ may import.

    Where such a call takes no literal, each text of the file that names a guarded package counts.
    """
    found = []
    for node in source.nodes():
        if isinstance(node, ast.Import):
            found += [Import(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (
                source.module.split(".")[: -node.level]
                if node.level and not source.path.endswith("__init__.py")
                else []
            )
            if node.level and source.path.endswith("__init__.py"):
                base = source.module.split(".")[: len(source.module.split(".")) - node.level + 1]
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [Import(node.lineno, f"{module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).split(".")[-1]
            if called not in ("import_module", "__import__"):
                continue
            if isinstance(node.args[0], ast.Constant):
                found.append(Import(node.lineno, str(node.args[0].value)))
            else:
                found += [Import(node.lineno, name) for name in sorted(_guarded_texts(source))]
    return found


def _guarded_texts(source: Source) -> set[str]:
    texts = {node.value for node in source.nodes() if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text for text in texts if _package(text) in (*OWNERS, *FLOORS) and text.replace(".", "").isidentifier()}


def _package(name: str) -> str:
    return name.split(".")[0]


def check_floors(source: Source) -> list[str]:
    """Imports go down only."""
    own = FLOORS.index(_package(source.module))
    return [
        f"{source.path}:{item.line} imports {item.name}: {FLOORS[own]} lies below {_package(item.name)}"
        for item in imports_of(source)
        if _package(item.name) in FLOORS and FLOORS.index(_package(item.name)) > own
    ]


def check_rooms(source: Source) -> list[str]:
    """Inside a floor imports go down too; the floor's own __init__.py is its door and stands above all rooms."""
    floor, _, rest = source.module.partition(".")
    if floor not in ROOMS or not rest:
        return []
    order, own = ROOMS[floor], rest.split(".")[0]
    if own not in order:
        return [f"{source.path}:1 lies in {own}, a room that ROOMS does not name"]
    rooms = [(item, item.name.split(".")[1]) for item in imports_of(source) if item.name.startswith(f"{floor}.")]
    return [
        f"{source.path}:{item.line} imports {item.name}: {own} lies below {room}"
        for item, room in rooms
        if room in order and order.index(room) > order.index(own)
    ]


def check_owners(source: Source) -> list[str]:
    """A heavy package is imported by its owners only."""
    return [
        f"{source.path}:{item.line} imports {item.name}: only {', '.join(OWNERS[_package(item.name)])} may"
        for item in imports_of(source)
        if _package(item.name) in OWNERS and not source.path.startswith(OWNERS[_package(item.name)])
    ]


def check_runtime_base(source: Source) -> list[str]:
    """dphr_infer stands on the standard library, NumPy, Pillow and safetensors, and on what its owner files add."""
    if not source.path.startswith("dphr_infer/"):
        return []
    allowed = {*RUNTIME_BASE, "dphr_infer", *sys.stdlib_module_names}
    return [
        f"{source.path}:{item.line} imports {item.name}: the runtime's base is {', '.join(RUNTIME_BASE)}"
        for item in imports_of(source)
        if _package(item.name) not in allowed and not source.path.startswith(OWNERS.get(_package(item.name), ("-",)))
    ]


def check_names(source: Source) -> list[str]:
    """No module is named after nothing."""
    vague = [part for part in source.module.split(".") if part in VAGUE]
    return [f"{source.path}:1 is named {part}: name it after what it does" for part in vague]


def check_unsafe_reading(source: Source) -> list[str]:
    """No pickle in any form, and torch.load with weights_only=True alone."""
    found = [
        f"{source.path}:{item.line} imports {item.name}: a stranger's file could run code"
        for item in imports_of(source)
        if _package(item.name) in UNSAFE
    ]
    for node in source.nodes():
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called == "torch.load" and given.get("weights_only") != "True":
            found.append(f"{source.path}:{node.lineno} calls torch.load without weights_only=True")
        if called in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
            found.append(f"{source.path}:{node.lineno} calls {called} with allow_pickle")
    return found


def check_sizes(source: Source) -> list[str]:
    """Files and functions that fit in a head."""
    lines = len(source.text.splitlines())
    found = [f"{source.path}:1 has {lines} lines, at most {MAX_LINES}"] if lines > MAX_LINES else []
    for node in source.nodes():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            length = (node.end_lineno or 0) - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)
            if length > MAX_FUNCTION_LINES:
                found.append(
                    f"{source.path}:{node.lineno} {node.name} has {length} lines, at most {MAX_FUNCTION_LINES}"
                )
    return found


def check_asserts(source: Source) -> list[str]:
    """What a user gave is checked by an error with words, which python -O keeps."""
    return [f"{source.path}:{node.lineno} asserts" for node in source.nodes() if isinstance(node, ast.Assert)]


RULES: tuple[Callable[[Source], list[str]], ...] = (
    check_floors,
    check_rooms,
    check_owners,
    check_runtime_base,
    check_names,
    check_unsafe_reading,
    check_sizes,
    check_asserts,
)


def find_circle(sources: list[Source]) -> list[str]:
    """A circle of imports as a list of modules, first and last the same; empty where there is none."""
    modules = {source.module for source in sources}
    edges: dict[str, set[str]] = {}
    for source in sources:
        names = [item.name for item in imports_of(source)]
        targets = {name if name in modules else name.rpartition(".")[0] for name in names}
        edges[source.module] = (targets & modules) - {source.module}
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return []
        for target in sorted(edges[module]):
            if circle := visit(target, [*trail, module]):
                return circle
        done.add(module)
        return []

    return next((circle for module in sorted(edges) if (circle := visit(module, []))), [])


def all_sources() -> Iterator[Source]:
    """Every Python file of the four packages, one after the other: their trees together are large."""
    paths = [path for package in FLOORS for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(paths) > 20
    return (Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths)


@pytest.fixture(scope="module")
def findings() -> dict[Callable[[Source], list[str]], list[str]]:
    """What each rule finds, each file parsed once."""
    found: dict[Callable[[Source], list[str]], list[str]] = {rule: [] for rule in RULES}
    for source in all_sources():
        for rule, of_rule in found.items():
            of_rule += rule(source)
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__.removeprefix("check_"))
def test_every_file_keeps_the_rule(
    rule: Callable[[Source], list[str]], findings: dict[Callable[[Source], list[str]], list[str]]
) -> None:
    assert not findings[rule], "\n".join(findings[rule])


def test_a_folder_of_a_counted_floor_has_few_files_and_one_of_an_ordered_floor_says_what_it_holds() -> None:
    folders = [path.parent for floor in ROOMS for path in (ROOT / floor).rglob("__init__.py")]
    counted = [folder for folder in folders if folder.relative_to(ROOT).parts[0] in COUNTED]
    files = {folder: [p for p in folder.iterdir() if p.suffix in (".py", ".cu", ".cuh")] for folder in counted}
    files = {folder: [p for p in found if p.stem not in ("__init__", "__main__")] for folder, found in files.items()}
    crowded = [f"{folder}: {len(found)}" for folder, found in files.items() if len(found) > MAX_FILES]
    assert not crowded, f"more than {MAX_FILES} files beside __init__.py: {crowded}"
    silent = [folder for folder in folders if not ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))]
    assert not silent, f"no sentence in __init__.py: {silent}"


def test_no_import_runs_in_a_circle() -> None:
    assert find_circle(list(all_sources())) == []


@pytest.mark.parametrize(
    ("rule", "path", "text", "finding"),
    [
        (
            check_floors,
            "dphr_infer/a.py",
            "def f():\n    import dphr_train.x",
            "dphr_infer/a.py:2 imports dphr_train.x",
        ),
        (check_floors, "dphr_train/a.py", "from export import parity", "dphr_train/a.py:1 imports export.parity"),
        (check_floors, "export/a.py", "from bench.stats import x", "export/a.py:1 imports bench.stats.x"),
        (check_floors, "dphr_infer/a.py", "import importlib as i\ni.import_module('bench')", "a.py:2 imports bench"),
        (check_rooms, "dphr_infer/files/a.py", "from dphr_infer.cli import x", "files lies below cli"),
        (
            check_rooms,
            "dphr_infer/geo.py",
            "def f():\n  import dphr_infer.maps.raster",
            "geo.py:2 imports dphr_infer.maps",
        ),
        (check_rooms, "dphr_train/augment.py", "from dphr_train.datasets.base import x", "augment lies below datasets"),
        (check_rooms, "dphr_train/cities/a.py", "from dphr_train.config import x", "cities lies below config"),
        (check_rooms, "dphr_train/attic.py", "", "dphr_train/attic.py:1 lies in attic"),
        (check_rooms, "dphr_infer/attic/a.py", "", "dphr_infer/attic/a.py:1 lies in attic"),
        (check_owners, "dphr_infer/a.py", "def f():\n  if 1:\n    import torch", "dphr_infer/a.py:3 imports torch"),
        (check_owners, "dphr_infer/a.py", "M = 'cv2'\nimportlib.import_module(M)", "dphr_infer/a.py:2 imports cv2"),
        (check_owners, "dphr_infer/doctor.py", "import onnxruntime as o", "doctor.py:1 imports onnxruntime"),
        (check_owners, "export/a.py", "from timm.models import x", "export/a.py:1 imports timm.models.x"),
        (check_owners, "dphr_train/cities/a.py", "import numba", "dphr_train/cities/a.py:1 imports numba"),
        (check_owners, "dphr_infer/p.py", "import matplotlib.pyplot", "p.py:1 imports matplotlib.pyplot"),
        (check_owners, "bench/a.py", "import torch", "bench/a.py:1 imports torch"),
        (check_runtime_base, "dphr_infer/a.py", "import scipy", "dphr_infer/a.py:1 imports scipy"),
        (check_names, "dphr_train/utils.py", "", "dphr_train/utils.py:1 is named utils"),
        (check_names, "export/common/x.py", "", "export/common/x.py:1 is named common"),
        (check_unsafe_reading, "export/a.py", "import pickle", "export/a.py:1 imports pickle"),
        (check_unsafe_reading, "export/a.py", "torch.load(p)", "export/a.py:1 calls torch.load"),
        (check_unsafe_reading, "export/a.py", "torch.load(p, weights_only=False)", "a.py:1 calls torch.load"),
        (check_unsafe_reading, "export/a.py", "np.load(p, allow_pickle=True)", "a.py:1 calls np.load"),
        (check_sizes, "export/a.py", "\n" * 351, "export/a.py:1 has 351 lines"),
        (check_sizes, "export/a.py", "def f():\n" + "    x = 1\n" * 55, "export/a.py:1 f has 56 lines"),
        (check_asserts, "export/a.py", "def f(x):\n    assert x > 0", "export/a.py:2 asserts"),
    ],
)
def test_a_planted_fault_is_found_with_file_and_line(
    rule: Callable[[Source], list[str]], path: str, text: str, finding: str
) -> None:
    (found,) = rule(Source(path, text))
    assert finding in found


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (check_floors, "bench/a.py", "import export.parity, dphr_train, dphr_infer.types"),
        (check_rooms, "dphr_infer/cli/a.py", "import dphr_infer.files.atomic, dphr_infer.cli.b, dphr_infer.errors"),
        (check_rooms, "dphr_train/trainer.py", "from dphr_train.step import x\nimport dphr_infer.errors"),
        (check_rooms, "dphr_infer/__init__.py", "from dphr_infer.locate.localizer import Localizer"),
        (check_owners, "dphr_infer/engines/onnxruntime.py", "import onnxruntime"),
        (check_owners, "dphr_train/cities/geotiff.py", "import rasterio"),
        (check_owners, "dphr_infer/doctor.py", "import importlib.metadata\nimportlib.metadata.version('onnxruntime')"),
        (check_runtime_base, "dphr_infer/maps/raster.py", "import json, numpy, rasterio\nfrom PIL import Image"),
        (check_unsafe_reading, "dphr_train/a.py", "torch.load(p, weights_only=True)"),
        (check_sizes, "export/a.py", 'def f():\n    """' + "text\n" * 60 + '    """\n    return 1'),
    ],
)
def test_what_is_allowed_is_not_reported(rule: Callable[[Source], list[str]], path: str, text: str) -> None:
    assert rule(Source(path, text)) == []


def test_a_planted_circle_is_found_across_relative_and_inner_imports() -> None:
    sources = [
        Source("export/__init__.py", ""),
        Source("export/a.py", "from export.b import x"),
        Source("export/b.py", "def f():\n    from . import c"),
        Source("export/c.py", "from export import a"),
    ]
    assert find_circle(sources) == ["export.a", "export.b", "export.c", "export.a"]
    assert find_circle(sources[:3]) == []
