"""Model files of random weights: `python -m benchmarks.server.files COMFYUI FOLDER UNET...`.

It is a separate process, so that it leaves nothing behind in the ComfyUI that is measured. The
files are loaded by ComfyUI's own loaders. Their results are finite in half precision and look like
pictures: the UNet approximately predicts the noise that it is given, so that latents stay in their
natural range, and the decoder's pictures have a natural contrast.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

SHAPES = ("sd15", "sdxl", "tiny")
DECODERS = ("taesd_decoder", "taesdxl_decoder")
CONTRAST = 0.2
"""The standard deviation of a decoded picture from 0 to 1."""


def unet_file(folder: Path, unet: str) -> Path:
    """The file of a UNet's weights in a models folder."""
    return folder / "diffusion_models" / f"random-{unet}.safetensors"


def decoder_file(folder: Path, name: str) -> Path:
    """Where a decoder's weights lie in a models folder: bleh takes no other kind of file."""
    return folder / "vae_approx" / f"{name}.pth"


def write_unet(path: Path, unet: str, device: torch.device) -> None:
    """Write a UNet of the shape `unet` in half precision."""
    from safetensors.torch import save_file
    from sidestream.benchmarks import models

    network = models.build(unet, device).model.diffusion_model
    dtype = torch.float16 if device.type == "cuda" else torch.float32  # a CPU has no fast halves
    network.to(dtype)
    network.dtype = dtype
    with torch.inference_mode():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        network.input_blocks[0][0].weight.mul_(8)  # so that the input is still visible at the end
        predict_the_noise(network, unet, device, dtype)
    save_file({n: w.half().cpu().contiguous() for n, w in network.state_dict().items()}, path)


def predict_the_noise(network: Any, unet: str, device: torch.device, dtype: torch.dtype) -> None:
    """Fit the last convolution so that the network returns its input."""
    side, batch = (48, 8) if device.type == "cuda" else (24, 8)
    generator = torch.Generator().manual_seed(11)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    noise = drawn(batch, 4, side, side)
    steps = torch.linspace(20, 980, batch, device=device)
    width = 2048 if unet == "sdxl" else 768
    labels = drawn(batch, 2816) if unet == "sdxl" else None
    seen: list[torch.Tensor] = []
    hook = network.out[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(noise, steps, drawn(batch, 77, width), y=labels)
    hook.remove()
    features = torch.nn.functional.unfold(seen[0].float(), 3, padding=1)
    features = features.movedim(1, -1).flatten(0, 1)
    squares = features.T @ features
    squares.diagonal().add_(1e-4 * squares.diagonal().mean())
    targets = noise.float().flatten(2).movedim(1, -1).flatten(0, 1)
    fitted = torch.linalg.solve(squares.double(), (features.T @ targets).double())
    last = network.out[2]
    last.weight.copy_(fitted.T.reshape(last.weight.shape).to(dtype))
    last.bias.zero_()


def write_decoder(path: Path, seed: int) -> None:
    """Write a TAESD decoder all of whose layers' outputs fit into half precision."""
    from comfy.taesd.taesd import Decoder

    network = Decoder(latent_channels=4)
    generator = torch.Generator().manual_seed(seed)
    convolutions = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    last = network[-1]

    def settle(layer: torch.nn.Conv2d, inputs: Any, made: torch.Tensor) -> torch.Tensor:
        spread = CONTRAST if layer is last else 1.0
        scale = spread / made.std((0, 2, 3), keepdim=True)
        layer.weight.mul_(scale[0, :, :, :, None].movedim(-1, 1))
        made = made * scale
        if layer.bias is not None:
            centre = 0.5 if layer is last else 0.0
            layer.bias.copy_(centre - made.mean((0, 2, 3)))
            made = made + layer.bias[:, None, None]
        return made

    with torch.inference_mode():
        for layer in convolutions:
            layer.weight.normal_(0, 1, generator=generator)
            # Smooth kernels, as in trained decoders.
            layer.weight.add_(2 * layer.weight.mean((2, 3), keepdim=True))
            if layer.bias is not None:
                layer.bias.zero_()
            layer.register_forward_hook(settle)
        network(torch.randn(2, 4, 32, 32, generator=generator))
    torch.save({name: weight.contiguous() for name, weight in network.state_dict().items()}, path)


def write_missing(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file, unless it exists; an interrupted one does not count."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.part")
        write(unfinished)
        unfinished.replace(path)


def main() -> None:
    """Write the missing files."""
    tree, folder = Path(sys.argv[1]), Path(sys.argv[2])
    from ..__main__ import name_the_pack

    name_the_pack()
    from sidestream.tools.launch import mend_torchvision_when_imported

    mend_torchvision_when_imported()
    sys.path.insert(0, str(tree))
    import comfy.options

    comfy.options.enable_args_parsing(False)
    cuda = torch.cuda.is_available()
    if not cuda:
        import comfy.cli_args

        comfy.cli_args.args.cpu = True
    device = torch.device("cuda" if cuda else "cpu")
    for unet in sys.argv[3:]:
        write_missing(unet_file(folder, unet), partial(write_unet, unet=unet, device=device))
    for seed, name in enumerate(DECODERS):
        write_missing(decoder_file(folder, name), partial(write_decoder, seed=seed))


if __name__ == "__main__":
    main()
