"""The floors of the house: who may import whom, and what nobody may do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wyrcli

ROOT = Path(wyrcli.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
every_file = pytest.mark.parametrize("file", FILES, ids=[str(f.relative_to(ROOT)) for f in FILES])


def imports(tree: ast.AST) -> Iterator[str]:
    """Every imported module, also inside of functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the text of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def parse(file: Path) -> tuple[str, ast.Module]:
    """Path inside the package, and the syntax tree."""
    return file.relative_to(ROOT).as_posix(), ast.parse(file.read_text("utf-8"))


@every_file
def test_imports(file: Path) -> None:
    """typer and rich only in the command line, ete3 only in ncbi.py, ray only in ray_workers.py, no pickle;
    the core stands alone."""
    name, tree = parse(file)
    modules = list(imports(tree))
    tops = {module.split(".")[0] for module in modules}
    assert tops.isdisjoint({"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"})
    if not name.startswith("cli/"):
        assert tops.isdisjoint({"typer", "rich", "click"})
    if name != "ncbi.py":
        assert "ete3" not in tops
    if name != "ray_workers.py":
        assert "ray" not in tops
    own = {module for module in modules if module.split(".")[0] == "wyrcli"}
    if name.startswith("model/"):
        assert all(module.startswith(("wyrcli.model", "wyrcli.errors")) for module in own), own
    if not name.startswith("cli/") and name != "__main__.py":
        assert not any(module.startswith("wyrcli.cli") for module in own), own
    if name in ("errors.py", "metrics.py", "taxonomy.py", "explanation.py"):
        assert "torch" not in tops


@every_file
def test_calls(file: Path) -> None:
    """No print and no exit below the command line; nothing unpickled, executed or fetched as code."""
    name, tree = parse(file)
    for called, node in calls(tree):
        where = f"{name}:{node.lineno}: {called}"
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if not name.startswith("cli/") and name != "__main__.py":
            assert called not in ("print", "exit", "quit", "sys.exit", "os._exit"), where
        assert called not in ("eval", "exec", "__import__", "importlib.import_module"), where
        if called == "torch.load":
            safe = keywords.get("weights_only")
            assert isinstance(safe, ast.Constant) and safe.value is True, where
        remote = keywords.get("trust_remote_code")
        assert remote is None or (isinstance(remote, ast.Constant) and remote.value is False), where
        if called in ("np.load", "numpy.load"):
            assert "allow_pickle" not in keywords, where


@every_file
def test_modules_say_what_they_are(file: Path) -> None:
    """Every module has a docstring, and ``__all__`` names what exists."""
    name, tree = parse(file)
    assert ast.get_docstring(tree) or name.endswith("__init__.py") or not tree.body, name
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        defined |= {t.id for t in targets if isinstance(t, ast.Name)}
    defined |= {module.split(".")[-1] for module in imports(tree)}
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            public = ast.literal_eval(node.value)
            assert set(public) <= defined, set(public) - defined
            assert len(set(public)) == len(public)


def test_command_line_starts_without_torch() -> None:
    """``wyr --help`` must be quick: nothing heavy is imported until a command needs it."""
    code = (
        "import sys, wyrcli.cli; "
        "print(*sorted({m.split('.')[0] for m in sys.modules} & "
        "{'torch', 'numpy', 'pandas', 'pyarrow', 'transformers', 'ete3', 'Bio', 'pysam', 'dnaio'}))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "torch" not in found and "transformers" not in found and "ete3" not in found, found


FLOORS = (
    (
        *("__init__", "errors", "alphabets", "taxonomy", "explanation", "metrics", "prefetching"),
        *("installed", "memory"),
    ),
    (
        *("outputs", "sequences", "windows", "writers", "ncbi", "simulation", "tables", "labels"),
        *("targets", "stitching", "sections", "parts"),
        *("streams", "genbank", "bertax", "sources", "documents"),
        *("salvage", "alignments", "reads", "regions", "annotations", "features"),
        *(
            "letters",
            "finding",
            "ordering",
            "calls",
            "tracks",
            "jsonlines",
            "columnar",
            "motifs",
            "class_motifs",
            "motif_files",
            "tfmodisco",
            "bam_writer",
        ),
        *("kraken", "lifting", "coverage", "indexing", "formats", "waiting", "results"),
        *("packing", "splitting", "windowing", "grouping", "dataset", "preparation", "inspection"),
    ),
    ("model",),
    (
        *("answers", "journal", "workers", "shards", "ray_workers"),
        *("checkpoint", "inputs", "inference", "scoring", "evaluation", "report"),
        *("distribution", "batching", "runs", "engine", "training", "adapting", "starting", "curves"),
        *("examination", "controls", "faithfulness", "attribution", "peers", "evalx", "audit"),
        *("enrichment", "result_tables", "figures", "pages", "keeping", "study", "study_page"),
        *("calibration", "degradation", "classification", "classification_tables", "classification_page"),
        *("terms", "keywords", "class_scores", "class_runs", "class_quality", "class_explanation"),
        *("motif_effects", "motif_tables", "logos"),
        *("class_tables", "class_page", "class_files"),
        *("terminal_view", "reads_page", "browser_files", "score_tracks", "bundles"),
    ),
    ("cli", "__main__"),
)
"""Vocabulary; sequences, tables and text; the model; work that joins them; the command line."""


def floor_of(name: str) -> int:
    """The floor of a module, from its path inside the package or from its dotted name below wyrcli."""
    top = name.removesuffix(".py").replace("/", ".").split(".")[0]
    (floor,) = [i for i, modules in enumerate(FLOORS) if top in modules]
    return floor


@every_file
def test_floors(file: Path) -> None:
    """A module imports from its own floor or a lower one; torch begins with the model."""
    name, tree = parse(file)
    floor = floor_of(name)
    for module in imports(tree):
        top, _, rest = module.partition(".")
        if top == "torch" and "TYPE_CHECKING" not in ast.unparse(tree):
            assert floor >= 2, f"{name} imports torch"
        if top == "wyrcli" and rest and rest.split(".")[0] in {m for modules in FLOORS for m in modules}:
            assert floor_of(rest) <= floor, f"{name} imports {module}"


def test_no_module_imports_itself_in_a_circle() -> None:
    """Modules can be put in an order in which each imports only earlier ones."""
    known = {f.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): f for f in FILES}
    needs = {
        name: {
            other
            for module in imports(parse(file)[1])
            for other in known
            if other != name and module in (f"wyrcli.{other}", f"wyrcli.{other}.__init__")
        }
        for name, file in known.items()
    }
    while needs:
        free = [name for name, own in needs.items() if not own & needs.keys()]
        assert free, f"a circle among {sorted(needs)}"
        for name in free:
            del needs[name]
