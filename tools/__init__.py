"""What `dev.py` is made of: the host, its client, the demo and the checks."""
