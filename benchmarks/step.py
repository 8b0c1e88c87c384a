"""The train step and the inference step beside the same network in PyTorch, on this machine's GPU or CPU.

    python benchmarks/step.py --backbone=resnet50 --size=256 --batch=2 --json=FILE

Rivals: ours; ours in the plain forms, as the network is written down; PyTorch eager, with channels_last, and
compiled. All start from the same numbers, and the run ends with an error unless their first losses agree. Timed are:

* train: uint8 in, normalise, forward, loss, backward, SGD with momentum and weight
  decay. Ours is the product's own step, which besides checks that loss, gradient and
  state are finite.
* inference: uint8 in, normalise, forward, argmax, uint8 out.

Beside them stand what this machine can do at most, measured in the same run: the rate of a large matrix product and
of a large copy, each of the faster framework.

Prints Markdown tables; `--json` also writes `{"train": {...}, "inference": {...}, "machine": {...}, ...}` with medians
(`ours_s`, `ours_plain_s`, `torch_eager_s`, `torch_channels_last_s`, `torch_compile_s`) and extremes (`ours_min_s`,
`ours_max_s`, ...) in seconds.
"""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch is to have its share of a GPU's memory.
if not list(pathlib.Path("/dev").glob("nvidia[0-9]*")):
  os.environ.setdefault("JAX_PLATFORMS", "cpu")  # Or JAX looks for a TPU where libtpu is installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # The repository, for a run as a script.

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks import rivals, timing  # noqa: E402
from gcn_flax.labels import IGNORE  # noqa: E402
from gcn_flax.models import ops  # noqa: E402

PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "numpy")
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}  # Relative, of the first losses.


def main() -> None:
  """Measures, prints, writes."""
  args = _arguments()
  torch.set_num_threads(timing.num_cores())
  torch.backends.cudnn.benchmark = True
  device = _torch_device()
  machine = timing.machine(PACKAGES) | {
    "torch_threads": torch.get_num_threads(),
    "device": jax.devices()[0].device_kind,
    "torch_device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
  }
  setting = rivals.Setting(args.num_classes, args.backbone, args.kernel_size, _batch(args), args.dtype)
  print(_introduction(args, machine), flush=True)

  ceiling = _ceiling(args.dtype, device)
  names = [name for name in rivals.TITLES if name != "torch_compile" or args.compile]
  steps = {}
  for kind in ("train", "inference"):
    sides = {name: _make(setting, name, kind, device) for name in names}
    first = {name: side.run() for name, side in sides.items()}
    agreement = _losses_agree(first, TOLERANCE[args.dtype]) if kind == "train" else _equal_predictions(first)
    print(f"{kind}: {agreement}", flush=True)
    steps[kind] = timing.summarise(timing.interleave({name: side.run for name, side in sides.items()}, args.repeats))
    steps[kind] |= {f"{name}_bytes": side.memory() for name, side in sides.items()}
    steps[kind]["ours_traffic_bytes"] = sides["ours"].traffic
  flops = {"train": rivals.train_flops(setting), "inference": rivals.inference_flops(setting)}

  print("\n" + "\n\n".join(_table(kind, steps[kind], names, flops[kind], ceiling, args.batch) for kind in steps))
  print(
    f"\nThis machine at most: {ceiling['matmul_flops'] / 1e12:.3g} T operations a second in a matrix product "
    f"({args.dtype}), {ceiling['copy_bytes'] / 1e9:.3g} GB a second read and written."
  )
  if args.json:
    result = {**steps, "flops": flops, "ceiling": ceiling, "machine": machine}
    pathlib.Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(args.json).write_text(json.dumps({"settings": vars(args)} | result, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
  gpu = jax.default_backend() == "gpu"
  parser = rivals.parser("Times the network against the same one in PyTorch.")
  parser.add_argument("--dtype", default="bfloat16" if gpu else "float32", choices=tuple(TOLERANCE))
  parser.add_argument(
    "--compile",
    action=argparse.BooleanOptionalAction,
    default=gpu,
    help="torch.compile, too: on a CPU it takes minutes to compile",
  )
  return rivals.parse(parser)


def _torch_device() -> str:
  """PyTorch's name of what JAX computes on. Raises SystemExit where PyTorch cannot compute there."""
  backend = jax.default_backend()
  if backend == "gpu" and not torch.cuda.is_available():
    sys.exit("error: JAX computes on a GPU, but this PyTorch has no CUDA: install one that has, or JAX_PLATFORMS=cpu.")
  if backend not in ("cpu", "gpu"):
    sys.exit(f"error: JAX computes on {backend!r}, where PyTorch does not: JAX_PLATFORMS=cpu.")
  return "cuda" if backend == "gpu" else "cpu"


def _batch(args: argparse.Namespace) -> dict[str, np.ndarray]:
  """Noise with labels, some of them void: time does not depend on what is in the picture."""
  rng = np.random.default_rng(0)
  shape = (args.batch, args.size, args.size)
  labels = rng.integers(0, args.num_classes, shape, np.uint8)
  labels[:, : args.size // 16] = IGNORE
  return {"image": rng.integers(0, 256, (*shape, 3), np.uint8), "label": labels}


def _make(setting: rivals.Setting, name: str, kind: str, device: str) -> rivals.Rival:
  if name.startswith("ours"):
    form = ops.of_platform() if name == "ours" else ops.PLAIN
    return {"train": rivals.ours_train, "inference": rivals.ours_inference}[kind](setting, form)
  side = rivals.TorchSide(setting, name, device)
  return {"train": side.train, "inference": side.inference}[kind]()


def _losses_agree(first: dict[str, float], tolerance: float) -> str:
  """The first losses as a sentence. Raises SystemExit where they are not the same."""
  for name, loss in first.items():
    if not abs(loss - first["ours"]) <= tolerance * abs(first["ours"]):  # Written so that NaN fails.
      sys.exit(f"error: the first loss of {name} is {loss:.6g}, ours is {first['ours']:.6g}: not the same network.")
  return "first loss " + ", ".join(f"{name} {loss:.6f}" for name, loss in first.items())


def _equal_predictions(first: dict[str, np.ndarray]) -> str:
  equal = {name: float(np.mean(found == first["ours"])) for name, found in first.items() if name != "ours"}
  return "pixels predicted as by ours " + ", ".join(f"{name} {share:.3%}" for name, share in equal.items())


def _ceiling(dtype: str, device: str) -> dict[str, float]:
  """Operations a second of a matrix product, and bytes a second of a copy, of whichever framework is the faster."""
  side, length = (8192, 1 << 28) if device == "cuda" else (2048, 1 << 25)
  matrix = jax.random.normal(jax.random.key(0), (side, side), dtype)  # Constant numbers would cost a GPU less power.
  vector = jnp.ones(length, jnp.float32)
  torch_matrix = torch.randn((side, side), dtype=getattr(torch, dtype), device=device)
  torch_vector = torch.ones(length, device=device)
  # In place: fresh memory would be timed with its first use.
  product, add = jax.jit(jnp.matmul), jax.jit(lambda vector: vector + 1, donate_argnums=0)

  def copy():
    nonlocal vector
    vector = jax.block_until_ready(add(vector))

  def wait(result):
    if device == "cuda":
      torch.cuda.synchronize()
    return result

  products = {
    "ours": lambda: jax.block_until_ready(product(matrix, matrix)),
    "torch": lambda: wait(torch_matrix @ torch_matrix),
  }
  copies = {"ours": copy, "torch": lambda: wait(torch_vector.add_(1))}
  return {
    "matmul_flops": 2 * side**3 / _fastest(products),
    "copy_bytes": 2 * 4 * length / _fastest(copies),
  }


def _fastest(sides: dict[str, Callable]) -> float:
  summary = timing.summarise(timing.interleave(sides, 5))
  return min(summary[f"{name}_s"] for name in sides)


def _introduction(args: argparse.Namespace, machine: dict) -> str:
  versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
  busy = (
    ""
    if machine["load_average"] < 0.5
    else "Other programs ran in the last minute: trust the times only if they have ended.\n"
  )
  return (
    f"GCN with {args.backbone}, k = {args.kernel_size}, {args.num_classes} classes; {args.batch} images of "
    f"{args.size} x {args.size}, {args.dtype}, {args.repeats} rounds.\n"
    f"{machine['cpu']}, {machine['cores']} cores; JAX on {machine['device']}, PyTorch on {machine['torch_device']} "
    f"with {machine['torch_threads']} threads; load average {machine['load_average']:.1f} at the start.\n"
    f"{machine['date']}; {versions}.\n`{machine['command']}`\n{busy}"
  )


def _table(kind: str, times: dict, names: list[str], flops: int, ceiling: dict, batch: int) -> str:
  header = (f"{kind}: median (min - max)", "ms", "images/s", "speed of ours", "of the matrix rate", "memory, MB")
  rows = []
  for name in names:
    seconds, memory = times[f"{name}_s"], times[f"{name}_bytes"]
    rows.append(
      (
        rivals.TITLES[name],
        f"{1e3 * seconds:.4g} ({1e3 * times[f'{name}_min_s']:.4g} - {1e3 * times[f'{name}_max_s']:.4g})",
        f"{batch / seconds:.3g}",
        f"{seconds / times['ours_s']:.2f}",
        f"{flops / seconds / ceiling['matmul_flops']:.1%}",
        f"{memory / 1e6:,.0f}" if memory else "-",
      )
    )
  traffic = times["ours_traffic_bytes"]
  compute, moving = flops / ceiling["matmul_flops"], traffic / ceiling["copy_bytes"]
  notes = (
    '"speed of ours": how many times as fast as the rival ours is. Memory of ours is the compiler\'s account; the',
    "optimizer of PyTorch is the fused one, its bfloat16 is autocast.",
    f"The {flops / 1e9:,.1f} G operations of the plain network take {1e3 * compute:.4g} ms at this machine's matrix",
    f"rate; ours takes {times['ours_s'] / compute:.2f} times as long. XLA says that ours reads and writes",
    f"{traffic / 1e9:.3g} GB, which takes {1e3 * moving:.4g} ms at this machine's rate of copying, caches left aside.",
  )
  return "\n".join((timing.table(header, rows), "", *notes))


if __name__ == "__main__":
  main()
