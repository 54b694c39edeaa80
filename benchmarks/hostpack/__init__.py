"""Custom nodes for `python -m benchmarks.server`, for what must be done inside ComfyUI."""

from . import watch
from .blocks import Blocks
from .hammer import Hammer
from .inputs import Conditioning, Keep, Latent
from .references import References

NODE_CLASS_MAPPINGS = {
    "SideStreamBenchBlocks": Blocks,
    "SideStreamBenchConditioning": Conditioning,
    "SideStreamBenchHammer": Hammer,
    "SideStreamBenchKeep": Keep,
    "SideStreamBenchLatent": Latent,
    "SideStreamBenchReferences": References,
}

watch.begin()
