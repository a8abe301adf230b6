"""Tasks of the harness over local files: multiple choice, log-likelihood, perplexity and generation."""

from __future__ import annotations

import json
from pathlib import Path

COMMON = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
fewshot_split: test
output_type: {output}
"""
CHOICES = """\
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""
LAST_WORD = """\
doc_to_text: "{{context}}"
doc_to_target: " {{result}}"
metric_list:
  - metric: perplexity
  - metric: acc
"""
PERPLEXITY = """\
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
"""
GENERATION = """\
doc_to_text: "{{context or 'It is'}}"
doc_to_target: "{{result}}"
generation_kwargs:
  until: ["\\n", ". "]
  max_gen_toks: 7
metric_list:
  - metric: exact_match
"""
OUTPUTS = {
    "choices": ("multiple_choice", CHOICES),
    "last_word": ("loglikelihood", LAST_WORD),
    "perplexity": ("loglikelihood_rolling", PERPLEXITY),
    "generation": ("generate_until", GENERATION),
}


def write_tasks(folder: Path) -> Path:
    """50 questions, of which some contexts are empty, end with a space, or are longer than the models' contexts."""
    lines = []
    for n in range(50):
        context = f"{n} times {n + 7} is"
        if n % 10 == 1:
            context = " ".join(f"{m} times {m + 7} is {m * (m + 7)}." for m in range(n % 7 + 4)) + " " + context
        context = "" if n % 10 == 2 else context + " " if n % 10 == 3 else context
        result = n * (n + 7)
        choices = [f" {result}.", f" {result + n + 1}", " is times is"][: 2 + n % 2]
        text = "".join(f"{m} times {m + 7} is {m * (m + 7)}.\n" for m in range(n, n + 1 + n % 9))
        lines.append({"context": context, "choices": choices, "answer": 0, "result": str(result), "text": text})
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for name, (output, rest) in OUTPUTS.items():
        head = COMMON.format(name=name, data=data.as_posix(), output=output)
        (folder / f"{name}.yaml").write_text(head + rest, encoding="utf-8")
    return folder
