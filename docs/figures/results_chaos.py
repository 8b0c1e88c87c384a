"""The block of docs/figures/results.py about killed runs, from what benchmarks/chaos.py writes."""

from docs.figures.results_format import load, measured_on, table

_RUNS = {
  "same": "resumed on the same devices",
  "other": "resumed on other devices each time",
  "elsewhere": "uninterrupted, on other devices",
}
_KILLS = {
  "SIGKILL to all": "SIGKILL to all processes",
  "SIGKILL to one": "SIGKILL to one, which the others must notice",
}
_MOMENTS = {"in the start": "during startup", "in a step": "during a step", "in a save": "during a save"}


def killed() -> str:
  """Returns how resumed runs differ from an undisturbed one, and when they were killed."""
  found = load("chaos")
  runs = [found[name] for name in _RUNS]
  count = sum(found["kills"].values())
  rows = [
    ("largest difference of the weights", *(f"{run['largest_difference']:.2g}" for run in runs)),
    ("steps with other images", *(f"{run['steps_with_other_images']} of {found['steps']}" for run in runs)),
    (
      "images not seen exactly once in an epoch",
      *(f"{run['images_not_once']} in {run['epochs']} epochs" for run in runs),
    ),
  ]
  kinds = dict.fromkeys(name.rpartition(", ")[0] for name in sorted(found["kills"]))
  kills = [
    (_KILLS.get(kind, kind), *(str(found["kills"].get(f"{kind}, {moment}", 0)) for moment in _MOMENTS))
    for kind in kinds
  ]
  machine = found["machine"]
  versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("jax", "orbax-checkpoint"))
  return (
    f"\n{count} kills, half of them in each of the first two runs; "
    f"{measured_on(machine)}; {versions}.\n"
    f"{table(('', *_RUNS.values()), rows)}{table(('kill', *_MOMENTS.values()), kills).lstrip()}"
  )
