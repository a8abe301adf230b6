"""Models of other programs, in and out: Hugging Face's GPT-2 and nanoGPT's checkpoints."""

FORMATS = ("huggingface", "nanogpt", "safetensors")
