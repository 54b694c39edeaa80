"""Which decoders can make previews for a latent format, best first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .. import decoder_files, host
from ..decoder_files import Kind
from ..decoders import recognise
from ..decoders.latent2rgb import Latent2RGBSource
from ..decoders.protocols import DecoderError, Source
from ..decoders.sound import SoundSource
from ..decoders.spectrogram import SpectrogramSource
from ..decoders.taehv import TaehvSource
from ..decoders.taesd import TaesdSource
from ..decoders.vae import VaeSource
from ..plain import file_name, in_a_line, plain
from ..vae_copy import VaeCopy

if TYPE_CHECKING:
    import torch

Say = Callable[[int, str], None]
"""Logs a line at a level."""


def find(method: str, latent_format: Any, say: Say, vae: VaeCopy | None = None) -> list[Source]:
    """The decoders for `method` (auto, taesd, latent2rgb, or none and off for no previews)."""
    if method in ("none", "off"):
        return []
    found: list[Source | None] = []
    if method == "auto" and vae is not None:
        found.append(VaeSource(vae, latent_format.process_out, _space(latent_format)))
    if method in ("auto", "taesd"):
        found.append(_tiny_decoder(latent_format, say, wanted=method == "taesd"))
    found.append(_factors(latent_format))
    if not any(found) and host.models.is_sound(latent_format):
        found.append(SpectrogramSource())
    return [source for source in found if source is not None]


def sound(vae: Any, latent_format: Any, model: Any) -> SoundSource:
    """What decodes the sound of a MODEL's latents with `vae`. Raises host.models.CannotDecode."""
    scale = host.models.sound_scale(model)

    def process_out(latent: torch.Tensor) -> torch.Tensor:
        if host.models.is_sound(latent_format):
            latent = latent_format.process_out(latent)
        return latent / scale

    space = f"{_space(latent_format)} {scale}"
    return SoundSource(host.models.sound_copy(vae), process_out, space)


def _tiny_decoder(latent_format: Any, say: Say, wanted: bool) -> Source | None:
    names = host.models.decoder_names(latent_format)
    if not names:
        return None
    try:
        path = host.installation.decoder_file(*names)
    except OSError as error:  # the folder or its disk is gone
        reason = in_a_line(error)
        say(logging.WARNING, f"models/vae_approx cannot be read ({reason}), so it is ignored.")
        return None
    if path is None:
        _say_what_is_missing(names, say, wanted)
        return None
    kind = host.models.decoder_kind(latent_format)
    try:
        family = recognise.family_of(path) if kind is None else kind.family
    except DecoderError as error:
        say(logging.WARNING, f"models/vae_approx/{file_name(path)} is ignored: {in_a_line(error)}.")
        return None
    channels, precision = host.models.latent_channels(latent_format), host.installation.precision
    if family == decoder_files.IMAGE:
        return TaesdSource.of(path, channels, precision)
    more = {"space": _space(latent_format), "process_out": latent_format.process_out}
    return TaehvSource.of(path, channels, precision, **more)


def missing_decoder(latent_format: Any) -> Kind | None:
    """The kind of files that would make the format's previews sharp, if none of them is there.

    None if there is one, if no such files exist, or if none is needed.
    """
    kind = host.models.decoder_kind(latent_format)
    if kind is None or host.models.is_exact(latent_format):
        return None
    try:
        path = host.installation.decoder_file(*host.models.decoder_names(latent_format))
    except OSError:
        return None
    return kind if path is None else None


def _say_what_is_missing(names: Sequence[str], say: Say, wanted: bool) -> None:
    place = host.installation.misplaced_decoder(*names)
    if place is not None:
        say(
            logging.WARNING,
            f"{plain(place)} is ignored: preview decoders belong in models/vae_approx.",
        )
    elif wanted:
        say(
            logging.WARNING,
            f"TAESD previews need the file models/vae_approx/{' or '.join(names)}, which is"
            " missing; Latent2RGB is used instead.",
        )


def _space(latent_format: Any) -> str:
    """Identifies its `process_out`."""
    return f"{type(latent_format).__name__} {getattr(latent_format, 'scale_factor', 1)}"


def _factors(latent_format: Any) -> Source | None:
    if latent_format.latent_rgb_factors is None:
        return None
    return Latent2RGBSource(
        type(latent_format).__name__,
        latent_format.latent_rgb_factors,
        getattr(latent_format, "latent_rgb_factors_bias", None),
        getattr(latent_format, "latent_rgb_factors_reshape", None),
        host.models.picture_scale(latent_format),
    )
