"""An import inside a function has one reason: what it imports takes long, and not every command needs it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import nanogpt_kit

ROOT = Path(nanogpt_kit.__file__).parent

# Packages of others that take long to import, or that exist on some systems only (readline, resource).
SLOW = {
    "getpass",  # its C library waits for those of torch, where another thread loads them
    "datasets",
    "huggingface_hub",
    "numpy",
    "optuna",
    "pandas",
    "plotly",
    "pyarrow",
    "pydantic",
    "pydantic_core",
    "readline",
    "resource",
    "rich",
    "scipy",
    "sqlalchemy",
    "tensorboard",
    "tokenizers",
    "torch",
}

# Modules of the kit that import one of those. The verbs of the command line import what they run when they run it.
SLOW_OF_THE_KIT = {
    ("checkpoint/store.py", "nanogpt_kit.checkpoint.shards"),  # torch.distributed.checkpoint
    ("train/resume_point.py", "nanogpt_kit.checkpoint.shards"),
    ("comparison/report/page.py", "nanogpt_kit.comparison.report.figure_sections"),  # plotly
    ("report/run_page.py", "nanogpt_kit.report.run_curves"),
    ("report/run_group_page.py", "nanogpt_kit.report.run_curves"),
    ("report/width_page.py", "nanogpt_kit.report.width_figures"),
    ("sweep/report/report.py", "nanogpt_kit.sweep.report.figures"),
    ("sweep/report/report.py", "nanogpt_kit.sweep.report.markers"),
    ("sweep/report/report.py", "nanogpt_kit.sweep.report.slices"),
    ("sweep/report/report.py", "nanogpt_kit.sweep.report.trial_curves"),
    ("sweep/report/confirmation_section.py", "nanogpt_kit.sweep.report.seed_figures"),
    ("__main__.py", "nanogpt_kit.runs.status"),  # pydantic
}


def late_imports() -> Iterator[tuple[str, int, str]]:
    """(file, line, module) of every import inside a function."""
    for path in sorted(ROOT.rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        functions = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if is_function(node))
        for node in (inner for function in functions for inner in ast.walk(function)):
            if isinstance(node, ast.Import):
                yield from ((file, node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                is_package = (ROOT.parent / str(node.module).replace(".", "/")).is_dir()
                yield from ((file, node.lineno, name) for name in (names if is_package else [str(node.module)]))


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def test_what_is_imported_late_is_slow_to_import() -> None:
    unexplained = [
        f"{file}:{line}: {module}"
        for file, line, module in sorted(set(late_imports()))
        if not (file.startswith("cli/") and module.startswith("nanogpt_kit."))
        and (file, module) not in SLOW_OF_THE_KIT
        and module.partition(".")[0] not in SLOW
    ]
    assert not unexplained, "\n".join(unexplained)
