"""The parts of `dev.py`: the host, its client, the demo and the checks."""
