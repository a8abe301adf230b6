"""The built-in components: one idea, one file, one citation. They import `nanogpt_kit.api` and nothing else of ours."""
