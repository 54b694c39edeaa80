"""The graphs to queue."""

from __future__ import annotations

from typing import Any

MODEL, POSITIVE, NEGATIVE, LATENT, SAMPLER, END = "1", "2", "3", "4", "5", "6"
SPLIT, ON_THE_WAY = "7", "8"
SEED = 7


def inputs(unet: str, size: int, nonce: int, split: bool = False) -> dict[str, Any]:
    """The inputs of every sampler; `split` spreads the model over two GPUs."""
    graph: dict[str, Any] = {
        MODEL: node("UNETLoader", unet_name=f"random-{unet}.safetensors", weight_dtype="default"),
        POSITIVE: node("SideStreamBenchConditioning", unet=unet, seed=1),
        NEGATIVE: node("SideStreamBenchConditioning", unet=unet, seed=2),
        LATENT: node("SideStreamBenchLatent", size=size, batch=1, nonce=nonce),
    }
    if split:
        graph[SPLIT] = node("MultiGPU_WorkUnits", model=[MODEL, 0], max_gpus=2)
    return graph


def sampled(unet: str, size: int, nonce: int, steps: int, split: bool = False) -> dict[str, Any]:
    """An ordinary run of ComfyUI's KSampler; the node END reports the latent's hash."""
    return {
        **inputs(unet, size, nonce, split),
        SAMPLER: node(
            "KSampler",
            **linked(split),
            seed=SEED,
            steps=steps,
            cfg=7.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        END: node("SideStreamBenchKeep", latent=[SAMPLER, 0]),
    }


def measured(
    kind: str, unet: str, size: int, nonce: int, split: bool = False, **given: Any
) -> dict[str, Any]:
    """A run of one of the helper pack's sampler nodes, which report their results."""
    return {
        **inputs(unet, size, nonce, split),
        SAMPLER: node(kind, **linked(split), seed=SEED, **given),
    }


def through(graph: dict[str, Any], entry: dict[str, Any] | None) -> dict[str, Any]:
    """The graph with a node between the MODEL and the sampler; unchanged if that is None."""
    if entry is None:
        return graph
    sampler = graph[SAMPLER]
    before = sampler["inputs"]["model"]
    return {
        **graph,
        ON_THE_WAY: {**entry, "inputs": {**entry["inputs"], "model": before}},
        SAMPLER: {**sampler, "inputs": {**sampler["inputs"], "model": [ON_THE_WAY, 0]}},
    }


def linked(split: bool) -> dict[str, Any]:
    """The inputs of a sampler."""
    return {
        "model": [SPLIT if split else MODEL, 0],
        "positive": [POSITIVE, 0],
        "negative": [NEGATIVE, 0],
        "latent_image": [LATENT, 0],
    }


def node(kind: str, **given: Any) -> dict[str, Any]:
    """One entry of a prompt."""
    return {"class_type": kind, "inputs": given}
