"""Draws the network of the paper's Figure 2 with the map sizes of a 512 x 512 image.

  python docs/figures/network.py

Writes docs/pictures/network.svg, the same bytes each time for one version of matplotlib.
"""

import pathlib
from collections.abc import Sequence

import matplotlib
from matplotlib import patches
from matplotlib import pyplot as plt

OUTPUT = pathlib.Path(__file__).parents[1] / "pictures" / "network.svg"

INK, SOFT, PANEL = "#24292f", "#6e7781", "#f6f8fa"
# Part of the network: (fill, edge).
COLORS = {
  "encoder": ("#d7e6f7", "#3b73af"),
  "gcn": ("#e6dcf5", "#7a4fb5"),
  "br": ("#d8f0df", "#2c8a55"),
  "deconv": ("#fde6cc", "#cf7a22"),
}
# (name, side in pixels, channels, x of its column, side as drawn, depth as drawn).
MAPS = (
  ("image", 512, 3, 72, 104, 0),
  ("conv-1", 256, 64, 292, 74, 5),
  ("res-2", 128, 256, 464, 56, 9),
  ("res-3", 64, 512, 632, 44, 13),
  ("res-4", 32, 1024, 800, 34, 17),
  ("res-5", 16, 2048, 962, 26, 21),
)
ENCODER_Y, GCN_Y, HEAD_BR_Y, DECODER_Y = 506, 394, 333, 248
BOX, RADIUS = (46, 34), 11
# The decoder from right to left: (element, x).
DECODER = (
  ("deconv", 888), ("sum", 800), ("br", 748), ("deconv", 684), ("sum", 632), ("br", 580), ("deconv", 516),
  ("sum", 464), ("br", 415), ("deconv", 354), ("br", 292), ("deconv", 228), ("br", 164),
)  # fmt: skip
# A street in polygons of a unit square: (colour in the picture, colour in the label map, corners).
SCENE = (
  ("#bcdcf2", "#4682b4", ((0, 0), (1, 0), (1, 1), (0, 1))),  # Sky.
  ("#b59a86", "#464646", ((0, 0.3), (0, 0.9), (0.27, 0.72), (0.27, 0.42), (0.36, 0.4), (0.36, 0.36))),  # Buildings.
  ("#c9ae94", "#464646", ((1, 0.3), (1, 0.83), (0.8, 0.83), (0.8, 0.6), (0.66, 0.56), (0.66, 0.36))),
  (  # A tree.
    "#7fa968", "#6b8e23",
    ((0.56, 0.36), (0.52, 0.5), (0.58, 0.63), (0.66, 0.66), (0.73, 0.58), (0.72, 0.44), (0.67, 0.36)),
  ),
  ("#d3cdc6", "#f423e8", ((0, 0), (0, 0.32), (0.44, 0.38), (0.56, 0.38), (1, 0.32), (1, 0))),  # Pavements.
  ("#8d9094", "#804080", ((0.04, 0), (0.45, 0.38), (0.55, 0.38), (0.96, 0))),  # Road.
  (  # A car.
    "#c8453c", "#00008e",
    ((0.5, 0.1), (0.5, 0.21), (0.54, 0.22), (0.57, 0.3), (0.71, 0.3), (0.74, 0.22), (0.78, 0.21), (0.78, 0.1)),
  ),
)  # fmt: skip


class Canvas:
  """Shapes in the coordinates of the figure: pixels of 1 / 100 inch, the origin at the bottom left."""

  def __init__(self, width: int, height: int):
    self.figure = plt.figure(figsize=(width / 100, height / 100))
    self.axes = self.figure.add_axes((0, 0, 1, 1))
    self.axes.set(xlim=(0, width), ylim=(0, height))
    self.axes.axis("off")

  def text(self, x: float, y: float, text: str, size: float = 9.5, color: str = INK, **options) -> None:
    """Writes centred text."""
    options = dict(ha="center", va="center") | options
    self.axes.text(x, y, text, fontsize=size, color=color, **options)

  def box(self, x: float, y: float, text: str, kind: str, size: Sequence[float] = BOX, font: float = 10.5) -> None:
    """Draws an operation, centred at a point."""
    fill, edge = COLORS[kind]
    corner, style = (x - size[0] / 2, y - size[1] / 2), "round,pad=0,rounding_size=6"
    self.axes.add_patch(patches.FancyBboxPatch(corner, *size, boxstyle=style, fc=fill, ec=edge, lw=1.4))
    self.text(x, y - 0.5, text, font, edge, weight="bold")

  def line(self, *points: Sequence[float]) -> None:
    """Draws a line through points, with an arrow at its end."""
    self.axes.plot(*zip(*points, strict=True), color=INK, lw=1.3, solid_capstyle="butt", zorder=1)
    style = dict(arrowstyle="-|>,head_width=0.22,head_length=0.42", color=INK, lw=1.3, shrinkA=0, shrinkB=0)
    self.axes.annotate("", points[-1], points[-2], arrowprops=style)

  def panel(self, x: float, y: float, width: float, height: float) -> None:
    """Draws the background of an inset."""
    style = "round,pad=0,rounding_size=8"
    self.axes.add_patch(
      patches.FancyBboxPatch((x, y), width, height, boxstyle=style, fc=PANEL, ec="#d0d7de", lw=1, zorder=0)
    )

  def sum(self, x: float, y: float) -> None:
    """Draws an addition."""
    self.axes.add_patch(patches.Circle((x, y), RADIUS, fc="white", ec=INK, lw=1.4, zorder=3))
    for dx, dy in ((5, 0), (0, 5)):
      self.axes.plot((x - dx, x + dx), (y - dy, y + dy), color=INK, lw=1.5, zorder=4)

  def polygon(self, points: Sequence[Sequence[float]], fill: str, edge: str = "none") -> None:
    """Draws a filled polygon."""
    self.axes.add_patch(patches.Polygon(points, fc=fill, ec=edge, lw=1.3, joinstyle="round"))

  def feature_map(self, x: float, y: float, side: float, depth: float) -> None:
    """Draws a map as a block whose depth stands for its channels."""
    (fill, edge), half = COLORS["encoder"], side / 2
    left, right, low, high = x - half - depth / 2, x + half - depth / 2, y - half, y + half
    lift = 0.6 * depth
    self.polygon(
      ((left, high), (left + depth, high + lift), (right + depth, high + lift), (right, high)), "#eaf2fb", edge
    )
    self.polygon(
      ((right, low), (right + depth, low + lift), (right + depth, high + lift), (right, high)), "#b5cfea", edge
    )
    self.polygon(((left, low), (left, high), (right, high), (right, low)), fill, edge)

  def scene(self, x: float, y: float, side: float, as_labels: bool) -> None:
    """Draws the street as a picture or as its label map."""
    corner = (x - side / 2, y - side / 2)
    for picture, label, points in SCENE:
      moved = [(corner[0] + side * px, corner[1] + side * py) for px, py in points]
      self.polygon(moved, label if as_labels else picture)
    self.axes.add_patch(patches.Rectangle(corner, side, side, fc="none", ec=INK, lw=1.3))


def draw_encoder(canvas: Canvas) -> None:
  """Draws the ResNet from left to right; each map has half the side of the one before."""
  for index, (name, side, channels, x, drawn, depth) in enumerate(MAPS):
    if depth:
      canvas.feature_map(x, ENCODER_Y, drawn, depth)
    else:
      canvas.scene(x, ENCODER_Y, drawn, as_labels=False)
    canvas.text(x, ENCODER_Y + 88, name, 11, weight="bold")
    canvas.text(x, ENCODER_Y + 71, f"{side} × {side} × {channels}", 8.5, SOFT)
    if index:
      _, _, _, before_x, before_drawn, before_depth = MAPS[index - 1]
      start = before_x + (before_drawn + before_depth) / 2
      canvas.line((start + 6, ENCODER_Y), (x - (drawn + depth) / 2 - 5, ENCODER_Y))


def draw_heads(canvas: Canvas) -> None:
  """Draws a GCN and a BR on each of res-2 to res-5."""
  half = BOX[1] / 2
  for name, _, _, x, drawn, _ in MAPS[2:]:
    canvas.line((x, ENCODER_Y - drawn / 2 - 6), (x, GCN_Y + half))
    canvas.box(x, GCN_Y, "GCN", "gcn")
    canvas.line((x, GCN_Y - half), (x, HEAD_BR_Y + half))
    canvas.box(x, HEAD_BR_Y, "BR", "br")
    if name != "res-5":
      canvas.line((x, HEAD_BR_Y - half), (x, DECODER_Y + RADIUS))


def draw_decoder(canvas: Canvas) -> None:
  """Draws the score maps from right to left: deconvolution, sum with the next finer head, BR."""
  y, deepest = DECODER_Y, MAPS[-1][3]
  right = DECODER[0][1] + BOX[0] / 2
  canvas.line((deepest, HEAD_BR_Y - BOX[1] / 2), (deepest, y), (right, y))
  for (kind, x), (_, following) in zip(DECODER, (*DECODER[1:], ("image", MAPS[0][3])), strict=True):
    if kind == "sum":
      canvas.sum(x, y)
    else:
      canvas.box(x, y, {"br": "BR", "deconv": "× 2"}[kind], kind)
    half = RADIUS if kind == "sum" else BOX[0] / 2
    canvas.line((x - half, y), (following + reach(following), y))
  canvas.scene(MAPS[0][3], y, MAPS[0][4], as_labels=True)
  canvas.text(MAPS[0][3], y + 66, "score map", 11, weight="bold")
  canvas.text(MAPS[0][3], y - 64, "512 × 512 × C", 8.5, SOFT)
  for name, side, _, x, _, _ in MAPS[1:]:
    canvas.text(x, y - 32 if name != "res-5" else y - 14, f"{side} × {side} × C", 8.5, SOFT)


def reach(x: float) -> float:
  """Returns the distance from the centre of a decoder's element, or of the last score map, to its right edge."""
  kinds = {place: kind for kind, place in DECODER}
  return {"sum": RADIUS, None: MAPS[0][4] / 2}.get(kinds.get(x), BOX[0] / 2)


def draw_legend(canvas: Canvas) -> None:
  """Draws the legend."""
  lines = (
    ("encoder", "", "feature map of the encoder, a ResNet"),
    ("gcn", "GCN", "head of k × 1 and 1 × k convolutions"),
    ("br", "BR", "boundary refinement"),
    ("deconv", "× 2", "transposed convolution, stride 2"),
  )
  for row, (kind, name, meaning) in enumerate(lines):
    y = 426 - 27 * row
    canvas.box(40, y, name, kind, (38, 21), 8.5)
    canvas.text(68, y - 0.5, meaning, 9, ha="left")


def draw_gcn(canvas: Canvas) -> None:
  """Draws Figure 2 B: two branches of separable kernels."""
  canvas.panel(16, 16, 576, 150)
  canvas.text(32, 149, "GCN", 11, COLORS["gcn"][1], weight="bold", ha="left")
  canvas.text(78, 148.5, "each output sees k × k positions for O(k) weights; the paper: k = 15", 9, SOFT, ha="left")
  middle, upper, lower, size = 77, 107, 47, (138, 32)
  canvas.text(62, middle, "H × W × c", 9)
  canvas.text(540, middle, "H × W × C", 9)
  for y, first, second in ((upper, "k × 1", "1 × k"), (lower, "1 × k", "k × 1")):
    canvas.line((98, middle), (114, middle), (114, y), (132, y))
    canvas.box(201, y, f"{first},  c → C", "gcn", size, 9.5)
    canvas.line((270, y), (294, y))
    canvas.box(363, y, f"{second},  C → C", "gcn", size, 9.5)
    canvas.line((432, y), (467, y), (467, middle + (RADIUS if y > middle else -RADIUS)))
  canvas.sum(467, middle)
  canvas.line((467 + RADIUS, middle), (502, middle))


def draw_br(canvas: Canvas) -> None:
  """Draws Figure 2 C: a residual block on score maps."""
  canvas.panel(608, 16, 406, 150)
  canvas.text(624, 149, "BR", 11, COLORS["br"][1], weight="bold", ha="left")
  canvas.text(654, 148.5, "a residual block on a score map of C classes", 9, SOFT, ha="left")
  y, over, size = 58, 108, (66, 32)
  canvas.line((628, y), (668, y))
  for x, name in ((701, "3 × 3"), (795, "ReLU"), (889, "3 × 3")):
    canvas.box(x, y, name, "br", size, 9.5)
    canvas.line((x + 33, y), (x + (61 if x < 889 else 57), y))
  canvas.sum(957, y)
  canvas.line((646, y), (646, over), (957, over), (957, y + RADIUS))
  canvas.line((957 + RADIUS, y), (998, y))


def main() -> None:
  """Writes the figure."""
  matplotlib.use("Agg")
  matplotlib.rcParams.update({"svg.hashsalt": "gcn_flax", "svg.fonttype": "path", "font.family": "DejaVu Sans"})
  canvas = Canvas(1030, 620)
  for draw in (draw_encoder, draw_heads, draw_decoder, draw_legend, draw_gcn, draw_br):
    draw(canvas)
  canvas.figure.savefig(OUTPUT, facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
  main()
