"""Plans for chips that this machine does not have."""

import json

import jax
import jax.numpy as jnp
import pytest

from configs import cityscapes, silhouettes
from gcn_flax import build
from gcn_flax.planning import cost, hardware, plan, planners, table


def small_config():
  config = cityscapes.get_config()
  config.model.backbone, config.model.kernel_size, config.data.crop_size = "resnet_tiny", 3, (64, 64)
  return config


@pytest.fixture(scope="module")
def gpu_plan(tmp_path_factory):
  """A plan for 2 examples on each of 8 GPUs, and the workdir that it was written to."""
  workdir = tmp_path_factory.mktemp("runs") / "plan"
  return plan.run(small_config(), workdir, "h100:8"), workdir


class FakePlanner:
  """Fits batches up to a limit."""

  def __init__(self, limit):
    self.limit, self.tried = limit, []

  def estimate(self, batch_per_group):
    self.tried.append(batch_per_group)
    return {"fits": batch_per_group <= self.limit, "batch_per_group": batch_per_group}


@pytest.mark.parametrize("multiple", [1, 3])
@pytest.mark.parametrize("limit", [*range(12), 100])
def test_largest_batch_is_found(limit, multiple):
  planner = FakePlanner(limit)
  tried = plan.find_max_batch(planner, multiple)
  largest = limit // multiple * multiple
  assert max((row["batch_per_group"] for row in tried if row["fits"]), default=0) == largest
  assert len(planner.tried) == len(set(planner.tried)) and largest + multiple in planner.tried


def test_gpu_plan_needs_no_gpu_and_leaves_unknowns_empty(gpu_plan):
  result, workdir = gpu_plan
  assert json.loads((workdir / "plan.json").read_text()) == result
  assert result["fits"] and result["batch_size"] == 16 and result["cycles"] is None
  assert result["hbm_limit_bytes"] == 60 << 30 > result["hbm_bytes"] > result["state_bytes"]
  text = "\n".join(table.lines(small_config(), result))
  assert "Cycles and times are not known for GPUs." in text and "yes, 0." in text and "of 60.00 GiB" in text
  assert "JAX uses 75% of the 80.00 GiB of a GPU; XLA_CLIENT_MEM_FRACTION=0.95 raises that." in text


def test_batch_is_rounded_up_to_the_devices(gpu_plan, tmp_path, capsys):
  config = small_config()  # Of 16 examples, for 24 devices.
  result = plan.run(config, str(tmp_path), "a100-40gb:24")
  assert result["batch_size"] == 24 and 2 * result["flops"] == gpu_plan[0]["flops"]
  assert result["hbm_bytes"] < gpu_plan[0]["hbm_bytes"]
  printed = capsys.readouterr().out
  assert "not config.batch_size=16: to train with the planned batch, set --config.batch_size=24" in printed


def trace_step(platform, remat=False):
  """The jaxpr of the train step for 2 examples on one device."""
  config = small_config()
  config.model.remat = remat
  setup = build.build(config, num_classes=19, devices=jax.devices()[:1], platform=platform)
  image, label = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.uint8), jax.ShapeDtypeStruct((2, 64, 64), jnp.uint8)
  return setup.train_step.trace(setup.state_shapes, {"image": image, "label": label}).jaxpr.jaxpr


@pytest.mark.slow
def test_gpu_plan_takes_memory_from_gpu_ops_and_flops_without_recomputation(gpu_plan):
  gpu, cpu, tpu, gpu_remat = trace_step("gpu"), trace_step("cpu"), trace_step("tpu"), trace_step("gpu", remat=True)
  flops = cost.flops(trace_step("reference"))  # Without those of channel padding and space-to-depth.
  assert cost.peak_bytes(gpu) != cost.peak_bytes(cpu) and cost.flops(gpu_remat) > cost.flops(gpu)
  assert min(cost.flops(gpu), cost.flops(tpu)) > 1.2 * flops
  assert gpu_plan[0]["hbm_bytes"] == cost.peak_bytes(gpu) and gpu_plan[0]["flops"] == flops
  config = small_config()
  config.model.remat = True
  with_remat = planners.GpuPlanner(config, hardware.parse_topology("h100:8")).estimate(2)
  assert with_remat["flops"] == flops and with_remat["hbm_bytes"] == cost.peak_bytes(gpu_remat)


def test_cycles_are_summed_by_kind_of_part():
  parts = {
    "encoder/layer1": 40, "encoder/conv1": 10, "head2": 20, "head3": 5, "refine_head2": 15, "refine0": 5, "the rest": 5,
  }  # fmt: skip
  rows = table._parts({"cycles": 100, "cycles_by_part": parts})
  assert [(name.strip(), text.split(", ")[1]) for name, text in rows] == [
    ("encoder", "50%"), ("head", "25%"), ("refine", "20%"), ("the rest", "5%"),
  ]  # fmt: skip


@pytest.mark.parametrize("batch, accumulate_steps, micro_batch, cost_as", [(2, 1, 2, 8), (12, 1, 12, 16), (8, 4, 2, 8)])
def test_note_on_micro_batches_that_do_not_fill_a_tpus_registers(batch, accumulate_steps, micro_batch, cost_as):
  note = f"{micro_batch} examples at once cost a device about as much as {cost_as}"
  assert note in tpu_notes(batch, accumulate_steps)


@pytest.mark.parametrize("batch, accumulate_steps", [(8, 1), (16, 2)])
def test_no_note_on_micro_batches_that_fill_a_tpus_registers(batch, accumulate_steps):
  assert "at once" not in tpu_notes(batch, accumulate_steps)


def tpu_notes(batch_per_group, accumulate_steps):
  config = small_config()
  config.accumulate_steps = accumulate_steps
  result = {"batch_size": 16, "fits": True, "devices": 8, "spatial": 1, "batch_per_group": batch_per_group}
  return " ".join(table._notes(config, hardware.parse_topology("v5e:2x4"), result))


@pytest.mark.parametrize("batch", ["0", "-1", "most", "²", "9" * 5000])
def test_unknown_batches_are_rejected(batch, tmp_path):
  with pytest.raises(ValueError, match=f"^--batch='?{batch}'?: must be auto, or a number"):
    plan.run(small_config(), tmp_path, "h100:8", batch)
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
  "topology, batch, settings, message",
  [
    ("h100:8", "3", {"accumulate_steps": 2}, "config.accumulate_steps=2 must divide the 3 examples .* --batch=4"),
    ("h100:8", "", {"mesh.spatial": 2}, "config.mesh.spatial=2 .* plan for a TPU"),
    (
      "v5e:2x4",
      "",
      {"mesh.spatial": 3, "data.crop_size": (96, 96)},
      "config.mesh.spatial=3 must divide the 8 devices of v5e:2x4. Use one of 1, 2, 4",
    ),
    ("v5e:2x4", "", {"mesh.spatial": 4}, "the height must be a multiple of 128 = 32 x config.mesh.spatial 4"),
    ("v5e:3x5", "", {}, "'v5e:3x5': libtpu has no such slice"),
  ],
  ids=["micro-batches", "GPUs that share an image", "devices", "rows", "slice"],
)
def test_settings_that_do_not_match_the_devices_are_rejected(topology, batch, settings, message, tmp_path):
  config = small_config()
  config.update_from_flattened_dict(settings)
  with pytest.raises(ValueError, match=message):
    plan.run(config, tmp_path, topology, batch)
  assert not any(tmp_path.iterdir())


def test_tpu_plan_compiles_a_step(capsys, tmp_path):
  """Compiles a classifier, the smallest step; steps with a decoder take minutes."""
  config = silhouettes.get_config("resnet_tiny")
  config.data.dataset, config.data.train_mix = "imagenet2012", (("imagenet2012", "train", "all once"),)
  config.data.crop_size = config.data.eval_size = (32, 32)
  result = plan.run(config, tmp_path, "v5e:2x4", "1")
  assert result["fits"] and result["devices"] == 8 and result["batch_size"] == 8 and result["devices_per_host"] == 4
  assert result["hbm_limit_bytes"] == round(15.75 * 2**30)
  assert result["hbm_bytes"] == sum(result["hbm_by_kind"].values()) > result["state_bytes"]
  assert result["cycles_per_pixel"] == result["cycles"] / 32**2 > 1
  params = build.build(config, num_classes=1000, devices=jax.devices()[:1]).state_shapes.params
  all_reduce = 2 * 7 / 8 * 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
  assert all_reduce < result["collective_bytes"] < 1.5 * all_reduce
  assert 0 < result["scaling"] <= 1 and "Times are calibrated" in capsys.readouterr().out


@pytest.fixture
def fake_compiler(monkeypatch):
  """Replaces libtpu's compiler; returns the meshes it was given."""
  meshes = []

  def estimate(planner, traced, batch_size):
    del traced
    meshes.append(dict(planner._setup.mesh.shape))
    cycles_per_pixel = batch_size / planner.spatial
    return planners._UNKNOWN | {
      "fits": True, "hbm_bytes": 1, "hbm_limit_bytes": 2, "cycles_per_pixel": cycles_per_pixel,
    }  # fmt: skip

  monkeypatch.setattr(planners.TpuPlanner, "_estimate", estimate)
  return meshes


def test_tpu_plan_compiles_only_the_chosen_layout(fake_compiler, partitioner, tmp_path, capsys, caplog):
  config = small_config()
  config.data.crop_size = (128, 64)
  with caplog.at_level("INFO"):
    result = plan.run(config, tmp_path, "v5e:2x4")
  assert fake_compiler == [{"data": 2, "spatial": 4}]
  assert (result["spatial"], result["batch_per_group"], result["batch_size"]) == (4, 8, 16) and "layouts" not in result
  assert "config.mesh.spatial=0: 4 chips share the rows of each image" in caplog.text
  assert "batch 16 on 8 devices of v5e:2x4, 4 sharing the rows of each image;" in capsys.readouterr().out


@pytest.mark.slow
def test_tpu_plan_of_all_layouts(fake_compiler, partitioner, tmp_path, capsys):
  config = small_config()
  config.data.crop_size = (128, 64)
  result = plan.run(config, tmp_path, "v5e:2x4", spatial="all")
  assert [mesh["spatial"] for mesh in fake_compiler] == [4, 1, 2] and result["spatial"] == 4
  assert [(row["spatial"], row["batch_per_group"]) for row in result["layouts"]] == [(1, 2), (2, 4), (4, 8)]
  assert json.loads((tmp_path / "plan.json").read_text()) == result
  printed = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert ["4", "8", "yes", "0.00", "GiB", "4.0"] in printed and ["1", "2", "yes", "0.00", "GiB", "16.0"] in printed


@pytest.mark.parametrize("batch", ["2", "auto"])
def test_a_batch_for_each_device_means_whole_images(batch, fake_compiler, monkeypatch, tmp_path):
  monkeypatch.setattr(plan, "find_max_batch", lambda planner, multiple: [planner.estimate(2 * multiple)])
  config = small_config()
  config.data.crop_size = (128, 64)
  assert plan.run(config, tmp_path, "v5e:2x4", batch)["spatial"] == 1 and fake_compiler == [{"data": 8, "spatial": 1}]


@pytest.mark.parametrize(
  "topology, spatial, message",
  [
    ("v5e:2x4", "4", r"^--spatial=4: must be all. Use --spatial=all, or --config.mesh.spatial=N for one.$"),
    ("h100:8", "all", r"^--spatial=all: how XLA divides an image over GPUs, h100:8, is not known"),
  ],
)
def test_layouts_that_cannot_be_planned_are_rejected(topology, spatial, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    plan.run(small_config(), tmp_path, topology, spatial=spatial)
  assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("spatial", [1, 2])
def test_tpu_plan_compiles_a_step_with_a_decoder(spatial, partitioner, tmp_path):
  config = small_config()
  config.mesh.spatial = spatial
  result = plan.run(config, tmp_path, "v5e:2x4", "2")
  assert result["fits"] and result["batch_size"] == 16 // spatial
  config.data.crop_size, config.model.kernel_size = (1600, 1600), 15
  too_large = plan.run(config, tmp_path, "v5e:2x4", "64")
  assert not too_large["fits"] and too_large["hbm_bytes"] > too_large["hbm_limit_bytes"] and not too_large["cycles"]
