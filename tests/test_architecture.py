"""The rooms of the house and which way their imports point (docs/architecture.md)."""

import ast
from pathlib import Path

import muybridge
from muybridge.methods import METHODS

SOURCE = Path(muybridge.__file__).parent

# Room -> the rooms that it may import.
BELOW_METHODS = {"backbones", "structures", "errors"}
BELOW_LOADING = BELOW_METHODS | {"methods", "recipes", "published", "engine", "video", "predicting", "recogniser"}
ALLOWED = {
    "errors": set(),
    "structures": set(),
    "video": {"structures", "errors"},
    "backbones": {"structures", "errors"},
    "methods": BELOW_METHODS,
    "plain": BELOW_METHODS | {"methods"},
    "recipes": BELOW_METHODS | {"methods"},
    "published": BELOW_METHODS | {"methods"},
    "info": BELOW_METHODS | {"methods", "plain", "recipes"},
    "engine": BELOW_METHODS | {"methods", "recipes", "video"},
    "predicting": BELOW_METHODS | {"methods", "recipes", "engine", "video"},
    "explain": BELOW_METHODS | {"methods", "video", "predicting"},
    "live": BELOW_METHODS | {"methods", "video", "predicting"},
    # What a model's card tells of its run is what the report tells; `load` is asked for through the package.
    "report": BELOW_METHODS | {"methods", "recipes", "engine", "video", "measure", ""},
    "hub": BELOW_METHODS | {"methods", "recipes", "engine", "video", "report", ""},
    "recogniser": BELOW_METHODS
    | {"hub", "", "live", "methods", "recipes", "published", "engine", "video", "predicting", "explain"},
    "loading": BELOW_LOADING | {"hub"},
    "testing": BELOW_LOADING | {"loading", "plain"},
    "measure": BELOW_METHODS | {"export", "live", "predicting", "methods", "plain", "info", "engine", "video", ""},
    "demo": BELOW_LOADING | {"loading"},
    "export": BELOW_LOADING | {"loading", "demo", ""},
    "web": BELOW_LOADING | {"demo", "explain", "report", ""},
    "__main__": {"cli"},
    "cli": BELOW_LOADING
    | {"explain", "live", "loading", "plain", "info", "measure", "demo", "report", "hub", "export", "web", ""},
}


def imports(file):
    """Dotted names below `muybridge` that a file imports, also inside functions; "" is the package itself."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "muybridge" else [node.module]
            )
        for name in names:
            if name == "muybridge" or name.startswith("muybridge."):
                rest = name.removeprefix("muybridge").lstrip(".")
                yield "" if rest.startswith("__") else rest


def room(file):
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_imports_point_one_way():
    wrong = []
    for file in sorted(SOURCE.rglob("*.py")):
        if room(file) == "__init__":
            continue
        for name in imports(file):
            target = name.split(".")[0]
            if target != room(file) and target not in ALLOWED[room(file)]:
                wrong.append(f"{file.relative_to(SOURCE)} imports {target or 'muybridge'}")
    assert not wrong, wrong


def test_every_room_is_listed():
    rooms = {room(file) for file in SOURCE.rglob("*.py")} - {"__init__"}
    assert rooms == set(ALLOWED)


def test_engine_and_recogniser_know_no_particular_method():
    particular = {kind.__module__.removeprefix("muybridge.") for kind in METHODS.values()}
    for file in [*(SOURCE / "engine").rglob("*.py"), SOURCE / "recogniser.py", SOURCE / "loading.py"]:
        assert not particular & set(imports(file)), file


def test_one_method_one_file():
    assert len({kind.__module__ for kind in METHODS.values()}) == len(METHODS)
