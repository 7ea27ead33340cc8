"""Networks: modules only, no training and no files."""
