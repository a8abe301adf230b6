"""Verbs and options of other programs' command lines, and what to write here instead."""

from __future__ import annotations

LISTS = "experiments list, or nanogpt-kit plugins list"
FOREIGN_VERBS = {  # a verb -> what to write instead; with a blank it is a whole command, {name} the word that follows
    "train": "run",
    "fit": "run",
    "start": "run",
    "launch": "run",
    "pretrain": "run",
    "generate": "sample",
    "inference": "sample",
    "predict": "sample",
    "complete": "sample",
    "chat": "sample",
    "evaluate": "eval",
    "validate": "check",
    "test": "eval",
    "tune": "sweep",
    "hpo": "sweep",
    "optimize": "sweep",
    "search": "sweep",
    "benchmark": "bench",
    "tokenize": "prepare",
    "preprocess": "prepare",
    "download": "prepare",
    "convert": "export",
    "save": "export",
    "load": "import",
    "config": "check {name} --explain",
    "finetune": "run {name} model.init_from=RUN",
    "resume": "run {name} --resume",
    "continue": "run {name} --resume",
    "init": "new my.toml",
    "create": "new my.toml",
    "list": LISTS,
    "ls": LISTS,
    "components": "plugins list",
    "show": "plugins show {name}",
    "status": "sweep status {name}",
    "info": "doctor",
    "version": "--version",
    "help": "--help",
}

AFTER_VERB = "name the experiment right after the verb, as in nanogpt-kit {verb} quickstart"
RUN_AFTER_VERB = "name the run right after the verb, as in nanogpt-kit {verb} quickstart"
INTO = "write --into {value}, or name=NAME for a folder below runs/"
NPROC = "write --nproc {value}"
PROMPT = "write --prompt {value}"
COUNT = "write --num-samples {value}"
LENGTH = "write --max-new-tokens {value}"
EVALUATOR = "write --evaluator {value}"
STEP = "write --step {value}"
FOLDER = "name the folder after the run, as in nanogpt-kit export quickstart {value}"
FOREIGN_OPTIONS = {  # (verb, option) -> what to write; the verb "" is for all that take an experiment
    ("", "config"): AFTER_VERB,
    ("", "experiment"): AFTER_VERB,
    ("", "file"): AFTER_VERB,
    ("", "c"): AFTER_VERB,
    ("run", "out_dir"): INTO,
    ("run", "output_dir"): INTO,
    ("run", "save_dir"): INTO,
    ("run", "o"): INTO,
    ("run", "n_gpus"): NPROC,
    ("run", "nproc_per_node"): NPROC,
    ("run", "devices"): NPROC,
    ("run", "gpus"): NPROC,
    ("run", "num_gpus"): NPROC,
    ("run", "resume_from_checkpoint"): "write --resume {value}",
    ("run", "continue"): "write --resume",
    ("sample", "out_dir"): RUN_AFTER_VERB,
    ("sample", "model"): RUN_AFTER_VERB,
    ("sample", "run"): RUN_AFTER_VERB,
    ("sample", "start"): PROMPT,
    ("sample", "text"): PROMPT,
    ("sample", "n"): COUNT,
    ("sample", "max_length"): LENGTH,
    ("sample", "max_tokens"): LENGTH,
    ("sample", "length"): LENGTH,
    ("sample", "num_return_sequences"): COUNT,
    ("sample", "checkpoint"): STEP,
    ("eval", "tasks"): EVALUATOR,
    ("eval", "metrics"): EVALUATOR,
    ("eval", "checkpoint"): STEP,
    ("import", "meta"): "write format.meta={value}",
    ("export", "dtype"): "write format.dtype={value}",
    ("export", "o"): FOLDER,
    ("export", "to"): FOLDER,
    ("export", "out"): FOLDER,
    ("export", "output"): FOLDER,
    ("export", "output_dir"): FOLDER,
    ("schema", "o"): "write --output {value}",
}
