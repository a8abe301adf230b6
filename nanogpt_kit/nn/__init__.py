"""What models share: who may see whom, where tokens are, which role a parameter plays."""
