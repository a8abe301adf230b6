"""Import and export of models of other programs: Hugging Face's GPT-2 and nanoGPT's checkpoints."""

FORMATS = ("huggingface", "nanogpt", "safetensors")
