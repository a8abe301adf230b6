"""Models from elsewhere and for elsewhere: Hugging Face's GPT-2 and nanoGPT's checkpoints."""

FORMATS = ("huggingface", "nanogpt", "safetensors")
