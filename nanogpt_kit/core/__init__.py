"""The ground floor: errors, kinds, hooks, TOML, registry, experiment. It knows no torch."""
