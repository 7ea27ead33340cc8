"""The formats of the contract between stages, every write atomic, nothing pickled."""
