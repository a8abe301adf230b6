"""Reading text: files in many formats, the Hugging Face hub, token files, BPE vocabularies, splits by hash."""
