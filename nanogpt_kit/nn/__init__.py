"""What models share: which positions attend to which, the KV cache, the loss, parameter roles, FLOPs."""
