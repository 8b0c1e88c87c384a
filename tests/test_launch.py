"""The launchers: their help, the commands they run, and what they do when training stops or fails."""

import fnmatch
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import kubernetes_validate
import pytest
import yaml

ROOT = pathlib.Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
CLOUD = ["--project=p", "--zone=z"]
FLAGS = ["--", "--config=configs/cityscapes.py", "--workdir=gs://b/run", "--config.data.crop_size=(800, 800)"]


def launch(name, *arguments, path=None, **environment):
  """Runs a launcher; `path` is a folder of programs that take precedence over the system's."""
  variables = {**os.environ, **environment, "PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]}
  return subprocess.run([LAUNCH / name, *arguments], capture_output=True, text=True, timeout=60, env=variables)


def commands(name, *arguments):
  """Returns the commands of a dry run, each as a list of words."""
  done = launch(name, *arguments, "--dry_run") if "--" not in arguments else launch(name, "--dry_run", *arguments)
  assert done.returncode == 0, done.stderr
  return [shlex.split(line) for line in done.stdout.splitlines()]


def program(folder, name, text):
  """Writes a program that stands in for one of the system's."""
  path = folder / name
  path.write_text(f"#!/usr/bin/env bash\n{text}\n")
  path.chmod(0o755)
  return path


def test_shellcheck_finds_nothing():
  shellcheck = pathlib.Path(sys.executable).parent / "shellcheck"
  done = subprocess.run([shellcheck, *SCRIPTS], capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 0 and len(SCRIPTS) == 7, done.stdout


@pytest.mark.parametrize("name", ["data.sh", "gpus.sh", "gke.sh", "tpu_vm.sh"])
def test_help_and_unknown_flags(name):
  told = launch(name, "--help")
  assert told.returncode == 0 and f"launch/{name}" in told.stdout and "source" not in told.stdout
  assert launch(name).returncode == 1
  wrong = launch(name, "--colour=red")
  assert wrong.returncode == 1 and "error: --colour: unknown flag. Choose from: --" in wrong.stderr


@pytest.mark.parametrize(
  "name, arguments, message",
  [
    ("data.sh", ["mount", "b/p", "/data"], "b/p: must be gs://BUCKET/PREFIX"),
    ("data.sh", ["copy", "gs://b/p", "/data"], "copy: unknown command. Choose from: mount stage"),
    ("tpu_vm.sh", ["create", "n", "--zone=z"], "--project= is missing"),
    ("tpu_vm.sh", ["create", "n", *CLOUD, "--type=v9-8", "--dry_run"], "--type=v9-8: unknown type"),
    ("tpu_vm.sh", ["run", "n", *CLOUD, "--data=gs://b/d", "--dry_run"], "no training flags"),
    ("tpu_vm.sh", ["run", "n", *CLOUD, "--bring=carry"], "--bring=carry: must be mount or stage"),
    ("tpu_vm.sh", ["destroy", "n", *CLOUD], "destroy: unknown command. Choose from: up create"),
    ("gke.sh", ["submit", "--cluster=c", *CLOUD], "submit: NAME of the training is missing"),
    ("gke.sh", ["data", "--cluster=c", *CLOUD, "--data=b/d"], "--data=b/d: must be gs://BUCKET/PREFIX"),
  ],
)
def test_errors_name_the_argument_and_the_fix(name, arguments, message):
  done = launch(name, *arguments)
  assert done.returncode == 1 and f"error: {message}" in done.stderr


def test_a_bucket_is_mounted_with_a_cache_or_copied():
  made, mounted = commands("data.sh", "mount", "gs://b/p/q/", "/data", "--cache=/c")
  assert made == ["mkdir", "-p", "/data", "/c"]
  assert mounted[0] == "gcsfuse" and mounted[-2:] == ["b", "/data"]
  assert {"--only-dir=p/q", "--cache-dir=/c", "--file-cache-cache-file-for-range-read"} <= set(mounted)
  assert not any(word.startswith("--only-dir") for word in commands("data.sh", "mount", "gs://b", "/data")[1])
  assert commands("data.sh", "stage", "gs://b/p", "/data")[1] == [
    "gcloud", "storage", "rsync", "--recursive", "gs://b/p", "/data",
  ]  # fmt: skip


def test_a_slice_is_created_set_up_watched_and_deleted():
  lines = commands("tpu_vm.sh", "up", "n", *CLOUD, "--type=v5litepod-16", "--spot=1", "--data=gs://b/d", *FLAGS)
  verbs = [line[3:5] for line in lines if line[0] == "gcloud"]
  assert verbs == [
    ["queued-resources", "create"], ["tpu-vm", "scp"], ["tpu-vm", "ssh"], ["tpu-vm", "ssh"], ["tpu-vm", "ssh"],
    ["tpu-vm", "scp"], ["queued-resources", "delete"],
  ]  # fmt: skip
  created = lines[0]
  assert {"--spot", "--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"} <= set(created)
  started = next(word for line in lines for word in line if "tpu_worker.sh start" in word)
  # The remote shell splits the words again: they must come out as given.
  assert shlex.split(started)[-3:] == FLAGS[1:] and "start mount gs://b/d" in started
  assert not any("--spot" in line for line in commands("tpu_vm.sh", "create", "n", *CLOUD, "--type=v4-8"))


def test_gke_restarts_training_only_after_status_75():
  common = ["--cluster=c", *CLOUD]
  (line,) = commands("gke.sh", "submit", "w", *common, "--type=v6e-16", "--image=i", "--restarts=7", *FLAGS)
  assert line[:3] == ["xpk", "workload", "create"]
  assert {"--workload=w", "--max-restarts=7", "--restart-on-exit-codes=75", "--storage=gcn-flax-data"} <= set(line)
  inner = next(word for word in line if word.startswith("--command=")).removeprefix("--command=")
  assert shlex.split(inner) == ["exec", "python", "-m", "gcn_flax.main", *FLAGS[1:], "--config.data.data_dir=/data"]
  (line,) = commands("gke.sh", "cluster", *common, "--type=v6e-16", "--spot=1")
  assert {"xpk", "--enable-gcsfuse-csi-driver", "--spot", "--tpu-type=v6e-16"} <= set(line)
  assert [line[:2] for line in commands("gke.sh", "image", "--image=i")] == [["docker", "build"], ["docker", "push"]]


def test_the_gke_manifest_is_filled_in_and_valid():
  (line,) = commands("gke.sh", "data", "--cluster=c", *CLOUD, "--data=gs://bucket/some/data")
  path = next(word for word in line if word.startswith("--manifest=")).removeprefix("--manifest=")
  volume, claim = yaml.safe_load_all(pathlib.Path(path).read_text())
  for manifest in (volume, claim):
    kubernetes_validate.validate(manifest, "1.33", strict=True)
  assert volume["spec"]["csi"]["volumeHandle"] == "bucket" and "only-dir=some/data" in volume["spec"]["mountOptions"]
  assert volume["spec"]["claimRef"]["name"] == claim["metadata"]["name"]
  assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
  del volume["spec"]["accessModes"], volume["spec"]["csi"]["driver"]
  with pytest.raises(kubernetes_validate.ValidationError):
    kubernetes_validate.validate(volume, "1.33", strict=True)


@pytest.mark.parametrize("path", sorted((LAUNCH / "docker").iterdir()), ids=lambda path: path.name)
def test_an_image_copies_all_that_it_installs_and_runs(path):
  lines = [line.split() for line in path.read_text().splitlines()]
  copied = {word for line in lines if line[:1] == ["COPY"] for word in line[1:-1]}
  (install,) = [line for line in lines if line[:3] == ["RUN", "pip", "install"]]
  listed = {word for word in install if word.endswith(".txt")}
  included = {line.split()[1] for name in listed for line in (ROOT / name).read_text().splitlines() if line[:2] == "-r"}
  assert copied == listed | included | {"gcn_flax", "configs", "data"}
  kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
  assert all((ROOT / name).exists() and any(fnmatch.fnmatch(name, pattern) for pattern in kept) for name in copied)
  assert ["ENTRYPOINT", '["python",', '"-m",', '"gcn_flax"]'] in lines


def test_hadolint_finds_nothing():
  hadolint = pathlib.Path(sys.executable).parent / "hadolint"
  files = sorted((LAUNCH / "docker").iterdir())
  done = subprocess.run([hadolint, *files], capture_output=True, text=True)
  assert done.returncode == 0 and [path.name for path in files] == ["gpu.Dockerfile", "tpu.Dockerfile"], done.stdout


@pytest.mark.parametrize(
  "statuses, expected, starts",
  [([0], 0, 1), ([1], 1, 1), ([75, 137, 0], 0, 3), ([75, 75, 75, 75], 75, 3), ([134, 1], 1, 2)],
)
def test_training_on_gpus_restarts_after_a_signal_but_not_after_an_error(tmp_path, statuses, expected, starts):
  (tmp_path / "statuses").write_text(" ".join(map(str, statuses)))
  python = program(
    tmp_path, "python",
    f'cd {tmp_path}; echo "$@" >>starts; read -ra s <statuses; echo "${{s[@]:1}}" >statuses; exit "${{s[0]}}"',
  )  # fmt: skip
  done = launch("gpus.sh", "--retries=2", *FLAGS, PYTHON=str(python))
  assert done.returncode == expected
  started = (tmp_path / "starts").read_text().splitlines()
  assert started == [" ".join(["-m", "gcn_flax.main", *FLAGS[1:]])] * starts


SAVES = 'trap "echo saved >>{0}/saved; exit 75" TERM; touch {0}/begun; while true; do sleep 0.05; done'


def signalled(process, tmp_path):
  """Sends SIGTERM once the training has begun; returns the exit status."""
  while not (tmp_path / "begun").exists():
    assert process.poll() is None
    time.sleep(0.02)
  process.send_signal(signal.SIGTERM)
  return process.wait(timeout=20)


def test_a_signal_to_the_launcher_reaches_the_training_and_ends_both(tmp_path):
  python = program(tmp_path, "python", SAVES.format(tmp_path))
  process = subprocess.Popen([LAUNCH / "gpus.sh", *FLAGS], env={**os.environ, "PYTHON": str(python)})
  assert signalled(process, tmp_path) == 75
  assert (tmp_path / "saved").read_text() == "saved\n"


@pytest.mark.parametrize("notice", [False, True])
def test_the_service_on_a_vm_saves_and_records_its_status(tmp_path, notice):
  """After SIGTERM, and after Cloud has announced maintenance."""
  (tmp_path / "checkout" / "launch").mkdir(parents=True)
  for name in ("tpu_worker.sh", "common.sh"):
    shutil.copy(LAUNCH / name, tmp_path / "checkout" / "launch")
  (tmp_path / "checkout" / ".venv" / "bin").mkdir(parents=True)
  program(tmp_path / "checkout" / ".venv" / "bin", "python", SAVES.format(tmp_path))
  worker = tmp_path / "checkout" / "launch" / "tpu_worker.sh"
  program(tmp_path, "curl", f"[[ $* == *maintenance-event ]] && cat {tmp_path}/event 2>/dev/null || echo FALSE")
  program(tmp_path, "sleep", 'read -rt "0.0$1" <> <(:) || true')
  environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
  process = subprocess.Popen([worker, "train", *FLAGS[1:]], env=environment)
  (tmp_path / "event").write_text("NONE")
  if notice:
    while not (tmp_path / "begun").exists():
      time.sleep(0.02)
    assert process.poll() is None
    (tmp_path / "event").write_text("TERMINATE_ON_HOST_MAINTENANCE")
    assert process.wait(timeout=20) == 75
    assert "maintenance TERMINATE_ON_HOST_MAINTENANCE" in (tmp_path / "gcn_flax.log").read_text()
  else:
    assert signalled(process, tmp_path) == 75
  done = subprocess.run([worker, "status"], env=environment, capture_output=True, text=True)
  assert done.stdout == "75\n"


@pytest.mark.parametrize(
  "said, restarts, status, queued",
  [
    ("", 0, 0, False),
    ("srun: error: n1: task 1: Exited with exit code 75", 0, 75, True),
    ("srun: error: n1: task 1: Killed", 0, 137, True),
    ("srun: error: n1: task 3: Exited with exit code 1", 0, 137, False),
    ("srun: error: n1: task 1: Exited with exit code 75", 20, 75, False),
  ],
)
def test_slurm_requeues_a_stopped_job(tmp_path, said, restarts, status, queued):
  program(tmp_path, "srun", f'echo "$@" >{tmp_path}/step; echo "{said}" >&2; exit {status}')
  program(tmp_path, "scontrol", f'echo "$@" >{tmp_path}/queued')
  environment = {"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": str(restarts), "SLURM_SUBMIT_DIR": str(ROOT)}
  done = launch("slurm.sh", *FLAGS[1:], path=tmp_path, PYTHON="python", **environment)
  assert done.returncode == (0 if queued else status) and said in done.stderr
  assert (tmp_path / "queued").exists() == queued
  assert (tmp_path / "step").read_text().strip().endswith(" ".join(["-m gcn_flax.main", *FLAGS[1:]]))
  if queued:
    assert (tmp_path / "queued").read_text() == "requeue 12\n"


def test_slurm_launcher_explains_how_to_start_it():
  done = launch("slurm.sh", SLURM_JOB_ID="")
  assert done.returncode == 1 and "sbatch --nodes=2" in done.stderr and "#SBATCH" not in done.stderr
  (line,) = [shlex.split(text) for text in launch("slurm.sh", "--dry_run", *FLAGS[1:]).stdout.splitlines()]
  assert line[0] == "srun" and line[-3:] == FLAGS[1:]


# Stands in for gcloud with one slice: `state` holds its state, each line of `ends` the next statuses of its VMs.
GCLOUD = """
cd {0}; echo "$*" >>calls
case "$*" in
  *queued-resources\\ create*) echo ACTIVE >state ;;
  *queued-resources\\ describe*) [[ -e state ]] && cat state ;;
  *queued-resources\\ delete*) rm state ;;
  *worker.sh\\ status*)
    head -n 1 ends | tr ' ' '\\n'; sed -i 1d ends
    [[ $(head -n 1 ends) != taken ]] || {{ echo SUSPENDED >state; sed -i 1d ends; }} ;;
  *networkEndpoints*) echo 2 ;;
esac
"""


@pytest.mark.parametrize(
  "ends, expected, slices",
  [
    (["running running", "0 0"], 0, 1),
    (["running 1"] + ["1 75"], 1, 1),
    (["running running", "taken", "0 0"], 0, 2),
    (["75 75", "0 0"], 0, 2),
    (["0 134", "0 0"], 0, 2),
    (["75 75"] * 3, 1, 3),
  ],
)
def test_a_preempted_slice_is_replaced(tmp_path, ends, expected, slices):
  (tmp_path / "ends").write_text("\n".join(ends) + "\n")
  program(tmp_path, "gcloud", GCLOUD.format(tmp_path))
  program(tmp_path, "sleep", "true")
  arguments = [
    "up",
    "n",
    *CLOUD,
    "--type=v5litepod-16",
    "--data=gs://b/d",
    f"--output={tmp_path}/out",
    "--restarts=2",
    *FLAGS,
  ]
  done = launch("tpu_vm.sh", *arguments, path=tmp_path)
  assert done.returncode == expected, done.stderr
  calls = (tmp_path / "calls").read_text().splitlines()
  assert sum("queued-resources create" in call for call in calls) == slices
  assert sum("worker.sh start mount" in call for call in calls) == slices
  assert not (tmp_path / "state").exists()  # Nothing that costs money is left.
  for number in range(slices):
    taken = "taken" in ends and number == 0
    fetched = any(f"n:gcn_flax.log {tmp_path}/out/slice{number}-worker1.log" in call for call in calls)
    assert fetched == (not taken)


def test_a_failed_setup_names_the_slice_and_a_lost_log_is_tolerated(tmp_path):
  """An existing request is waited for, not made again."""
  (tmp_path / "ends").write_text("0 0\n")
  (tmp_path / "state").write_text("ACTIVE")
  refuse = 'case "$*" in *{}*) exit 1 ;; esac\n' + GCLOUD
  arguments = ["up", "n", *CLOUD, "--type=v5litepod-16", "--data=gs://b/d", f"--output={tmp_path}/out", *FLAGS]
  program(tmp_path, "gcloud", refuse.replace("{}", "ssh*tar", 1).format(tmp_path))
  done = launch("tpu_vm.sh", *arguments, path=tmp_path)
  assert done.returncode == 1 and "still exists and costs money. Delete it: launch/tpu_vm.sh delete n" in done.stderr
  assert (tmp_path / "state").exists() and "queued-resources create" not in (tmp_path / "calls").read_text()
  program(tmp_path, "gcloud", refuse.replace("{}", "scp*gcn_flax.log", 1).format(tmp_path))
  done = launch("tpu_vm.sh", *arguments, path=tmp_path)
  assert done.returncode == 0 and "could not fetch the logs" in done.stderr
  assert not (tmp_path / "state").exists()
