"""How `check --explain` writes an option and its comment on a terminal."""

from __future__ import annotations

import sys

import pytest

from nanogpt_kit.cli.explained import with_comment

COMMENT = "my.toml:27; default: 0.001"


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (sys.maxsize, f"optimizer.lr = 0.003      # {COMMENT}"),
        (54, f"optimizer.lr = 0.003      # {COMMENT}"),
        (53, f"optimizer.lr = 0.003  # {COMMENT}"),
        (50, f"optimizer.lr = 0.003  # {COMMENT}"),
        (30, "optimizer.lr = 0.003\n    # my.toml:27; default:\n    #     0.001"),
    ],
)
def test_a_comment_is_beside_its_option_where_both_fit(
    monkeypatch: pytest.MonkeyPatch, columns: int, text: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert with_comment("optimizer.lr = 0.003", COMMENT, 24, columns) == text
