"""Studies: what a file asks for, what is finished of it, and what its page says."""
