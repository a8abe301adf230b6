"""Documents to chunks of text, to encoded chunks, to tokens on disk, to windows, to batches."""
