"""A newcomer at a shell: an environment with the wheel, an empty folder, and a transcript of every command."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT = 240  # seconds for one command
UNREACHABLE = "http://127.0.0.1:9"  # a proxy that refuses every connection
RUN_ID = re.compile(r"\d{8}-\d{9}-s(\d+)-[0-9a-f]{6}")
STEP_AFTER_SECONDS = re.compile(r"^step .* left\n", re.MULTILINE)  # printed every few seconds
REPLACED = tuple(  # what differs between machines, versions of Python or of this repository -> what stands for it
    (re.compile(pattern, re.MULTILINE | re.DOTALL), replacement)
    for pattern, replacement in (
        (r"^(device|precision|compile)( +)[^\n]*", r"\1\2<\1>"),
        (r"(bits per byte\)\n\n).*?(\nfinished: )", r"\1<text>\2"),
        (r"^((?:run|model) [^\n]*\n)(?:(?!\$ )[^\n]*\n)*?(\d+ tokens in )", r"\1<text>\n\2"),
        (r"(stopped at|resumes at|<run \d>:) step \d+ of 300(?! of|,)", r"\1 step <step> of 300"),
        (r"(step <step> of 300\n)step \d+/", r"\1step <step>/"),
        (r" \(\d+\.\d MB/s\)", ""),
        (r"(loss|_byte|gzip -9:|xz -9:|@best:|this one)( +)\d+\.\d+", r"\1\2<number>"),
        (r"[\d,.]+ tokens/s", "<rate> tokens/s"),
        (r"\d+:\d\d elapsed", "<time> elapsed"),
        (r"\bin \d+\.\d+ s\b", "in <time> s"),
        (r"\b\d+ s of training", "<time> s of training"),
        (r"\d+ files, [\d.]+ MB", "<count> files, <size> MB"),
        (r"(?<=: )(\.\w+ )\d+(?=[,;\n])", r"\1<count>"),
        (r"(, \.\w+ )\d+(?=[,;\n])", r"\1<count>"),
        (r"[\d.]+ [kM]B of text", "<size> MB of text"),
        (r"(?:train )?[\d,]+ (?:tokens|train), (?:val )?[\d,]+ (?:tokens|val)$", "<count> train, <count> val"),
    )
)


def install_wheel(repository: Path, folder: Path) -> Path:
    """Makes an environment below `folder` that has the wheel of this repository, and as links, so that nothing is
    downloaded, its dependencies; returns the folder of its commands.

    It contains neither the clone that this environment may have installed, nor plugins, nor .pth files.
    """
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=repository, check=True, capture_output=True)
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.suffix != ".pth" and "nanogpt" not in path.name.lower() and not (packages / path.name).exists():
            (packages / path.name).symlink_to(path)
    wheel = next(folder.glob("*.whl"))
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return python.parent


@dataclass
class Newcomer:
    """Someone who types commands in `folder`."""

    commands: Path  # the folder of the commands of the environment
    folder: Path
    page: list[str] = field(default_factory=list)  # the transcript
    runs: dict[str, str] = field(default_factory=dict)  # run id -> what stands for it in the transcript

    def types(self, line: str, code: int = 0, until: str | None = None) -> str:
        """What a command prints, on both streams. With `until` it gets Ctrl-C when it prints a line that begins so."""
        words = shlex.split(line)
        program = shutil.which(words[0], path=str(self.commands))
        assert program, f"{words[0]} is not a command of the environment"
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(
            [program, *words[1:]], cwd=self.folder, env=self.environment(), text=True, encoding="utf-8", **streams
        ) as process:
            assert process.stdout
            lines: list[str] = []
            for printed in process.stdout if until else ():
                lines.append(printed)
                if printed.startswith(until or ""):
                    process.send_signal(signal.SIGINT)
                    break
            output = "".join([*lines, process.communicate(timeout=TIMEOUT)[0]])
        self.page.append(f"$ {line}\n{output}")
        assert process.returncode == code, f"{line}: exit code {process.returncode}\n{output}"
        return output

    def environment(self) -> dict[str, str]:
        """A new user's, without a network: nothing of this process's environment, except where libraries are."""
        kept = ("LD_LIBRARY_PATH", "TMPDIR")
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), UNREACHABLE)
        return {
            **{name: os.environ[name] for name in kept if name in os.environ},
            **proxies,
            "PATH": f"{self.commands}{os.pathsep}{os.defpath}",
            "HOME": str(self.folder.parent / "home"),
            "LC_ALL": "C.UTF-8",
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
        }

    def turns_page(self) -> str:
        """The commands since the last page with their output, the same on every machine."""
        text = STEP_AFTER_SECONDS.sub("", "\n".join(self.page)).replace(str(self.folder), "<folder>")
        self.page.clear()
        for run_id in RUN_ID.finditer(text):
            self.runs.setdefault(run_id[0], f"<run {len(self.runs) + 1}>")
        for run_id_text, name in self.runs.items():
            text = text.replace(run_id_text, name)
        for pattern, replacement in REPLACED:
            text = pattern.sub(replacement, text)
        return text
