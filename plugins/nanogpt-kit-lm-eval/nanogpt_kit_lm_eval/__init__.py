"""The tasks of lm-evaluation-harness on the models of nanogpt-kit: an evaluator, a verb, and a model of the harness."""
