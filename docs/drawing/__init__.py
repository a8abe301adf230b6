"""The drawings of the documentation: each module of `figures` draws one, `docs/figures/<its name>.svg`."""
