"""The import arrow, no cycles, and what is loaded when."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import gradledger

ROOT = Path(gradledger.__file__).parent

# Who may import whom, besides `errors` (everybody) and itself. An arrow that is not here is a mistake.
ARROWS = {
    "errors": set(),
    "ledger": set(),
    "findings": {"ledger"},
    "rules": {"ledger", "findings", "metrics.health"},
    "engine": {"ledger"},
    "metrics": {"ledger"},
    "auditor": {"ledger", "findings", "rules"},
    "lint": {"ledger", "findings", "rules"},
    "verifier": {"ledger", "engine"},
    "planner": {"ledger", "engine"},
    "train": {"ledger", "engine", "metrics", "report", "findings", "rules"},
    "report": {"ledger", "metrics", "findings", "rules"},
    "pytest_plugin": {"auditor", "findings"},
    "integrations": {"ledger", "engine", "auditor", "findings"},
    "cli": None,  # sees all
    "__init__": None,
    "__main__": {"cli"},
}


def rooms_of(root):
    """Every import between rooms: (importing file, importing room, imported room, imported module)."""
    found = []
    for path in sorted(root.rglob("*.py")):
        room = path.relative_to(root).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules = [node.module]
                if node.module == "gradledger":
                    modules = [f"gradledger.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            for module in modules:
                parts = module.split(".")
                if parts[0] == "gradledger" and len(parts) > 1:
                    found.append((path.relative_to(root).as_posix(), room, parts[1], ".".join(parts[1:])))
    return found


def wrong_arrows(found):
    wrong = []
    for path, room, imported, module in found:
        allowed = ARROWS.get(room, set())
        if allowed is None or imported in (room, "errors") or imported in allowed:
            continue
        if not any(module.startswith(each) for each in allowed if "." in each) and (ROOT / imported).is_dir():
            wrong.append(f"{path} imports {module}")
    return wrong


def test_imports_follow_the_arrow():
    assert wrong_arrows(rooms_of(ROOT)) == []


def test_every_room_has_its_arrow():
    rooms = {p.name for p in ROOT.iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert rooms <= ARROWS.keys()


def test_a_wrong_arrow_is_noticed(tmp_path):
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "book.py").write_text("def f():\n    from gradledger.engine.window import Window\n")
    assert wrong_arrows(rooms_of(tmp_path)) == ["ledger/book.py imports engine.window"]


def module_name(root, path):
    return ".".join(["gradledger", *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__")


def module_graph(root):
    """Imports that run when a module is loaded: not those inside functions or under TYPE_CHECKING."""
    graph = {}
    names = {path: module_name(root, path) for path in root.rglob("*.py")}
    for path, name in names.items():
        graph[name] = set()
        pending = list(ast.parse(path.read_text(encoding="utf-8")).body)
        while pending:
            node = pending.pop()
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            if isinstance(node, ast.If | ast.Try | ast.With):
                pending += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gradledger"):
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                # `from package import module` takes the module, not what the package re-exports.
                graph[name] |= inner & {*names.values()} or {node.module}
            elif isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names if alias.name.startswith("gradledger.")}
    # A package's own __init__ gathers its modules: what it re-exports is no cycle.
    return {name: {to for to in targets if to in graph and to != name} for name, targets in graph.items()}


def find_cycle(graph):
    done, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return None
        path.append(name)
        for target in sorted(graph[name]):
            cycle = visit(target)
            if cycle:
                return cycle
        path.pop()
        done.add(name)
        return None

    return next((cycle for name in sorted(graph) if (cycle := visit(name))), None)


def test_no_cycles():
    assert find_cycle(module_graph(ROOT)) is None


def test_a_cycle_is_noticed(tmp_path):
    (tmp_path / "a.py").write_text("from gradledger.b import x\n")
    (tmp_path / "b.py").write_text("import gradledger.a\n")
    assert find_cycle(module_graph(tmp_path)) == ["gradledger.a", "gradledger.b"]


def loaded_by(code):
    """The modules that a fresh interpreter has after running some code."""
    program = f"import sys\n{code}\nimport json; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(out.stdout.splitlines()[-1]))


HEAVY = {"torch", "numpy", "sklearn", "torchmetrics", "plotly", "rich", "typer", "pydantic", "yaml", "jinja2"}


def test_importing_the_package_does_no_work():
    alone = loaded_by("")
    added = loaded_by("import gradledger") - alone
    assert not HEAVY & added
    assert {name for name in added if name.startswith("gradledger")} == {"gradledger"}
    assert len(added) < 15


LIGHT = [name for name in ("ledger", "findings", "rules", "lint", "cli/lint", "cli/rules") if [*ROOT.glob(f"{name}*")]]


@pytest.mark.parametrize("room", [name.replace("/", ".") for name in LIGHT])
def test_rooms_without_torch(room):
    assert "torch" not in loaded_by(f"import gradledger.{room}")


def test_torch_loaded_would_be_noticed():
    assert "torch" in loaded_by("import gradledger.engine")


def test_every_public_name_can_be_had():
    assert set(gradledger.__all__) <= set(dir(gradledger))
    for name in gradledger.__all__:
        assert getattr(gradledger, name) is not None
    with pytest.raises(AttributeError, match="module 'gradledger' has no attribute 'Acumulator': it has Accumulator"):
        gradledger.Acumulator  # noqa: B018
