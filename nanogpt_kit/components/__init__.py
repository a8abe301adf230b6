"""The built-in components: one idea, one file, one citation. Of the package they import only `nanogpt_kit.api`."""
