"""From latents to pictures: a module for each family of decoders, and what they have in common.

To add a family, write a module with a `Decoder` and its `Source` (`protocols.py`), and add it to
`capture/sources.py`.
"""
