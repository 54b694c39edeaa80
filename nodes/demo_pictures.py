"""Small pictures drawn with Pillow at run time: what the demo model "has learnt".

A picture is a function that paints on a :class:`Canvas`. The coordinates do not depend on the
size: the origin is the centre, x points right, y points down, and 1.0 is half the shorter side.
The square from -1 to 1 is therefore always in view, and backgrounds reach beyond it, so the same
function fills a square, a portrait and a panorama.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from PIL import Image, ImageDraw

Point = tuple[float, float]

# Pillow draws hard edges. Drawing this many times larger and averaging gives soft ones.
_SUPERSAMPLING = 8


class Canvas:
    """A large drawing surface, which `finish` shrinks to an anti-aliased picture.

    Args:
        width: of the finished picture, in pixels, at least 1.
        height: of the finished picture, in pixels, at least 1.

    Colours are whatever Pillow takes, for example "#ff8800".
    """

    def __init__(self, width: int, height: int) -> None:
        size = (width * _SUPERSAMPLING, height * _SUPERSAMPLING)
        self._image = Image.new("RGB", size)
        self._draw = ImageDraw.Draw(self._image)
        self._unit = min(size) / 2
        self.right = size[0] / 2 / self._unit
        self.bottom = size[1] / 2 / self._unit

    def finish(self) -> Image.Image:
        """Return the picture, mode "RGB", in the size asked for."""
        return self._image.reduce(_SUPERSAMPLING)

    def gradient(
        self, top: str, bottom: str, start: float | None = None, end: float | None = None
    ) -> None:
        """Blend from `top` at y = start to `bottom` at y = end; None is the edge of the frame."""
        left, above = self._pixel(-self.right, -self.bottom if start is None else start)
        right, below = self._pixel(self.right, self.bottom if end is None else end)
        size = (round(right - left), max(1, round(below) - round(above)))
        mask = Image.linear_gradient("L").resize(size)
        colours = (Image.new("RGB", size, bottom), Image.new("RGB", size, top))
        self._image.paste(Image.composite(*colours, mask), (0, round(above)))

    def glow(self, x: float, y: float, radius: float, colour: str) -> None:
        """A soft light: `colour` at the centre, fading to nothing at `radius`."""
        side = round(2 * radius * self._unit)
        # Pillow's radial gradient reaches 255 in the corners of its square, 180 at its edges.
        mask = Image.radial_gradient("L").point(lambda far: max(0, 255 - far * 255 // 180))
        mask = mask.resize((side, side))
        corner = self._pixel(x - radius, y - radius)
        self._image.paste(colour, (round(corner[0]), round(corner[1])), mask)

    def disc(self, x: float, y: float, radius: float, colour: str) -> None:
        self.ellipse(x, y, radius, radius, colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: str) -> None:
        self._draw.ellipse(self._box(x, y, rx, ry), fill=colour)

    def pie(self, x: float, y: float, radius: float, start: float, end: float, colour: str) -> None:
        """A slice of a disc, clockwise from `start` to `end` degrees, 0 being three o'clock."""
        self._draw.pieslice(self._box(x, y, radius, radius), start, end, fill=colour)

    def arc(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        start: float,
        end: float,
        colour: str,
        width: float,
    ) -> None:
        """A curved stroke of `width`, clockwise from `start` to `end` degrees."""
        stroke = max(1, round(width * self._unit))
        self._draw.arc(self._box(x, y, rx, ry), start, end, fill=colour, width=stroke)

    def polygon(self, points: Sequence[Point], colour: str) -> None:
        self._draw.polygon([self._pixel(*point) for point in points], fill=colour)

    def mirrored(self, points: Sequence[Point], colour: str) -> None:
        """The polygon and its mirror image left of the middle."""
        self.polygon(points, colour)
        self.polygon([(-x, y) for x, y in points], colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def stroke(self, points: Sequence[Point], colour: str, width: float) -> None:
        pixels = [self._pixel(*point) for point in points]
        self._draw.line(pixels, fill=colour, width=max(1, round(width * self._unit)), joint="curve")

    def _pixel(self, x: float, y: float) -> Point:
        return (self.right + x) * self._unit, (self.bottom + y) * self._unit

    def _box(self, x: float, y: float, rx: float, ry: float) -> list[Point]:
        return [self._pixel(x - rx, y - ry), self._pixel(x + rx, y + ry)]


# --- animals ---------------------------------------------------------------------------------


def _cat(c: Canvas) -> None:
    c.gradient("#27b8a8", "#0d6f86")
    c.mirrored([(0.18, -0.52), (0.70, -0.95), (0.78, 0.05)], "#f08a24")
    c.mirrored([(0.36, -0.52), (0.64, -0.74), (0.66, -0.28)], "#ffb9a8")
    c.ellipse(0, 0.12, 0.82, 0.70, "#f6992f")
    for x in (-0.2, 0.0, 0.2):
        c.polygon([(x - 0.07, -0.62), (x + 0.07, -0.62), (x, -0.26)], "#b4561a")
    c.ellipse(0, 0.44, 0.42, 0.32, "#fff1dc")
    for side in (-1, 1):
        c.ellipse(side * 0.36, 0.0, 0.19, 0.21, "#e8f56a")
        c.ellipse(side * 0.36, 0.0, 0.07, 0.19, "#10161a")
        c.disc(side * 0.36 + 0.04, -0.08, 0.04, "#ffffff")
        for tilt in (-0.12, 0.02, 0.16):
            c.stroke([(side * 0.3, 0.4 + tilt / 3), (side * 1.0, 0.38 + tilt)], "#ffffff", 0.025)
    c.polygon([(-0.1, 0.24), (0.1, 0.24), (0, 0.36)], "#e2556b")
    c.arc(-0.12, 0.38, 0.12, 0.12, 10, 170, "#6b2c17", 0.04)
    c.arc(0.12, 0.38, 0.12, 0.12, 10, 170, "#6b2c17", 0.04)


def _panda(c: Canvas) -> None:
    c.gradient("#d8f28a", "#58b04a")
    for x in (-1.25, -0.92, 0.92, 1.25):
        c.box(x - 0.07, -3, x + 0.07, 3, "#2f8a3c")
        for y in (-0.7, -0.05, 0.6):
            c.box(x - 0.09, y, x + 0.09, y + 0.05, "#1d6530")
    for side in (-1, 1):
        c.disc(side * 0.56, -0.56, 0.27, "#1b1d24")
    c.ellipse(0, 0.08, 0.80, 0.72, "#fbfaf4")
    for side in (-1, 1):
        c.ellipse(side * 0.33, -0.02, 0.21, 0.26, "#1b1d24")
        c.disc(side * 0.30, -0.04, 0.10, "#ffffff")
        c.disc(side * 0.29, -0.03, 0.06, "#1b1d24")
        c.disc(side * 0.56, 0.34, 0.12, "#ffb3b3")
    c.ellipse(0, 0.30, 0.13, 0.09, "#1b1d24")
    c.arc(-0.11, 0.40, 0.11, 0.11, 0, 170, "#1b1d24", 0.04)
    c.arc(0.11, 0.40, 0.11, 0.11, 10, 180, "#1b1d24", 0.04)


def _owl(c: Canvas) -> None:
    c.gradient("#141b52", "#5a4fb0")
    c.disc(0.55, -0.5, 0.42, "#fff2b8")
    for x, y in ((-0.85, -0.8), (-0.55, -0.45), (-0.9, 0.1), (0.92, 0.25), (-0.1, -0.93)):
        c.disc(x, y, 0.03, "#ffffff")
    c.box(-9, 0.80, 9, 0.94, "#3b2218")
    c.mirrored([(0.12, -0.50), (0.50, -0.78), (0.56, -0.3)], "#7a4a22")
    c.ellipse(0, 0.16, 0.60, 0.72, "#8f5a2b")
    c.ellipse(0, 0.42, 0.40, 0.44, "#e8c48c")
    for row, count in ((0.32, 3), (0.48, 4), (0.64, 3)):
        for i in range(count):
            c.arc((i - (count - 1) / 2) * 0.18, row, 0.08, 0.07, 0, 180, "#8f5a2b", 0.035)
    c.mirrored([(0.60, 0.0), (0.46, -0.05), (0.36, 0.62), (0.60, 0.55)], "#6a3f1c")
    for side in (-1, 1):
        c.disc(side * 0.25, -0.18, 0.27, "#f7e3b4")
        c.disc(side * 0.25, -0.18, 0.19, "#ff9d1e")
        c.disc(side * 0.25, -0.18, 0.11, "#120d0a")
        c.disc(side * 0.25 + 0.05, -0.24, 0.04, "#ffffff")
        c.ellipse(side * 0.22, 0.84, 0.13, 0.07, "#f4a423")
    c.polygon([(-0.09, -0.06), (0.09, -0.06), (0, 0.14)], "#f4a423")


def _penguin(c: Canvas) -> None:
    c.gradient("#8fe0ff", "#d9f6ff")
    c.polygon(
        [
            (-9, 0.3),
            (-1.1, 0.1),
            (-0.55, 0.42),
            (0.6, 0.05),
            (1.2, 0.35),
            (9, 0.1),
            (9, 9),
            (-9, 9),
        ],
        "#ffffff",
    )
    c.ellipse(0, 0.93, 0.62, 0.10, "#a9d3ea")
    c.mirrored([(0.30, -0.16), (0.50, -0.10), (0.74, 0.46), (0.58, 0.46)], "#1d2740")
    c.ellipse(0, 0.24, 0.50, 0.68, "#1d2740")
    c.ellipse(0, -0.46, 0.36, 0.38, "#1d2740")
    c.ellipse(0, 0.36, 0.34, 0.54, "#ffffff")
    for side in (-1, 1):
        c.ellipse(side * 0.13, -0.42, 0.16, 0.19, "#ffffff")
        c.disc(side * 0.13, -0.44, 0.065, "#10141f")
        c.ellipse(side * 0.22, 0.90, 0.20, 0.08, "#ff9a1f")
    c.polygon([(-0.14, -0.30), (0.14, -0.30), (0, -0.10)], "#ff9a1f")
    c.polygon([(-0.38, -0.14), (0.38, -0.14), (0.36, 0.0), (-0.36, 0.0)], "#e23b4e")
    c.polygon([(0.10, -0.04), (0.28, -0.04), (0.34, 0.34), (0.16, 0.34)], "#c72c42")


# --- landmarks -------------------------------------------------------------------------------


def _eiffel_tower(c: Canvas) -> None:
    c.gradient("#3d3a8c", "#ffb27a", end=0.8)
    c.glow(0.0, 0.75, 1.2, "#ffe2a8")
    c.gradient("#3f7d3a", "#235a2c", start=0.82)
    iron, light = "#4a2c20", "#a06a3e"
    c.mirrored(
        [
            (0.0, -0.96),
            (0.025, -0.96),
            (0.06, -0.5),
            (0.14, 0.0),
            (0.26, 0.34),
            (0.42, 0.66),
            (0.58, 0.90),
            (0.28, 0.90),
            (0.2, 0.62),
            (0.0, 0.5),
        ],
        iron,
    )
    c.disc(0, 0.88, 0.27, "#ffcf94")
    c.gradient("#3f7d3a", "#235a2c", start=0.90)
    for y, half in ((-0.66, 0.09), (-0.04, 0.20), (0.46, 0.40)):
        c.box(-half, y, half, y + 0.07, light)
    for low, high, wide, narrow in ((0.42, 0.06, 0.2, 0.1), (-0.08, -0.56, 0.08, 0.03)):
        c.stroke([(-wide, low), (narrow, high)], light, 0.03)
        c.stroke([(wide, low), (-narrow, high)], light, 0.03)


def _pyramids(c: Canvas) -> None:
    c.gradient("#2f9be6", "#ffe6a6", end=0.5)
    c.glow(-0.5, -0.5, 0.9, "#fff6c9")
    c.disc(-0.5, -0.5, 0.2, "#fff7b0")
    c.gradient("#edb65c", "#c9813a", start=0.42)
    for x, base, half, height in (
        (0.72, 0.5, 0.5, 0.58),
        (-0.72, 0.5, 0.38, 0.42),
        (0.05, 0.62, 0.76, 1.0),
    ):
        top, foot = (x, base - height), (x + half * 0.28, base + 0.08)
        c.polygon([(x - half, base), top, foot], "#f7cf72")
        c.polygon([foot, top, (x + half, base)], "#a8662c")
    c.polygon(
        [
            (-0.28, 0.86),
            (-0.22, 0.72),
            (-0.12, 0.70),
            (-0.02, 0.60),
            (0.08, 0.70),
            (0.2, 0.68),
            (0.24, 0.78),
            (0.20, 0.86),
            (-0.24, 0.86),
        ],
        "#6e3f1d",
    )
    for x in (-0.24, -0.14, 0.06, 0.15):
        c.box(x, 0.8, x + 0.05, 0.98, "#6e3f1d")
    c.stroke([(-0.26, 0.86), (-0.38, 0.72), (-0.40, 0.58), (-0.52, 0.60)], "#6e3f1d", 0.08)


def _fuji(c: Canvas) -> None:
    c.gradient("#f58aa4", "#fff0c8", end=0.4)
    c.disc(-0.62, -0.58, 0.26, "#f2374a")
    c.polygon([(-1.5, 0.40), (-0.20, -0.80), (0.20, -0.80), (1.5, 0.40)], "#4d63a8")
    c.polygon(
        [
            (-0.58, -0.45),
            (-0.20, -0.80),
            (0.20, -0.80),
            (0.58, -0.45),
            (0.40, -0.48),
            (0.26, -0.30),
            (0.10, -0.44),
            (-0.08, -0.24),
            (-0.22, -0.42),
            (-0.38, -0.34),
        ],
        "#ffffff",
    )
    c.gradient("#5fb6c8", "#1f6f93", start=0.38)
    for x, y, half in ((-0.8, 0.55, 0.2), (0.8, 0.62, 0.24), (0.05, 0.9, 0.3), (-0.75, 0.8, 0.14)):
        c.box(x - half, y, x + half, y + 0.03, "#b7e6ea")
    gate = "#e2401f"
    c.mirrored([(0.34, 0.16), (0.44, 0.16), (0.48, 0.94), (0.37, 0.94)], gate)
    c.box(-0.58, 0.28, 0.58, 0.37, gate)
    c.box(-0.05, 0.12, 0.05, 0.30, gate)
    c.polygon([(-0.76, 0.0), (0.76, 0.0), (0.66, 0.15), (-0.66, 0.15)], gate)
    c.polygon([(-0.86, -0.10), (0.0, -0.03), (0.86, -0.10), (0.80, 0.03), (-0.80, 0.03)], "#3a1c1c")


def _windmill(c: Canvas) -> None:
    c.gradient("#3f9fe8", "#d4f0ff", end=0.5)
    for x, y in ((-0.75, -0.55), (0.78, -0.28)):
        c.ellipse(x, y, 0.30, 0.10, "#ffffff")
        c.ellipse(x - 0.05, y - 0.08, 0.16, 0.11, "#ffffff")
    c.gradient("#7cc243", "#4f9a32", start=0.42)
    for row, colour in enumerate(("#e8334a", "#ffd23e", "#d94fa0", "#ff7f2a")):
        top = 0.52 + row * 0.13
        c.box(-9, top, 9, top + 0.07, colour)
    c.polygon([(-0.21, -0.24), (0.21, -0.24), (0.37, 0.76), (-0.37, 0.76)], "#8a4a2e")
    c.box(-0.46, 0.34, 0.46, 0.41, "#f4ead8")
    c.box(-0.10, 0.52, 0.10, 0.76, "#3a2016")
    c.pie(0, -0.22, 0.26, 180, 360, "#5a2f22")
    for quarter in range(4):
        turn = cmath.rect(1.0, math.radians(38 + 90 * quarter))
        sail = [turn * corner for corner in (0.16, 0.74, 0.74 + 0.2j, 0.16 + 0.2j)]
        c.polygon([(corner.real, corner.imag - 0.22) for corner in sail], "#fff8ea")
        tip = turn * 0.76
        c.stroke([(0, -0.22), (tip.real, tip.imag - 0.22)], "#4a2a1c", 0.05)
    c.disc(0, -0.22, 0.07, "#2e1810")


# --- journeys --------------------------------------------------------------------------------


def _sailing_boat(c: Canvas) -> None:
    c.gradient("#5b2a86", "#ff9a4a", end=0.35)
    c.glow(0.35, 0.2, 1.0, "#ffd56b")
    c.disc(0.35, 0.2, 0.3, "#fff0a0")
    c.gradient("#ff8f5a", "#2a3a86", start=0.32)
    for i in range(5):
        c.box(
            0.35 - 0.26 + i * 0.03,
            0.40 + i * 0.11,
            0.35 + 0.26 - i * 0.03,
            0.44 + i * 0.11,
            "#ffe08a",
        )
    c.polygon([(-0.08, -0.86), (-0.08, 0.42), (-0.72, 0.42)], "#ffffff")
    c.polygon([(0.0, -0.70), (0.0, 0.42), (0.52, 0.42)], "#ff5a5f")
    c.box(-0.07, -0.92, -0.01, 0.55, "#3a1d14")
    c.polygon([(-0.78, 0.50), (0.66, 0.50), (0.42, 0.76), (-0.56, 0.76)], "#7a2e1d")
    c.polygon([(-0.78, 0.50), (0.66, 0.50), (0.62, 0.56), (-0.74, 0.56)], "#ffd9a0")


def _balloon(c: Canvas) -> None:
    c.gradient("#2e8fe6", "#c9efff", end=1)
    for x, y, size in ((-0.8, -0.3, 0.24), (0.85, 0.1, 0.28), (-0.7, 0.5, 0.2)):
        c.ellipse(x, y, size, size * 0.4, "#ffffff")
        c.ellipse(x + 0.04, y - size * 0.3, size * 0.55, size * 0.4, "#ffffff")
    c.polygon(
        [(-9, 1.0), (-1.2, 0.76), (-0.4, 0.92), (0.5, 0.72), (1.4, 0.9), (9, 0.7), (9, 9), (-9, 9)],
        "#4fae4a",
    )
    stripes = ("#e8333f", "#ffd23e", "#2f6fd0", "#ffd23e", "#e8333f")
    for half, skirt, colour in (
        (0.66, 0.17, stripes[0]),
        (0.47, 0.12, stripes[1]),
        (0.22, 0.06, stripes[2]),
    ):
        c.ellipse(0, -0.28, half, 0.66, colour)
        c.polygon(
            [(-half * 0.92, -0.02), (half * 0.92, -0.02), (skirt, 0.48), (-skirt, 0.48)], colour
        )
    for side in (-1, 1):
        c.stroke([(side * 0.15, 0.46), (side * 0.12, 0.72)], "#4a2a1c", 0.025)
    c.box(-0.15, 0.68, 0.15, 0.90, "#9a5a2a")
    c.box(-0.17, 0.66, 0.17, 0.72, "#5a3016")


def _rocket(c: Canvas) -> None:
    c.gradient("#0b0d33", "#46228a")
    for i in range(150):
        # Golden-angle steps scatter the stars evenly without a random generator.
        angle, reach = i * 2.39996, 0.22 * math.sqrt(i)
        c.disc(reach * math.cos(angle), reach * math.sin(angle), 0.014 + 0.006 * (i % 3), "#ffffff")
    c.ellipse(-0.62, -0.5, 0.24, 0.24, "#f2a65a")
    c.arc(-0.62, -0.5, 0.42, 0.12, 0, 360, "#ffe0a8", 0.045)
    c.pie(-0.62, -0.5, 0.24, 180, 360, "#f2a65a")
    c.disc(0.3, 2.35, 1.65, "#4fa3d8")
    c.polygon([(-0.17, 0.40), (0.17, 0.40), (0, 1.0)], "#ff7a1f")
    c.polygon([(-0.09, 0.40), (0.09, 0.40), (0, 0.76)], "#fff09a")
    c.mirrored([(0.18, 0.02), (0.48, 0.38), (0.44, 0.56), (0.18, 0.38)], "#e8333f")
    c.ellipse(0, -0.12, 0.28, 0.78, "#f4f6fb")
    c.polygon([(-0.2, 0.40), (0.2, 0.40), (0.14, 0.5), (-0.14, 0.5)], "#7c86a0")
    c.polygon([(-0.21, -0.62), (0, -0.92), (0.21, -0.62)], "#e8333f")
    c.disc(0, -0.22, 0.17, "#7c86a0")
    c.disc(0, -0.22, 0.12, "#5fd0ff")


def _lighthouse(c: Canvas) -> None:
    c.gradient("#10275a", "#3f86b8", end=0.5)
    c.polygon([(0.0, -0.58), (-9, -1.9), (-9, 0.2)], "#ffe9a0")
    c.polygon([(0.0, -0.58), (9, -1.9), (9, 0.2)], "#ffe9a0")
    c.glow(0, -0.58, 0.6, "#fffbe0")
    c.gradient("#1f6f9a", "#0d3a66", start=0.45)
    c.polygon(
        [
            (-2.0, 9),
            (-0.8, 1.3),
            (-0.62, 0.74),
            (-0.3, 0.62),
            (0.34, 0.62),
            (0.66, 0.8),
            (0.9, 1.3),
            (2.0, 9),
        ],
        "#4a4038",
    )
    tower = [(y, 0.2 + 0.12 * (y + 0.4)) for y in (-0.42, -0.2, 0.02, 0.24, 0.46, 0.68)]
    for i, ((top, top_half), (foot, foot_half)) in enumerate(pairwise(tower)):
        c.polygon(
            [(-top_half, top), (top_half, top), (foot_half, foot), (-foot_half, foot)],
            "#e23b3b" if i % 2 == 0 else "#ffffff",
        )
    c.box(-0.27, -0.47, 0.27, -0.40, "#2a2430")
    c.box(-0.15, -0.70, 0.15, -0.47, "#fff6b8")
    c.polygon([(-0.22, -0.70), (0.22, -0.70), (0, -0.92)], "#b3261f")
    for x in (-0.9, 0.75, -1.6, 1.7):
        c.arc(x, 0.86, 0.16, 0.08, 180, 360, "#bfe6f5", 0.03)


PICTURE_SETS: dict[str, tuple[Callable[[Canvas], None], ...]] = {
    "landmarks": (_eiffel_tower, _pyramids, _fuji, _windmill),
    "animals": (_cat, _panda, _owl, _penguin),
    "journeys": (_sailing_boat, _balloon, _rocket, _lighthouse),
}
"""The painters of each set's pictures, by its name."""


def draw_pictures(picture_set: str, width: int, height: int) -> list[Image.Image]:
    """Draw every picture of a set.

    Args:
        picture_set: a key of `PICTURE_SETS`.
        width: in pixels, at least 1.
        height: in pixels, at least 1.

    Returns:
        One "RGB" image a picture, each exactly `width` by `height`; the same each time.

    Raises:
        KeyError: no such set.
    """
    pictures = []
    for paint in PICTURE_SETS[picture_set]:
        canvas = Canvas(width, height)
        paint(canvas)
        pictures.append(canvas.finish())
    return pictures
