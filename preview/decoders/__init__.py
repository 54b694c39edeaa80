"""From latents to pictures: decoders, a file a family, and what is common to all of them.

To add a family, write a module with a `Decoder` and its `Source` (`protocols.py`) beside these and
name it in `sources.py`.
"""
