"""The Markdown of a run of benchmarks/gpu.py."""

from benchmarks import timing
from benchmarks.rival_titles import TITLES

TOLERANCE = 2e-2  # Of first losses, relative, in bfloat16.
_STEPS = ("step", "compile", "fused", "reference", "inference", "step_800", "compile_800", "step_resnet152")
_STEPS += ("compile_resnet152",)


def markdown(results: dict[str, dict]) -> str:
  """Returns the section: a table per kind of benchmark, the commands, and what was not measured.

  Args:
    results: row -> its `status` and, if it came so far, `figures`.
  """
  found = {name: row["figures"] for name, row in results.items() if "figures" in row}
  parts = ["## On a GPU", _machine(found), _steps(found), _starts(found), _parts(found), _evaluation(found)]
  return "\n\n".join(part for part in (*parts, _missing(results)) if part) + "\n"


def _machine(found: dict[str, dict]) -> str:
  if not found:
    return ""
  machines = [figures["machine"] for figures in found.values()]
  versions = {name: version for machine in machines for name, version in machine["versions"].items()}
  device = next((machine["device"] for machine in machines if "device" in machine), "an unknown device")
  lines = [
    f"`benchmarks/gpu.sh`, {min(machine['date'] for machine in machines)[:10]}: {device}, {machines[0]['cores']} cores",
    f"of {machines[0]['cpu']}; {', '.join(f'{name} {version}' for name, version in versions.items())}.",
    "Medians of interleaved rounds, extremes in brackets; rows of a process each:",
    "",
    *(f"- {name}: `{figures['machine']['command'].split(' --json=')[0]}`" for name, figures in found.items()),
  ]
  return "\n".join(lines)


def _steps(found: dict[str, dict]) -> str:
  """Returns the table of steps; those of one setting are compared with ours, also from another process."""
  timed = [
    (_setting(figures["settings"], kind), rival, figures[kind])
    for name in _STEPS
    for kind in ("train", "inference")
    for figures in [found.get(name, {})]
    for rival in figures.get("settings", {}).get("rivals", ())
    if f"{rival}_s" in figures.get(kind, {})
  ]
  ours = {setting: times for setting, rival, times in timed if rival == "ours"}
  rows, doubts = [], []
  for setting, rival, times in sorted(timed, key=lambda row: list(dict.fromkeys(s for s, *_ in timed)).index(row[0])):
    seconds, memory, base = times[f"{rival}_s"], times[f"{rival}_bytes"], ours.get(setting)
    images = int(setting.split(", ")[2].split(" ")[0])
    rows.append((
      f"{setting}: {TITLES[rival]}",
      f"{1e3 * seconds:.4g} ({1e3 * times[f'{rival}_min_s']:.4g} - {1e3 * times[f'{rival}_max_s']:.4g})",
      f"{images / seconds:.4g}",
      f"{seconds / base['ours_s']:.2f}" if base else "-",
      f"{times[f'{rival}_first_step_s']:.0f}",
      f"{memory / 1e9:.2f}" if memory else "-",
    ))  # fmt: skip
    loss, expected = times.get(f"{rival}_loss"), (base or {}).get("ours_loss")
    if None not in (loss, expected) and not abs(loss - expected) <= TOLERANCE * abs(expected):
      doubts.append(f"**The first loss of {setting}, {TITLES[rival]}, is {loss:.6g}, ours {expected:.6g}.**")
  header = ("step", "ms", "images/s", "its time / ours", "to the first step, s", "memory, GB")
  return "\n\n".join((timing.table(header, rows), *doubts)) if rows else ""


def _setting(settings: dict, kind: str) -> str:
  size = f"{settings['batch']} x {settings['size']} x {settings['size']}"
  return f"{kind}, {settings['backbone']}, {size}, {settings['dtype']}, k = {settings['kernel_size']}"


def _starts(found: dict[str, dict]) -> str:
  rows = [
    (
      f"{name}: {figures['settings']['config']}",
      *(f"{figures[key]:.1f}" if key in figures else "-" for key in ("cold_s", "warm_s", "images_per_s")),
      f"{figures['input_wait']:.1%}" if "input_wait" in figures else "-",
    )
    for name, figures in found.items()
    if name in ("start", "voc")
  ]
  header = ("training, from command to first step", "cold, s", "warm, s", "images/s", "waiting for input")
  return timing.table(header, rows) if rows else ""


def _parts(found: dict[str, dict]) -> str:
  rivals = [name for name in TITLES if name != "torch_compile"]
  parts = {}
  for name in ("parts", "fused_parts"):  # The second has only Pallas' times to add, unless it was measured alone.
    for part, times in found.get(name, {}).get("parts", {}).items():
      parts[part] = times | parts.get(part, {})
  rows = [
    (
      part,
      str(times["count"]),
      *(f"{1e3 * times[f'{name}_s']:.3g}" if f"{name}_s" in times else "-" for name in rivals),
    )
    for part, times in parts.items()
  ]
  header = ("part, ms: forward + backward", "in the network", *(TITLES[name] for name in rivals))
  return timing.table(header, rows) if rows else ""


def _evaluation(found: dict[str, dict]) -> str:
  rows = [
    (case, f"{times['images_per_second']:.3g}", f"{times['step_s_per_image']:.3g}", f"{times['host_s_per_image']:.3g}")
    for case, times in found.get("evaluation", {}).get("cases", {}).items()
  ]
  header = ("evaluation at 1024 x 2048", "images/s", "network, s per image", "counting on one core, s per image")
  return timing.table(header, rows) if rows else ""


def _missing(results: dict[str, dict]) -> str:
  missing = [f"{name} ({row['status']})" for name, row in results.items() if row["status"] != "measured"]
  return f"Not measured: {', '.join(missing)}." if missing else ""
