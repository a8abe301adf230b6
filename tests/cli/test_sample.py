"""`nanogpt-kit sample`: what it is asked, what it shows and when, and how it ends."""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt_kit.cli.texts import SEPARATOR, print_texts
from nanogpt_kit.generate.generator import GeneratedToken
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.runs.folder import RunFolder

Ask = Callable[..., Any]
GREEDY = 'sampler=["greedy"]'
PACE = re.compile(r"[\d,]+ tokens in \d+\.\d\d s, [\d,]+\.\d tokens/s\n")


@pytest.fixture
def ask(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """`ask(run, "--prompt", "a", stdin=b"...")`: what `sample` answers."""

    def sample(run: object, *words: object, stdin: bytes = b"") -> Any:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        return command("sample", run, *words)

    return sample


def lines(answer: Any) -> list[dict[str, Any]]:
    assert answer.code == 0, answer.err
    return [json.loads(line) for line in answer.out.split("\n")[:-1]]


# --- where the prompt comes from --------------------------------------------------------------------------------


def test_a_prompt_is_the_same_in_an_option_in_a_file_and_on_stdin(run: RunFolder, tmp_path: Path, ask: Ask) -> None:
    prompt = "7 times \u2603\n12"
    file = tmp_path / "prompt.txt"
    file.write_text(prompt, encoding="utf-8")
    told = ask(run, "--prompt", prompt)
    assert told.code == 0, told.err
    assert told.out.startswith(prompt)
    assert len(told.out.encode()) > len(prompt.encode()) + 30
    line, pace = told.err.splitlines(keepends=True)
    assert re.fullmatch(rf"run {re.escape(str(run))}: step 200 of 200, val/loss \d\.\d{{4}}\n", line)
    assert PACE.fullmatch(pace)
    assert ask(run, "--prompt-file", file).out == told.out
    file.write_text(prompt, encoding="utf-16")
    assert ask(run, "--prompt-file", file).out == told.out
    assert ask(run, "--prompt-file", "-", stdin=prompt.encode()).out == told.out
    assert ask(run, stdin=prompt.encode()).out == told.out
    file.write_text("\ufeff" + prompt, encoding="utf-8")  # as some editors begin every file
    assert ask(run, "--prompt-file", file).out == told.out


def test_without_any_prompt_it_is_the_experiments(run: RunFolder, ask: Ask) -> None:
    assert ask(run, "sample.prompt=12 times").out == ask(run, "--prompt", "12 times").out
    assert ask(run, "--json", "sample.prompt=12 times").out == ask(run, "--json", "--prompt", "12 times").out


def test_prompts_that_cannot_be_read_are_told(run: RunFolder, tmp_path: Path, ask: Ask) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    (tmp_path / "wide.txt").write_bytes("12 times".encode("utf-16-le"))
    for words, stdin, told in (
        (["--prompt-file", tmp_path / "none.txt"], b"", r"--prompt-file .*none.txt cannot be read: No such file"),
        (["--prompt-file", tmp_path / "latin.txt"], b"", r"latin.txt cannot be read: .* byte 0xe9 in position 3"),
        (["--prompt-file", tmp_path / "wide.txt"], b"", r"wide.txt: is UTF-16LE .* iconv .* wide.txt >"),
        ([], "12 times".encode("utf-16-be"), "stdin: is UTF-16BE"),
        (["--jsonl", tmp_path / "none.jsonl"], b"", r"--jsonl .*none.jsonl cannot be read: No such file"),
        ([], b"caf\xe9 au lait", r"stdin cannot be read: .* byte 0xe9 in position 3"),
        (["--jsonl", "-"], b"\n \n", "- contains no prompts"),
        (["--prompt", "a", "--jsonl", "-"], b"", "--prompt, --prompt-file and --jsonl"),
        (["hello"], b"", "expected key=value, got 'hello'"),
    ):
        answer = ask(run, *words, stdin=stdin)
        assert (answer.code, answer.out) == (2, "")
        assert re.search(told, answer.err), answer.err


# --- many at once, and as JSON ----------------------------------------------------------------------------------


def test_each_line_of_jsonl_comes_back_in_order_with_its_text_and_all_it_had(run: RunFolder, ask: Ask) -> None:
    asked = [
        {"id": 3, "prompt": "7 times", "tags": ["a", None]},
        {"prompt": "41 times 48 is 1968, as every", "finish_reason": "long ago", "id": "\u2603"},
        {"prompt": "12\u2028", "text": "", "tokens": 0},  # a line ends there for str.splitlines, not for JSON
    ]
    text = "\n\n".join(json.dumps(record, ensure_ascii=False) for record in asked) + "\n \n"
    stop = ("--stop", "as", "--stop", "\n")  # so that they end at different times
    found = lines(ask(run, "--jsonl", "-", "--seed", 5, *stop, stdin=text.encode()))
    assert [record["prompt"] for record in found] == [record["prompt"] for record in asked]
    assert found[0]["tags"] == ["a", None]
    assert [record.get("id") for record in found] == [3, "\u2603", None]
    for number, record in enumerate(found):
        (alone,) = lines(ask(run, "--prompt", record["prompt"], "--json", "--seed", 5 + number, *stop))
        assert {key: record[key] for key in alone} == alone
        assert alone["finish_reason"] in ("stop", "length")
    assert len({record["tokens"] for record in found}) > 1


def test_several_texts_of_a_prompt_draw_with_one_seed_after_the_other(run: RunFolder, ask: Ask) -> None:
    stdin = b'{"prompt": "7"}\n{"prompt": "8"}\n'
    found = lines(ask(run, "--jsonl", "-", "--num-samples", 2, "--seed", 30, stdin=stdin))
    assert [record["prompt"] for record in found] == ["7", "7", "8", "8"]
    shown = ask(run, "--prompt", "7", "--num-samples", 2, "--seed", 30).out
    assert shown == f"7{found[0]['text']}\n{SEPARATOR}\n7{found[1]['text']}\n"
    assert found[0]["text"] != found[1]["text"]
    assert ask(run, "--prompt", "8", "--seed", 33).out == f"8{found[3]['text']}\n"


def test_logprobs_are_the_models_own_whatever_the_samplers_did(run: RunFolder, ask: Ask) -> None:
    words = ("--prompt", "7 t", "--logprobs", "--max-new-tokens", 12, "sample.precision=fp32")
    for sampler in (GREEDY, "sampler=[{use='temperature', value=2.0}, 'top_k']"):
        (record,) = lines(ask(run, *words, sampler))
        model = load_run(run.path).model
        ids = torch.tensor([[*b"7 t", *record["token_ids"]]])
        with torch.no_grad():
            logprobs = model(ids)[0].log_softmax(dim=-1)
        expected = [float(logprobs[2 + number, token]) for number, token in enumerate(record["token_ids"])]
        assert record["logprobs"] == pytest.approx(expected, abs=1e-4)
        assert sum(record["logprobs"]) == pytest.approx(sum(expected), abs=1e-3)
        assert len(expected) == record["tokens"] == 12
        assert record["text"] == bytes(record["token_ids"]).decode(errors="replace")


def test_faults_in_jsonl_are_named_with_their_lines_before_a_model_is_looked_for(tmp_path: Path, ask: Ask) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n{"prompt": 5}\n\n{"prompt"\n["prompt"]\n{"prompt": "a", "b": "\\ud83d"}\n')
    answer = ask("nobody", "--jsonl", path)
    assert (answer.code, answer.out) == (2, "")
    for told in (
        f'{path}:2: expected an object with a string "prompt", got {{"prompt": 5}}',
        f"{path}:4: not JSON: ",
        f"{path}:5: expected an object",
        f"{path}:6: not JSON: 'utf-8' codec can't encode",  # it could not be carried along
    ):
        assert told in answer.err
    assert f"{path}:1" not in answer.err
    assert "nobody" not in answer.err


# --- where a text ends ------------------------------------------------------------------------------------------


def test_a_text_ends_before_the_first_of_the_stops_that_comes(run: RunFolder, ask: Ask) -> None:
    whole = ask(run, "--prompt", "7 times", GREEDY).out.removeprefix("7 times").rstrip("\n")
    first, later = whole[6:9], whole[15:19]  # of bytes, so that each spans several tokens
    assert whole.index(first) < whole.index(later)
    until = whole[: whole.index(first)]
    for stops in ([first], [later, first], [first, "never written"]):
        options = [word for stop in stops for word in ("--stop", stop)]
        assert ask(run, "--prompt", "7 times", GREEDY, *options).out == f"7 times{until}\n"
        (record,) = lines(ask(run, "--prompt", "7 times", "--json", GREEDY, *options))
        assert (record["text"], record["finish_reason"]) == (until, "stop")
    assert ask(run, "--prompt", "7 times", GREEDY, f"sample.stop=[{json.dumps(first)}]").out == f"7 times{until}\n"
    (record,) = lines(ask(run, "--prompt", "7 times", "--json", GREEDY, "--stop", "never written"))
    assert (record["text"], record["finish_reason"], record["tokens"]) == (whole, "length", 30)


def test_a_text_ends_at_end_of_text_which_is_not_shown(short_run: RunFolder, ask: Ask) -> None:
    assert ask(short_run, "--prompt", "12a", GREEDY).out == "12ab\n"
    (record,) = lines(ask(short_run, "--prompt", "12a", "--json", GREEDY))
    assert record == {"prompt": "12a", "text": "b", "tokens": 2, "finish_reason": "eot"}
    (record,) = lines(ask(short_run, "--prompt", "", "--json"))  # it begins after one
    assert (record["finish_reason"], record["text"][:1].isdigit()) == ("eot", True)
    (record,) = lines(ask(short_run, "--prompt", "12ab", "--logprobs", GREEDY))
    assert (record["text"], record["token_ids"]) == ("", [256])


def test_no_new_tokens_are_no_text(run: RunFolder, ask: Ask) -> None:
    (record,) = lines(ask(run, "--prompt", "7", "--json", "--max-new-tokens", 0))
    assert record == {"prompt": "7", "text": "", "tokens": 0, "finish_reason": "length"}
    assert ask(run, "--prompt", "7", "--max-new-tokens", 0).out == "7\n"


def test_a_prompt_longer_than_the_context_goes_on(run: RunFolder, ask: Ask) -> None:
    prompt = "41 times 48 is 1968, as everybody \u2603 knows.\n" * 3
    for beyond in ("auto", "refill", "exact"):
        answer = ask(run, "--prompt", prompt, GREEDY, f"sample.on_overflow={beyond}")
        assert answer.code == 0, answer.err
        assert answer.out.startswith(prompt)
        assert len(answer.out) > len(prompt) + 10


def test_what_learned_positions_cannot_do_is_refused(run: RunFolder, ask: Ask) -> None:
    answer = ask(run, "--prompt", "7", "sample.on_overflow=rolling")
    assert answer.code == 2
    assert all(part in answer.err for part in ("sample.on_overflow", "auto, refill or exact", "'rolling'"))


def test_prompts_outside_the_vocabulary_are_told(char_run: RunFolder, ask: Ask) -> None:
    answer = ask(char_run, "--prompt", "7 Q")
    assert (answer.code, answer.out) == (2, "")
    assert re.search(r"the prompt cannot be encoded: not in the vocabulary of .* characters: 'Q'", answer.err)
    answer = ask(char_run, "--prompt", "")
    assert (answer.code, answer.out) == (2, "")
    assert "the prompt is empty, and this tokenizer has no end-of-text token" in answer.err


def test_extremes_of_samplers_are_plain_choices(run: RunFolder, ask: Ask) -> None:
    def text(sampler: str, seed: int = 1) -> str:
        return str(ask(run, "--prompt", "7", "--seed", seed, sampler).out)

    assert text("sampler=[{use='top_k', k=100000}]") == text("sampler=[]")
    assert text("sampler=[{use='temperature', value=0.0}]") == text(GREEDY)
    assert text(GREEDY, seed=2) == text(GREEDY)
    assert text("sampler=[]", seed=2) != text("sampler=[]")


# --- whose model it is ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("gpt2_vocabulary")
def test_runs_and_what_is_exported_of_them_write_the_same(
    run: RunFolder, tmp_path: Path, command: Callable[..., Any], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOGPT_KIT_RUNS", str(run.path.parents[1]))
    for form in ("huggingface", "nanogpt", "safetensors"):
        assert command("export", "tiny", tmp_path / form, "--format", form).code == 0
    monkeypatch.setenv("NANOGPT_KIT_RUNS", str(tmp_path / "runs"))
    assert command("import", tmp_path / "huggingface", "theirs", "tokenizer=byte").code == 0
    words = ("--prompt", "7 times", "--json", "--max-new-tokens", 25, GREEDY)
    expected = lines(ask(run, *words))
    for model, *more in (
        ["theirs"],
        [tmp_path / "huggingface", "tokenizer=byte"],
        [tmp_path / "nanogpt", "tokenizer=byte"],  # without a meta.pkl
        [tmp_path / "nanogpt" / "ckpt.pt", "tokenizer.use=byte"],
        [tmp_path / "safetensors"],
    ):
        assert lines(ask(model, *words, *more)) == expected
    monkeypatch.setenv("NANOGPT_KIT_RUNS", str(run.path.parents[1]))
    assert lines(ask("tiny", *words)) == expected
    answer = ask(tmp_path / "nanogpt", *words)
    assert (answer.code, "gpt2 has 50,257 tokens, but the model of" in answer.err) == (2, True)
    for model in ("tiny", tmp_path / "safetensors"):
        answer = ask(model, *words, "tokenizer=byte")
        assert (answer.code, "only sample and sampler" in answer.err) == (2, True)


@pytest.mark.usefixtures("gpt2_vocabulary")
def test_a_nanogpt_checkpoint_of_characters_writes_what_its_run_does(
    char_run: RunFolder, tmp_path: Path, command: Callable[..., Any], ask: Ask
) -> None:
    assert command("export", char_run, tmp_path / "out", "--format", "nanogpt").code == 0
    words = ("--prompt", "7 times \u2603", "--json", GREEDY, "--max-new-tokens", 30)
    expected = lines(ask(char_run, *words))
    assert lines(ask(tmp_path / "out", *words)) == expected
    assert lines(ask(tmp_path / "out" / "ckpt.pt", *words)) == expected
    (tmp_path / "out" / "meta.pkl").unlink()
    answer = ask(tmp_path / "out", *words)
    assert (answer.code, "meta.pkl" in answer.err) == (2, True)


# --- while it works ---------------------------------------------------------------------------------------------


def test_several_texts_are_written_at_a_time_and_shown_one_after_the_other(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ["7 times", "41 times 48 is 19", "9"]
    pieces = list(load_run(run.path).stream_tokens(prompts, 40, stop=["is"]))
    assert {piece.text_index for piece in pieces[:3]} == {0, 1, 2}
    ends = {piece.text_index: at for at, piece in enumerate(pieces) if piece.finish_reason}
    texts = [
        prompt + "".join(piece.text for piece in pieces if piece.text_index == number)
        for number, prompt in enumerate(prompts)
    ]
    shown = [""]

    def watched() -> Iterator[GeneratedToken]:
        for piece in pieces:
            shown.append(shown[-1] + capsys.readouterr().out)  # what a reader has before this piece
            yield piece

    print_texts(prompts, watched())
    assert shown[-1] + capsys.readouterr().out == f"\n{SEPARATOR}\n".join(texts) + "\n"
    before_the_end = shown[1 : ends[0] + 2]
    assert [text.count(SEPARATOR) for text in before_the_end] == [0] * len(before_the_end)
    assert len(set(before_the_end)) > 3  # it grows


def started(run: RunFolder, *words: str, **options: Any) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "nanogpt_kit", "sample", str(run), *words]
    return subprocess.Popen(
        program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def read_until(descriptor: int, enough: Callable[[bytes], object]) -> list[bytes]:
    """The pieces as they arrive."""
    found: list[bytes] = []
    while not enough(b"".join(found)):
        assert select.select([descriptor], [], [], 60)[0], found
        new = os.read(descriptor, 4096)
        assert new, found
        found.append(new)
        assert sum(map(len, found)) < 20_000
    return found


def test_text_comes_as_it_is_made_in_whole_characters_and_ctrl_c_leaves_it(run: RunFolder) -> None:
    process = started(run, "--prompt", "7 times \u2603", "--max-new-tokens", "1000000")
    assert process.stdout is not None
    pieces = read_until(process.stdout.fileno(), lambda text: len(text) > 500 and "\u2603".encode() in text[20:])
    assert len(pieces) > 5
    shown = b""
    for piece in pieces:
        shown += piece
        shown.decode()  # at no time the half of a character
    process.send_signal(signal.SIGINT)
    rest, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.decode().partition("\n")[2].strip() == "interrupted"
    (shown + rest).decode()
    prompt = "7 times \u2603"
    expected = load_run(run.path).generate([prompt], 400)[0].encode()
    assert shown[:400] == expected[:400]


def test_a_reader_who_has_seen_enough_ends_it_in_peace(run: RunFolder) -> None:
    for stderr in (subprocess.PIPE, subprocess.STDOUT):  # as `| head` and `2>&1 | head` do
        program = [
            sys.executable,
            "-m",
            "nanogpt_kit",
            "sample",
            str(run),
            "--prompt",
            "7",
            "--max-new-tokens",
            "1000000",
        ]
        process = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr)
        assert process.stdout is not None
        if stderr == subprocess.STDOUT:
            assert process.stdout.readline().startswith(b"run ")
        assert process.stdout.read(1) == b"7"
        process.stdout.close()
        told = process.stderr.read() if process.stderr else None
        assert process.wait(timeout=60) == 0
        assert told is None or [line[:4] for line in told.splitlines()] == [b"run "]
        if process.stderr:
            process.stderr.close()


def test_piped_text_is_what_the_model_wrote_escape_sequences_included(run: RunFolder) -> None:
    shown, _ = started(run, "--prompt", "\x1b[31mred", "--max-new-tokens", "0").communicate(timeout=60)
    assert shown == b"\x1b[31mred\n"


def test_what_the_locale_cannot_show_is_no_failure(run: RunFolder) -> None:
    words = ("--prompt", "\u2603", "--max-new-tokens", "1")
    process = started(run, *words, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    shown, told = process.communicate(timeout=60)
    assert (process.returncode, shown[:6]) == (0, rb"\u2603"), told


# --- on a terminal ----------------------------------------------------------------------------------------------


class Terminal:
    """Somebody at a terminal; `said` is all that was on it."""

    def __init__(self, words: Sequence[str], **options: Any) -> None:
        import pty

        self.master, slave = pty.openpty()
        self.said = ""
        program = [sys.executable, "-m", "nanogpt_kit", "sample", *words]
        options = {"stdin": slave, "stdout": slave, "stderr": slave, **options}
        self.process = subprocess.Popen(program, start_new_session=True, **options)
        os.close(slave)

    def type(self, keys: str | bytes) -> None:
        os.write(self.master, keys.encode() if isinstance(keys, str) else keys)

    def wait_for(self, pattern: str) -> str:
        """What is said from now on until the pattern is."""
        pieces = read_until(self.master, lambda text: re.search(pattern, text.decode(errors="ignore")))
        found = b"".join(pieces).decode(errors="ignore")
        self.said += found
        return found

    def end(self) -> int:
        code = self.process.wait(timeout=60)
        os.close(self.master)
        return code


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    pytest.importorskip("pty")
    made: list[Terminal] = []

    def sit_down(*words: object, **options: Any) -> Terminal:
        made.append(Terminal([str(word) for word in words], **options))
        return made[-1]

    yield sit_down
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


READY = 0.3  # seconds until readline waits for keys: it notices signals only then


def test_a_conversation_goes_on_after_mistakes_and_remembers_what_was_asked(
    char_run: RunFolder, tmp_path: Path, ask: Ask, terminal: Callable[..., Terminal]
) -> None:
    words = (char_run, "--max-new-tokens", "9", "--seed", "40")
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict", "NO_COLOR": "1"}  # as in most locales
    user = terminal(*words, env=strict)
    assert "Ctrl-D ends" in user.wait_for("> ")
    user.type("7 times\n")
    answer = user.wait_for(r"tokens/s\r\n[^>]*> ").replace("\r\n", "\n")
    assert ask(*words, "--prompt", "7 times").out in answer
    assert PACE.search(answer)
    user.type("Q\n")
    answer = user.wait_for(r"error[^>]*> ")
    assert "error: the prompt cannot be encoded" in answer
    assert "tokens/s" not in answer  # nothing was written
    user.type(b"\xff\n")
    assert "codec can't" in user.wait_for(r"error[^>]*> ")
    user.type("7 times\n")
    answer = user.wait_for(r"tokens/s\r\n[^>]*> ").replace("\r\n", "\n")
    assert ask(char_run, "--max-new-tokens", "9", "--seed", "41", "--prompt", "7 times").out in answer  # another text
    user.type("\x04")
    assert user.end() == 0
    assert "Traceback" not in user.said
    prompts = (tmp_path / "state" / "nanogpt-kit" / "prompts").read_text(encoding="utf-8", errors="replace")
    assert prompts.splitlines()[:2] == ["7 times", "Q"]
    user = terminal(*words)
    user.wait_for("> ")
    user.type("\x1b[A")  # the arrow up
    user.wait_for("7 times")
    user.type("\x04\n\x04")  # Ctrl-D is nothing in a line that has begun
    user.wait_for("tokens/s")
    assert user.end() == 0


def test_ctrl_c_stops_a_text_and_asks_again(run: RunFolder, terminal: Callable[..., Terminal]) -> None:
    user = terminal(run, "--max-new-tokens", "1000000", "--num-samples", "2")
    user.wait_for("> ")
    user.type("7 times\n")
    user.wait_for(r"7 times[^$]{100}")
    user.type("\x03")
    user.wait_for(r"\d{2,} tokens in .* tokens/s\r\n[^>]*> ")
    user.type("half a line")
    user.wait_for("half a line")
    time.sleep(READY)
    user.type("\x03")
    user.wait_for("> ")
    user.type("\x04")
    assert user.end() == 0
    assert "Traceback" not in user.said
    user = terminal(run)
    user.wait_for("> ")
    time.sleep(READY)
    user.process.terminate()
    assert user.end() == 130


def test_where_the_text_goes_elsewhere_nobody_is_asked(run: RunFolder, terminal: Callable[..., Terminal]) -> None:
    user = terminal(run, "--max-new-tokens", "5", "sample.prompt=12 times", stdout=subprocess.PIPE)
    assert user.process.stdout is not None
    shown = user.process.stdout.read()
    user.process.stdout.close()
    assert shown.startswith(b"12 times")
    assert user.end() == 0
    user = terminal(run, "--max-new-tokens", "5", "--json")
    user.wait_for(r'"finish_reason": "length"')
    assert user.end() == 0


def test_a_line_that_cannot_be_answered_is_named(char_run: RunFolder, ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    lines = ['{"prompt": "7"}', '{"prompt": "Q"}', '{"prompt": "7", "id": NaN}', "[" * 100_000 + "]" * 100_000]
    file.write_text("\n".join(lines[:2]) + "\n", encoding="utf-8")
    answer = ask(char_run, "--jsonl", str(file))
    assert (answer.code, answer.out) == (2, "")
    assert f"{file}:2: the prompt cannot be encoded" in answer.err
    file.write_text("\n".join(lines[2:]) + "\n", encoding="utf-8")
    answer = ask(char_run, "--jsonl", str(file))
    assert (answer.code, answer.out) == (2, "")
    assert f"{file}:1: not JSON" in answer.err
    assert f"{file}:2: not JSON" in answer.err
