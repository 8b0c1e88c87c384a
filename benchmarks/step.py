"""Times the train step and the inference step against the same network in PyTorch, on this machine's GPU or CPU.

    python benchmarks/step.py --backbone=resnet50 --size=256 --batch=2 --json=FILE

Rivals: ours; ours in the reference implementation, with the operations as the paper writes them; ours with BR as one
Pallas operation (only if --rivals names it); PyTorch eager, with channels_last, and compiled. All start from the same
weights, and the run fails unless their first losses agree.

* train: uint8 in, normalize, forward, loss, backward, SGD with momentum and weight decay. Ours is the step of
  gcn_flax.train, which also checks that loss, gradients and state are finite.
* inference: uint8 in, normalize, forward, argmax, uint8 out.

The limits of the machine are measured in the same run: the rates of a large matrix product and of a large copy, each in
the faster framework.

Prints Markdown tables; `--json` also writes `{"train": {...}, "inference": {...}, "machine": {...}, ...}` with medians
(`ours_s`, `ours_plain_s`, `ours_fused_s`, `torch_eager_s`, `torch_channels_last_s`, `torch_compile_s`) and extremes
(`ours_min_s`, `ours_max_s`, ...) in seconds; `ours_plain` is the reference implementation. `ours_first_step_s` is the
time to the end of the first step, compilation included, in the order of the rivals.
"""

import argparse
import os
import pathlib
import sys
import time
from collections.abc import Callable

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # Leaves GPU memory to PyTorch.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks import network, rivals, script, timing  # noqa: E402
from gcn_flax import distributed  # noqa: E402
from gcn_flax.labels import IGNORE  # noqa: E402

KINDS = ("train", "inference")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "numpy")
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}  # Relative difference of the first losses.


def main() -> None:
  """Measures all rivals, prints the tables and writes the JSON file."""
  distributed.skip_libtpu()
  args = _arguments()
  torch.set_num_threads(script.num_cores())
  torch.backends.cudnn.benchmark = True
  device = rivals.torch_device()
  machine = script.machine(PACKAGES) | {
    "torch_threads": torch.get_num_threads(),
    "device": jax.devices()[0].device_kind,
    "torch_device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
  }
  setting = rivals.Setting(args.num_classes, args.backbone, args.kernel_size, _batch(args), args.dtype)
  print(_introduction(args, machine), flush=True)

  ceiling = _ceiling(args.dtype, device)
  names = args.rivals
  steps = {}
  for kind in args.kinds:
    sides, first, seconds = {}, {}, {}
    for name in names:
      start = time.perf_counter()
      sides[name] = _make(setting, name, kind, device)
      first[name], seconds[name] = sides[name].run(), time.perf_counter() - start
      print(f"{kind}: {rivals.TITLES[name]}, first step after {seconds[name]:.1f} s", flush=True)
    agreement = _losses_agree(first, TOLERANCE[args.dtype]) if kind == "train" else _equal_predictions(first)
    print(f"{kind}: {agreement}", flush=True)
    steps[kind] = timing.summarize(timing.interleave({name: side.run for name, side in sides.items()}, args.repeats))
    for name, side in sides.items():
      steps[kind] |= {f"{name}_bytes": side.memory(), f"{name}_first_step_s": seconds[name]}
      steps[kind] |= {f"{name}_traffic_bytes": side.traffic} if side.traffic else {}
      steps[kind] |= {f"{name}_loss": first[name]} if kind == "train" else {}
  counts = {"train": rivals.train_flops, "inference": rivals.inference_flops}
  flops = {kind: counts[kind](setting) for kind in steps}

  print("\n" + "\n\n".join(_table(kind, steps[kind], names, flops[kind], ceiling, args.batch) for kind in steps))
  print(
    f"\nLimits of this machine: {ceiling['matmul_flops'] / 1e12:.3g} TFLOP/s in a matrix product ({args.dtype}), "
    f"{ceiling['copy_bytes'] / 1e9:.3g} GB/s read and written."
  )
  result = {"settings": vars(args), **steps, "flops": flops, "ceiling": ceiling, "machine": machine}
  script.write_json(args.json, result)


def _arguments() -> argparse.Namespace:
  gpu = jax.default_backend() == "gpu"
  parser = network.parser("Times the network against the same one in PyTorch.")
  network.add_dtype(parser)
  parser.add_argument(
    "--compile",
    action=argparse.BooleanOptionalAction,
    default=gpu,
    help="also time torch.compile, which takes minutes to compile",
  )
  parser.add_argument("--rivals", default="", help=f"of {','.join(rivals.TITLES)} (default: all but ours_fused)")
  parser.add_argument("--kinds", default=",".join(KINDS), help="steps to time (default: %(default)s)")
  args = network.parse(parser)
  default = [name for name in rivals.TITLES if name != "ours_fused" and (args.compile or name != "torch_compile")]
  args.rivals, args.kinds = args.rivals.split(",") if args.rivals else default, args.kinds.split(",")
  for flag, chosen, known in (("rivals", args.rivals, rivals.TITLES), ("kinds", args.kinds, KINDS)):
    if not set(chosen) <= set(known):
      parser.error(f"--{flag}={','.join(chosen)}: choose from {','.join(known)}")
  return args


def _batch(args: argparse.Namespace) -> dict[str, np.ndarray]:
  """Returns images of noise with labels, some of them void; the time does not depend on the content."""
  rng = np.random.default_rng(0)
  shape = (args.batch, args.size, args.size)
  labels = rng.integers(0, args.num_classes, shape, np.uint8)
  labels[:, : args.size // 16] = IGNORE
  return {"image": rng.integers(0, 256, (*shape, 3), np.uint8), "label": labels}


def _make(setting: rivals.Setting, name: str, kind: str, device: str) -> rivals.Rival:
  if name.startswith("ours"):
    ours = {"train": rivals.ours_train, "inference": rivals.ours_inference}[kind]
    return ours(setting, rivals.IMPLEMENTATIONS[name]())
  side = rivals.TorchSide(setting, name, device)
  return {"train": side.train, "inference": side.inference}[kind]()


def _losses_agree(first: dict[str, float], tolerance: float) -> str:
  """Returns the first losses as a sentence. Raises SystemExit if they differ."""
  base, expected = next(iter(first.items()))
  for name, loss in first.items():
    if not abs(loss - expected) <= tolerance * abs(expected):  # Also true for NaN.
      sys.exit(f"error: the first loss of {name} is {loss:.6g}, of {base} {expected:.6g}: the networks differ.")
  return "first loss " + ", ".join(f"{name} {loss:.6f}" for name, loss in first.items())


def _equal_predictions(first: dict[str, np.ndarray]) -> str:
  base, expected = next(iter(first.items()))
  equal = {name: float(np.mean(found == expected)) for name, found in first.items() if name != base}
  return f"pixels predicted as {base} " + ", ".join(f"{name} {share:.3%}" for name, share in equal.items())


def _ceiling(dtype: str, device: str) -> dict[str, float]:
  """Returns the FLOP/s of a matrix product and the bytes/s of a copy, each in the faster framework."""
  side, length = (8192, 1 << 28) if device == "cuda" else (2048, 1 << 25)
  matrix = jax.random.normal(jax.random.key(0), (side, side), dtype)  # Constant values would take less power on a GPU.
  vector = jnp.ones(length, jnp.float32)
  torch_matrix = torch.randn((side, side), dtype=getattr(torch, dtype), device=device)
  torch_vector = torch.ones(length, device=device)
  # In place, because first use of fresh memory would be timed too.
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
  summary = timing.summarize(timing.interleave(sides, 5))
  return min(summary[f"{name}_s"] for name in sides)


def _introduction(args: argparse.Namespace, machine: dict) -> str:
  busy = "" if machine["load_average"] < 0.5 else "Other programs ran in the last minute and may disturb the times.\n"
  return (
    f"GCN with {args.backbone}, k = {args.kernel_size}, {args.num_classes} classes; {args.batch} images of "
    f"{args.size} x {args.size}, {args.dtype}, {args.repeats} rounds; JAX on {machine['device']}, PyTorch on "
    f"{machine['torch_device']} with {machine['torch_threads']} threads.\n{script.headline(machine)}{busy}"
  )


def _table(kind: str, times: dict, names: list[str], flops: int, ceiling: dict, batch: int) -> str:
  header = (f"{kind}: median (min - max)", "ms", "images/s", "speedup of ours", "of the matrix rate", "memory, MB")
  rows = []
  for name in names:
    seconds, memory = times[f"{name}_s"], times[f"{name}_bytes"]
    rows.append(
      (
        rivals.TITLES[name],
        f"{1e3 * seconds:.4g} ({1e3 * times[f'{name}_min_s']:.4g} - {1e3 * times[f'{name}_max_s']:.4g})",
        f"{batch / seconds:.3g}",
        f"{seconds / times['ours_s']:.2f}" if "ours" in names else "-",
        f"{flops / seconds / ceiling['matmul_flops']:.1%}",
        f"{memory / 1e6:,.0f}" if memory else "-",
      )
    )
  if "ours" not in names:
    return timing.table(header, rows)
  traffic = times["ours_traffic_bytes"]
  compute, moving = flops / ceiling["matmul_flops"], traffic / ceiling["copy_bytes"]
  notes = (
    "The speedup of ours is relative to each rival. Memory of ours is the compiler's estimate. PyTorch uses the fused",
    "optimizer, and autocast for bfloat16.",
    f"The {flops / 1e9:,.1f} GFLOP of the reference network take {1e3 * compute:.4g} ms at this machine's matrix rate;",
    f"ours takes {times['ours_s'] / compute:.2f} times as long. XLA estimates that ours reads and writes",
    f"{traffic / 1e9:.3g} GB, which takes {1e3 * moving:.4g} ms at this machine's copy rate, ignoring caches.",
  )
  return "\n".join((timing.table(header, rows), "", *notes))


if __name__ == "__main__":
  main()
