"""Formats are found by name or by detection: built-in ones first, and code of plugins only where nothing else fits."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.interop.exporting import export_model
from nanogpt_kit.interop.formats import detect_format
from nanogpt_kit.train import session

QUIET = ["callback=[]", "train.steps=1", "sample.num_samples=0"]
TEXT_FORMAT = '''
"""A model as text."""
from nanogpt_kit.api import Format, KitError
{imports}

class Text(Format):
    sources = "a file model.txt"

    def detects(self, path):
        {detects}

    {method}
'''
WRITES = 'def write(self, folder, exported):\n        (folder / "model.txt").write_text("nothing")'
READS = "def read(self, path):\n        raise KitError('it was read')"


def offer(
    install: Callable[..., None],
    name: str,
    method: str = READS,
    imports: str = "",
    detects: str = 'return path.name == "model.txt"',
) -> None:
    """A distribution ngk-<name> with a format of that name."""
    source = TEXT_FORMAT.format(method=method, imports=imports, detects=detects)
    install(f"ngk-{name}", f"[nanogpt_kit.format]\n{name} = ngk_{name}:Text\n", **{f"ngk_{name}": source})


@pytest.fixture
def trained(tiny: Path) -> Any:
    session.run(Experiment.load(tiny, QUIET))
    return load_run("tiny")


def exported(run: Any, format: str, folder: Path) -> Path:
    export_model(run.experiment, run.model, run.encoder, format, folder)
    return folder


def test_a_built_in_that_detects_a_source_keeps_plugins_unimported(
    trained: Any, tmp_path: Path, install: Callable[..., None], command: Callable[..., Any]
) -> None:
    offer(install, "greedy", detects="return True")
    options = {"huggingface": "model.bias=true", "safetensors": "model.bias=true"}
    for name in options:
        found = detect_format(exported(trained, name, tmp_path / name))
        assert found is not None
        assert found.name == name
    assert command("sample", "tiny", "--prompt", "a", "--max-new-tokens", 1).code == 0
    assert "ngk_greedy" not in sys.modules
    answer = command("import", tmp_path / "huggingface", "--format", "greedy")
    assert (answer.code, "it was read" in answer.err) == (2, True)


def test_a_source_that_several_formats_detect_is_refused_with_their_names(
    trained: Any, tmp_path: Path, install: Callable[..., None], command: Callable[..., Any]
) -> None:
    for name in ("one", "two"):
        offer(install, name)
    (tmp_path / "model.txt").write_text("text")
    for verb in ("import", "sample"):
        answer = command(verb, tmp_path / "model.txt")
        assert answer.code == 2
        assert "in several formats, one and two" in answer.err
        assert f"`nanogpt-kit import {tmp_path / 'model.txt'} --format one`" in answer.err
    (exported(trained, "huggingface", tmp_path / "both") / "ckpt.pt").touch()
    with pytest.raises(KitError, match="several formats, huggingface and nanogpt"):
        detect_format(tmp_path / "both")


def test_a_broken_plugin_is_skipped_with_a_warning_where_it_is_asked(
    trained: Any, tmp_path: Path, install: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    offer(install, "broken", imports="import no_such_module")
    offer(install, "raising", detects="raise RuntimeError('no such luck')")
    offer(install, "good")
    caplog.set_level("WARNING")
    detect_format(exported(trained, "huggingface", tmp_path / "out"))
    assert not caplog.text
    (tmp_path / "model.txt").write_text("text")
    found = detect_format(tmp_path / "model.txt")
    assert found is not None
    assert found.name == "good"
    assert "no_such_module" in caplog.text
    assert "skipped format raising: detects raised RuntimeError: no such luck" in caplog.text


def test_an_unknown_name_is_refused_with_the_nearest(command: Callable[..., Any], tmp_path: Path) -> None:
    for words in (("export", "tiny", tmp_path / "out"), ("import", tmp_path)):
        answer = command(*words, "--format", "hugingface")
        assert answer.code == 2
        assert "unknown format 'hugingface'; did you mean 'huggingface'? Allowed: huggingface, " in answer.err
        assert "did you mean 'huggingface'?" in command(*words, "--format", "hf").err
    assert "write format.dtype=bf16" in command("export", "tiny", tmp_path / "out", "--dtype", "bf16").err


def test_a_format_that_only_writes_or_only_reads_says_so(
    trained: Any, tmp_path: Path, install: Callable[..., None], command: Callable[..., Any]
) -> None:
    offer(install, "written", method=WRITES)
    offer(install, "read")
    assert command("export", "tiny", tmp_path / "out", "--format", "written").out == f"{tmp_path / 'out/model.txt'}\n"
    answer = command("import", tmp_path / "out/model.txt", "--format", "written")
    assert "the format written is only exported, so it cannot be imported" in answer.err
    answer = command("export", "tiny", tmp_path / "other", "--format", "read")
    assert answer.code == 2
    assert "the format read is only imported" in answer.err
    assert "--format huggingface, nanogpt, safetensors" in answer.err


def test_options_of_a_format_are_set_and_misspelt_ones_named(
    trained: Any, tmp_path: Path, command: Callable[..., Any]
) -> None:
    assert command("export", "tiny", tmp_path / "half", "format.dtype=bf16").code == 0
    assert {value.dtype for value in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.bfloat16}
    mistakes = {
        "format.dtyp=bf16": "command line: format.dtyp: unknown key; did you mean 'dtype'? Allowed: dtype.",
        "format.dtype=int8": "command line: format.dtype: should be 'fp32', 'bf16' or 'fp16', got 'int8'",
        "dtype=bf16": "expected format.KEY=VALUE, got 'dtype=bf16'",
    }
    for word, told in mistakes.items():
        answer = command("export", "tiny", tmp_path / "other", word)
        assert answer.code == 2
        assert told in answer.err
    assert not (tmp_path / "other").exists()


def test_a_model_that_no_format_detects_is_refused_with_what_each_looks_for(
    tmp_path: Path, install: Callable[..., None], command: Callable[..., Any]
) -> None:
    offer(install, "other")
    (tmp_path / "notes.txt").write_text("text")
    for verb in ("import", "sample", "eval"):
        answer = command(verb, tmp_path / "notes.txt")
        assert answer.code == 2
        assert f"{tmp_path / 'notes.txt'} is not a model in a format that is installed" in answer.err
        formats = answer.err.partition("safetensors (a folder with model.safetensors and experiment.toml), ")[2]
        assert "ngk-other/other" in formats


@pytest.mark.parametrize("format", ["huggingface", "safetensors"])
def test_init_from_a_model_in_a_format_says_how_to_make_a_run_of_it(
    trained: Any, tiny: Path, tmp_path: Path, format: str
) -> None:
    folder = exported(trained, format, tmp_path / "out")
    with pytest.raises(
        KitError, match=rf"model\.init_from: .*out is a model in the format {format}, not a run; `.* import .*out`"
    ):
        session.run(Experiment.load(tiny, [*QUIET, f"model.init_from={folder}"]))


def test_a_model_in_our_own_format_is_imported_with_its_tokenizer_and_component_files(
    tiny: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    tiny.with_name("halved.py").write_text(
        '"""Half of the features."""\nfrom torch import nn\nfrom nanogpt_kit.api import Norm\n'
        "class Halved(Norm):\n    def build(self, ctx):\n        return Half()\n"
        "class Half(nn.Module):\n    def forward(self, x):\n        return x / 2\n"
    )
    own = ["components=['halved.py']", "model.norm=halved", "tokenizer={use='bpe', vocab_size=300}"]
    session.run(Experiment.load(tiny, [*QUIET, *own]))
    before = load_run("tiny")
    exported(before, "safetensors", tmp_path / "out")
    answer = command("import", tmp_path / "out", "again")
    assert answer.code == 0, answer.err
    ids = torch.arange(14)[None]
    for again in (load_run("again"), load_run(tmp_path / "out")):
        with torch.no_grad():
            assert torch.equal(again.model(ids), before.model(ids))
        assert again.encoder.state() == before.encoder.state()
        assert [path.name for path in again.experiment.component_files] == ["halved.py"]
    answer = command("import", tmp_path / "out", "other", "tokenizer.use=byte")
    assert "has its own tokenizer, so none can be given" in answer.err


def test_a_plugin_that_exits_or_needs_an_option_is_skipped_in_one_line(
    tmp_path: Path, install: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    offer(install, "exiting", imports="import sys", detects="sys.exit('no such\\nluck')")
    offer(install, "needy", method=f"level: int\n    {READS}")
    offer(install, "good")
    (tmp_path / "model.txt").write_text("text")
    found = detect_format(tmp_path / "model.txt")
    assert found is not None
    assert found.name == "good"
    assert caplog.messages == [
        "skipped format needy: it cannot be detected without format.level",
        "skipped format exiting: detects raised SystemExit: no such",
    ]


def test_the_command_for_one_of_several_formats_can_be_pasted(
    trained: Any, tmp_path: Path, command: Callable[..., Any]
) -> None:
    folder = exported(trained, "huggingface", tmp_path / "a b")
    (folder / "ckpt.pt").touch()
    assert f"`nanogpt-kit import '{folder}' --format huggingface`" in command("import", folder).err


def test_a_plugin_may_use_a_config_of_another_kind(tmp_path: Path, install: Callable[..., None]) -> None:
    offer(install, "toy", detects="return (path / 'config.json').is_file()")
    for content in ('{"layers": 3}', "[]", '{"model_type": "toy", "n_embd": 4}'):
        (tmp_path / "config.json").write_text(content)
        found = detect_format(tmp_path)
        assert found is not None
        assert found.name == "toy", content


@pytest.mark.parametrize("words", [["sample", "tokenizer.use=byte"], ["import"]])
def test_a_model_of_an_unknown_type_is_named_also_with_a_tokenizer(
    tmp_path: Path, command: Callable[..., Any], words: list[str]
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "ordinary"}')
    verb, *overrides = words
    assert "describes a model of type 'ordinary'" in command(verb, tmp_path, *overrides).err


def test_an_option_of_another_format_names_that_format(command: Callable[..., Any], tmp_path: Path) -> None:
    for name, other, option in (("nanogpt", "huggingface", "dtype=bf16"), ("huggingface", "nanogpt", "meta=m.pkl")):
        answer = command("export", "tiny", tmp_path / "out", "--format", name, f"format.{option}")
        assert re.search(rf"\b{other} .*this option, but '{name}' does not", answer.err)
    assert "write format.dtype=bf16" in command("export", "tiny", tmp_path / "out", "dtype=bf16").err


def test_a_source_with_a_name_that_no_file_can_have_is_refused(command: Callable[..., Any]) -> None:
    assert "is neither a file or folder nor a published GPT-2" in command("import", "a" * 300).err


def test_the_options_of_a_component_that_is_refused_are_not_reported_as_well(tiny: Path, tmp_path: Path) -> None:
    session.run(Experiment.load(tiny, [*QUIET, "model.position=rope", "model.n_layer=2"]))
    run = load_run("tiny")
    with pytest.raises(KitError) as refusal:
        exported(run, "huggingface", tmp_path / "out")
    messages = [fault.message for fault in refusal.value.faults]
    assert "GPT-2 cannot express model.position.use = 'rope'; expected 'learned'" in messages
    assert not [message for message in messages if "position.base" in message]
