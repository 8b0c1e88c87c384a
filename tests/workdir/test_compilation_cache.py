"""Compiled programs are kept in the workdir, and found again."""

import logging
import os
import shutil

import jax
import jax.numpy as jnp
import pytest
from jax._src import compiler
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from gcn_flax.workdir.compilation_cache import cache_compilations
from gcn_flax.workdir.workdir import Workdir

_SETTINGS = (
  "jax_compilation_cache_dir", "jax_persistent_cache_enable_xla_caches", "jax_persistent_cache_min_compile_time_secs",
)  # fmt: skip


@pytest.fixture
def unset():
  """JAX without a cache directory."""
  before = {name: getattr(jax.config, name) for name in _SETTINGS}
  jax.config.update("jax_compilation_cache_dir", None)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  jax_cache.reset_cache()


def compile_in(folder):
  """Compiles a program with the cache of a workdir, as after a start, and returns the entries of the cache."""
  jax.config.update("jax_compilation_cache_dir", None)
  jax_cache.reset_cache()
  cache_compilations(Workdir(folder))
  jax.jit(lambda x: jnp.sin(x) * 3 + 1).lower(jnp.ones(7)).compile()
  return sorted((folder / "compiled").glob("*-cache"))


AUTOTUNING = "xla_gpu_per_fusion_autotune_cache_dir"


@pytest.fixture
def on_gpu(monkeypatch):
  """JAX that names GPUs as its platform."""
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def test_the_users_own_directory_is_kept_and_named(tmp_path, caplog):
  before = jax.config.jax_compilation_cache_dir
  assert before
  with caplog.at_level(logging.INFO, logger="gcn_flax"):
    cache_compilations(Workdir(tmp_path))
  assert jax.config.jax_compilation_cache_dir == before
  assert caplog.messages == [f"compiled programs are kept in JAX_COMPILATION_CACHE_DIR={before}"]


def test_gpus_share_autotuning_results_in_the_users_own_directory(on_gpu, tmp_path, caplog):
  with caplog.at_level(logging.INFO, logger="gcn_flax"):
    cache_compilations(Workdir(tmp_path))
  assert jax.config.jax_persistent_cache_enable_xla_caches == AUTOTUNING  # JAX's default.
  assert "compiled programs and autotuning results are kept in JAX_COMPILATION_CACHE_DIR=" in caplog.text


def test_gpus_keep_autotuning_results_in_the_workdir(unset, on_gpu, tmp_path, monkeypatch, caplog):
  with caplog.at_level(logging.INFO, logger="gcn_flax"):
    assert compile_in(tmp_path)
  assert jax.config.jax_persistent_cache_enable_xla_caches == AUTOTUNING
  assert caplog.messages == [f"compiled programs and autotuning results are kept in {tmp_path}/compiled"]
  options = compiler.get_compile_options(num_replicas=1, num_partitions=1)
  debug = options.executable_build_options.debug_options
  assert getattr(debug, AUTOTUNING) == f"{tmp_path}/compiled/{AUTOTUNING}"


@pytest.mark.parametrize("where", ["XLA_FLAGS", "a bucket"])
def test_autotuning_results_are_not_kept_where_xla_cannot(where, unset, on_gpu, tmp_path, monkeypatch):
  if where == "XLA_FLAGS":
    monkeypatch.setenv("XLA_FLAGS", f"--{AUTOTUNING}=/mine")
  else:
    monkeypatch.setattr(Workdir, "is_remote", True)
  cache_compilations(Workdir(tmp_path))
  assert jax.config.jax_persistent_cache_enable_xla_caches == ""
  assert jax.config.jax_compilation_cache_dir == f"{tmp_path}/compiled"


def test_empty_autotuning_results_are_removed(unset, on_gpu, tmp_path):
  folder = tmp_path / "compiled" / AUTOTUNING
  folder.mkdir(parents=True)
  (folder / "cut.textproto").touch()
  (folder / "whole.textproto").write_text("version: 3")
  cache_compilations(Workdir(tmp_path))
  assert [path.name for path in folder.iterdir()] == ["whole.textproto"]


def test_a_copied_workdir_keeps_its_programs(unset, tmp_path):
  entries = compile_in(tmp_path / "here")
  assert entries
  shutil.copytree(tmp_path / "here", tmp_path / "there")
  assert [path.name for path in compile_in(tmp_path / "there")] == [path.name for path in entries]


def test_an_entry_that_was_cut_short_is_written_again(unset, tmp_path):
  entries = compile_in(tmp_path)
  entries[0].write_bytes(entries[0].read_bytes()[:50])
  assert compile_in(tmp_path) == entries
  assert all(path.stat().st_size > 1000 for path in entries)


def test_programs_of_another_user_are_not_run(unset, tmp_path, monkeypatch, caplog):
  entries = compile_in(tmp_path)
  jax.config.update("jax_compilation_cache_dir", None)
  monkeypatch.setattr(os, "geteuid", lambda: 12345)
  cache_compilations(Workdir(tmp_path))
  assert jax.config.jax_compilation_cache_dir is None and entries
  assert f"{tmp_path} belongs to another user" in caplog.text and "Set JAX_COMPILATION_CACHE_DIR=DIR" in caplog.text


def test_a_cache_that_is_none_is_left_alone_with_a_warning(unset, tmp_path, caplog):
  for folder, is_entry in (("one", False), ("two", True)):
    damaged = tmp_path / folder / "compiled"
    damaged.parent.mkdir()
    if is_entry:
      damaged = damaged / "jit_step-cache"
      damaged.mkdir(parents=True)
    else:
      damaged.write_text("a file")
    cache_compilations(Workdir(tmp_path / folder))
    assert jax.config.jax_compilation_cache_dir is None
    assert f"{damaged} is no {'file' if is_entry else 'folder'}. Remove it." in caplog.text
