"""`python -m nanogpt_kit_lm_eval ...`: the harness's own command, which knows the model `nanogpt-kit` here."""

from lm_eval.__main__ import cli_evaluate

import nanogpt_kit_lm_eval.run_model  # noqa: F401  # registers the model

if __name__ == "__main__":
    cli_evaluate()
