"""A published GPT-2 is downloaded only where the command has no other mistake."""

from __future__ import annotations

import pytest

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.interop import importing
from nanogpt_kit.interop.importing import import_run


@pytest.mark.parametrize(
    ("options", "format", "message"),
    [
        ([], "nanogpt", "gpt2 is published in the format huggingface, not in nanogpt; omit --format"),
        (["format.meta=a"], None, "format.meta: unknown key; nanogpt has this option, but 'huggingface' does not"),
        ([], "hugingface", "did you mean 'huggingface'"),
    ],
)
def test_a_mistake_in_the_format_is_reported_before_anything_is_downloaded(
    monkeypatch: pytest.MonkeyPatch, options: list[str], format: str | None, message: str
) -> None:
    monkeypatch.setattr(importing, "download_gpt2", lambda name: pytest.fail("it was downloaded"))
    with pytest.raises(KitError, match=message):
        import_run("gpt2", overrides=options, format=format)
