"""What a step costs on chips that are not there."""

import json

import jax
import jax.numpy as jnp
import pytest

from configs import cityscapes, silhouettes
from gcn_flax import build
from gcn_flax.planning import cost, hardware, libtpu, plan, table

HLO = """HloModule jit_step

%fused.1 (p: f32[8]) -> f32[8] {
  ROOT %add = f32[8]{0} add(%p, %p), backend_config={"estimated_cycles":"999"}
}

%body (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %work = f32[8]{0} fusion(%x), calls=%fused.1, backend_config={"window_config":{"estimated_cycles":"100"}}
  %swap = (bf16[4,2]{1,0:T(2,128)(2,1)}, bf16[4,2]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x)
  ROOT %t = (s32[], f32[8]) tuple(%i, %work)
}

%condition (arg: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %first = f32[8]{0} copy(%x), metadata={op_name="N/encoder/layer1_0/dot"}, backend_config={"estimated_cycles":"30"}
  %loop = (s32[], f32[8]) while(%tuple), condition=%condition, body=%body
  %sum = (f32[10]{0:T(128)}, f32[5,2]{1,0}) all-reduce(%a, %b), to_apply=%region
  ROOT %last = f32[8]{0} copy(%y), backend_config={"estimated_cycles":"5"}
}
"""


def test_a_loops_cycles_and_exchanges_count_as_often_as_it_runs():
  account = cost.account(HLO)
  assert account.cycles == 30 + 7 * 100 + 5
  assert account.by_part == {"the rest": 705, "encoder/layer1": 30}
  assert account.collectives == [
    cost.Collective("collective-permute", 16, 7),
    cost.Collective("all-reduce", 80, 1),
  ]
  with pytest.raises(ValueError, match="no estimated cycles"):
    cost.account("HloModule jit_step\n\nENTRY %main (x: f32[8]) -> f32[8] {\n  ROOT %y = f32[8]{0} copy(%x)\n}\n")


@pytest.mark.parametrize(
  "kind, sent",
  [("all-reduce", 150), ("all-gather", 75), ("reduce-scatter", 300), ("all-to-all", 75), ("collective-permute", 100)],
)
def test_what_a_device_sends_in_a_ring_of_four(kind, sent):
  assert cost.Collective(kind, 100, 1).sent(4) == sent
  assert cost.Collective(kind, 100, 3).sent(4) == 3 * sent


def test_cycles_are_told_by_kind_of_part():
  parts = {
    "encoder/layer1": 40,
    "encoder/conv1": 10,
    "head2": 20,
    "head3": 5,
    "refine_head2": 15,
    "refine0": 5,
    "the rest": 5,
  }
  rows = table._parts({"cycles": 100, "cycles_by_part": parts})
  assert [(name.strip(), text.split(", ")[1]) for name, text in rows] == [
    ("encoder", "50%"), ("head", "25%"), ("refine", "20%"), ("the rest", "5%"),
  ]  # fmt: skip


def jaxpr(function, *shapes):
  return jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).jaxpr


def convolve(image, kernel, **options):
  return jax.lax.conv_general_dilated(
    image, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
  )


def test_operations_are_counted():
  assert cost.flops(jaxpr(jnp.dot, (5, 7), (7, 11))) == 2 * 5 * 7 * 11
  image, kernel = (2, 8, 8, 3), (3, 3, 3, 4)
  once = 2 * 2 * 8 * 8 * 4 * 3 * 3 * 3
  assert cost.flops(jaxpr(convolve, image, kernel)) == once
  assert cost.flops(jaxpr(jax.jit(convolve), image, kernel)) == once
  # Half of the inputs of each direction are zeros between the others.
  dilated = jaxpr(lambda x, k: convolve(x, k, lhs_dilation=(2, 2)), image, kernel)
  assert cost.flops(dilated) == 2 * 2 * 15 * 15 * 4 * 27 // 4
  repeated = jaxpr(lambda x, k: jax.lax.scan(lambda c, _: (convolve(c, k), None), x, None, 5)[0], image, (3, 3, 3, 3))
  assert cost.flops(repeated) == 5 * once * 3 // 4
  # A gradient costs twice the forward pass, but for what lies at the border.
  gradient = jaxpr(jax.grad(lambda x, k: convolve(x, k).sum(), argnums=(0, 1)), image, kernel)
  assert 2 * once <= cost.flops(gradient) <= 3.5 * once


def test_memory_is_held_from_making_to_last_use():
  chain = jaxpr(lambda x: jnp.sin(jnp.sin(jnp.sin(x))), (100,))
  assert cost.peak_bytes(chain) == 800  # The argument of a step, and what it makes.
  kept = jaxpr(lambda x: (jnp.sin(x) + jnp.sin(jnp.cos(jnp.tan(x)))) * x, (100,))
  assert cost.peak_bytes(kept) == 4 * 400
  inside = jaxpr(lambda x: jax.jit(lambda y: jnp.outer(y, y).sum())(x), (100,))
  assert cost.peak_bytes(inside) == 400 + 400 + 4 * 100 * 100  # The vector, it as a row, and the product.


@pytest.mark.parametrize("name", ["v5e", "v5e:0x4", "v5e:2", "v9:2x2", "h100", "h100:0", "h100:2x2", "", ":8"])
def test_an_unknown_topology_is_refused_with_the_known_ones(name):
  with pytest.raises(ValueError, match=r"must be a TPU slice such as v5e:4x8 .*tpu7x.* or GPUs such as h100:8"):
    hardware.parse_topology(name)


def test_topologies():
  assert hardware.parse_topology("v4:2x2x4").sides == (2, 2, 4) and hardware.parse_topology("v4:2x2x4").is_tpu
  assert hardware.parse_topology("h100:8").sides == (8,) and not hardware.parse_topology("h100:8").is_tpu


def test_the_calibration_divides_the_error_evenly():
  ratios = [figure.estimated / hardware.CALIBRATION / figure.measured for figure in hardware.PUBLISHED]
  assert ratios[0] * ratios[1] == pytest.approx(1) and 1.1 < ratios[0] < 1.2
  assert "+14% of 1,050,000 images/s" in hardware.calibration_errors()


class Planner:
  """Fits up to a limit."""

  def __init__(self, limit):
    self.limit, self.asked = limit, []

  def cost(self, batch):
    self.asked.append(batch)
    return {"fits": batch <= self.limit, "batch_per_group": batch}


@pytest.mark.parametrize("unit", [1, 3])
@pytest.mark.parametrize("limit", [*range(12), 100])
def test_the_largest_batch_is_found(limit, unit):
  planner = Planner(limit)
  tried = plan._search(planner, unit)
  limit = limit // unit * unit
  assert max((row["batch_per_group"] for row in tried if row["fits"]), default=0) == limit
  assert len(planner.asked) == len(set(planner.asked)) and limit + unit in planner.asked


def test_the_compilers_message_tells_both_sizes():
  message = "RESOURCE_EXHAUSTED: E1000: ... required for HLO temporaries (19.42G) exceeds available HBM (15.75G)."
  assert libtpu.read_shortage(message) == (round(19.42 * 2**30), round(15.75 * 2**30))
  with pytest.raises(RuntimeError, match="something else"):
    libtpu.read_shortage("something else")


def small():
  config = cityscapes.get_config()
  config.model.backbone, config.model.kernel_size, config.data.crop_size = "resnet_tiny", 3, (64, 64)
  return config


def test_a_plan_for_gpus_needs_none_and_says_what_it_does_not_know(capsys, tmp_path):
  found = plan.plan(small(), tmp_path / "plan", "h100:8", "")
  assert json.loads((tmp_path / "plan" / "plan.json").read_text()) == found
  assert found["fits"] and found["batch_size"] == 16 and found["cycles"] is None
  assert found["hbm_limit_bytes"] == 80 << 30 > found["hbm_bytes"] > found["state_bytes"]
  printed = capsys.readouterr().out
  assert "Cycles and times are not known for GPUs." in printed and "yes: 0." in printed
  more = plan.plan(small(), tmp_path, "h100:8", "4")
  assert more["batch_size"] == 32 and more["flops"] == 2 * found["flops"] and more["hbm_bytes"] > found["hbm_bytes"]
  # Sixteen examples are no multiple of 24 devices.
  other = plan.plan(small(), tmp_path, "a100-40gb:24", "")
  assert other["batch_size"] == 24 and "config.batch_size=16 was not planned" in capsys.readouterr().out


def test_a_plan_for_gpus_is_that_of_their_forms_and_counts_what_the_network_needs():
  def traced(platform, remat=False):
    config = small()
    config.model.remat = remat
    setup = build.build(config, jax.devices()[:1], platform=platform)
    image, label = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.uint8), jax.ShapeDtypeStruct((2, 64, 64), jnp.uint8)
    return setup.train_step.trace(setup.state_shapes, {"image": image, "label": label}).jaxpr.jaxpr

  gpu, tpu, cpu, again = traced("gpu"), traced("tpu"), traced("cpu"), traced("gpu", remat=True)
  assert cost.peak_bytes(gpu) != cost.peak_bytes(cpu) and cost.flops(again) > cost.flops(gpu)
  assert cost.flops(tpu) > 1.2 * cost.flops(gpu)
  target = hardware.parse_topology("h100:8")
  found = plan._Gpu(small(), target).cost(2)
  assert found["hbm_bytes"] == cost.peak_bytes(gpu) and found["flops"] == cost.flops(gpu)
  config = small()
  config.model.remat = True
  frugal = plan._Gpu(config, target).cost(2)
  assert frugal["flops"] == found["flops"] and frugal["hbm_bytes"] == cost.peak_bytes(again)


def test_a_batch_that_does_not_fill_a_tpus_registers_is_said_to_cost_as_one_that_does():
  config, target = small(), hardware.parse_topology("v5e:2x4")
  result = {"topology": "v5e:2x4", "batch_size": 16, "fits": True, "devices": 8}

  def notes(batch, parts=1):
    config.accumulate_steps = parts
    return " ".join(table._notes(config, target, {**result, "batch_per_group": batch}))

  assert "2 examples at once cost a device about as much as 8" in notes(2)
  assert "12 examples at once cost a device about as much as 16" in notes(12)
  assert "2 examples at once cost a device about as much as 8" in notes(8, 4)
  assert "at once" not in notes(8) + notes(16, 2)


def test_what_cannot_be_planned_is_refused(tmp_path):
  for batch in ("0", "-1", "most"):
    with pytest.raises(ValueError, match=f"--batch='{batch}' must be auto, or a number"):
      plan.plan(small(), tmp_path, "h100:8", batch)
  config = small()
  config.accumulate_steps = 2
  with pytest.raises(ValueError, match="config.accumulate_steps=2 must divide the 3 examples .* --batch=4"):
    plan.plan(config, tmp_path, "h100:8", "3")
  config = small()
  config.mesh.spatial = 2
  with pytest.raises(ValueError, match="config.mesh.spatial=2: .* plan for a TPU"):
    plan.plan(config, tmp_path, "h100:8", "")
  config.mesh.spatial = 3
  with pytest.raises(ValueError, match="config.mesh.spatial=3 must divide the 8 devices of v5e:2x4"):
    plan.plan(config, tmp_path, "v5e:2x4", "")
  with pytest.raises(ValueError, match="'v5e:3x5': libtpu has no such slice"):
    plan.plan(small(), tmp_path, "v5e:3x5", "")
  assert not any(tmp_path.iterdir())


def test_a_step_is_compiled_for_a_tpu(capsys, tmp_path):
  """The smallest there is, of a classifier; those of the decoder take minutes."""
  config = silhouettes.get_config("resnet_tiny")
  config.data.dataset, config.data.train_mix = "imagenet2012", (("imagenet2012", "train", "all once"),)
  config.data.crop_size = config.data.eval_size = (32, 32)
  found = plan.plan(config, tmp_path, "v5e:2x4", "1")
  assert found["fits"] and found["devices"] == 8 and found["batch_size"] == 8 and found["devices_per_host"] == 4
  assert found["hbm_limit_bytes"] == round(15.75 * 2**30)
  assert found["hbm_bytes"] == sum(found["hbm_by_kind"].values()) > found["state_bytes"]
  assert found["cycles_per_pixel"] == found["cycles"] / 32**2 > 1
  gradient = build.build(config, jax.devices()[:1], 1000).state_shapes.params
  once = 2 * 7 / 8 * 4 * sum(leaf.size for leaf in jax.tree.leaves(gradient))
  assert once < found["collective_bytes"] < 1.5 * once
  assert 0 < found["scaling"] <= 1 and "Times are calibrated" in capsys.readouterr().out


def test_compilation_takes_as_many_cores_as_there_is_memory_for(monkeypatch, caplog):
  set_to = []
  monkeypatch.setattr(libtpu.os, "sched_getaffinity", lambda process: {0, 1, 2, 5})
  monkeypatch.setattr(libtpu.os, "sched_setaffinity", lambda process, cores: set_to.append(sorted(cores)))
  caplog.set_level("INFO", "gcn_flax")
  for memory, cores in ((100 << 30, [0, 1, 2, 5]), (25 << 30, [0, 1]), (1 << 30, [0])):
    monkeypatch.setattr(libtpu, "_free_memory", lambda memory=memory: memory)
    libtpu.devices(hardware.parse_topology("v6e:2x4"), hardware.TPUS["v6e"])
    assert set_to == [cores, [0, 1, 2, 5]]
    set_to.clear()
  assert caplog.text.count("compiling on 2 of 4 cores") == caplog.text.count("compiling on 1 of 4 cores") == 1
  monkeypatch.undo()
  assert libtpu._free_memory() > 1 << 20


@pytest.mark.slow
@pytest.mark.parametrize("spatial", [1, 2])
def test_the_whole_step_is_compiled_for_a_tpu(spatial, partitioner, tmp_path):
  config = small()
  config.mesh.spatial = spatial
  found = plan.plan(config, tmp_path, "v5e:2x4", "2")
  assert found["fits"] and found["batch_size"] == 16 // spatial
  config.data.crop_size, config.model.kernel_size = (1600, 1600), 15
  too_large = plan.plan(config, tmp_path, "v5e:2x4", "64")
  assert not too_large["fits"] and too_large["hbm_bytes"] > too_large["hbm_limit_bytes"] and not too_large["cycles"]
