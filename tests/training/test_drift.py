"""What may differ between a checkpoint and the run that goes on from it, and what is refused."""

import pytest

from noise2music.errors import UserError
from noise2music.training.drift import check, differences

CONFIG = """\
# Macros:
DATA = 'there'
LOG_EVERY = 5
RATE = 0.1
UNREAD = 1
loop.Training.log_every = %LOG_EVERY
loop.Training.seed = 0
sources.ManifestSource.path = %DATA
optimizer.Optimizer.peak_learning_rate = %RATE
unet1d.UNet1D.strides = \\
    (1,
     2)
loop.Training.hooks = (@preview.Preview(),)
preview.Preview.batches = @preview/batch.BatchSpec()
preview/batch.BatchSpec.batch_size = 2
"""
THEN = {
  "config": CONFIG,
  "dataset": {"seed": 0, "sources": ["a"]},
  "versions": {"jax": "1.0", "numpy": "2.0"},
}


def now(*changes, **others):
  config = CONFIG
  for old, new in changes:
    assert old in config
    config = config.replace(old, new)
  return {**THEN, "config": config, **others}


@pytest.mark.parametrize(
  "changed",
  [
    now(),
    now(("LOG_EVERY = 5", "LOG_EVERY = 9")),
    now(("'there'", "'elsewhere'")),
    now(("preview/batch.BatchSpec.batch_size = 2", "preview/batch.BatchSpec.batch_size = 3")),
    now(
      ("(@preview.Preview(),)", "()"),
      ("preview.Preview.batches = @preview/batch.BatchSpec()\n", ""),
      ("preview/batch.BatchSpec.batch_size = 2\n", ""),
    ),
    now(("preview.Preview.batches", "preview.Preview.seed = 3\npreview.Preview.batches")),
    now(("# Macros:", "# Other words")),
    {**THEN, "config": ""},  # made by hand, without gin
  ],
)
def test_what_makes_no_difference_is_none(changed):
  assert list(differences(THEN, changed)) == []


@pytest.mark.parametrize(
  ("changed", "told"),
  [
    (now(("seed = 0", "seed = 1")), "loop.Training.seed was 0, is 1"),
    (now(("RATE = 0.1", "RATE = 0.2")), "RATE was 0.1, is 0.2"),
    (now(("UNREAD = 1\n", "")), "UNREAD was 1, is not there"),
    (now(("     2)", "     3)")), "unet1d.UNet1D.strides was (1, 2), is (1, 3)"),
    (now(dataset={"seed": 0, "sources": ["b"]}), "data.sources was ['a'], is ['b']"),
    (now(dataset=None), "data.seed was 0, is not there"),
    (now(versions={"jax": "1.1", "numpy": "2.0"}), "version.jax was 1.0, is 1.1"),
  ],
)
def test_what_makes_a_difference_is_refused_by_key_and_goes_on_when_allowed(changed, told, caplog):
  key = told.split(" ")[0]
  with pytest.raises(UserError, match="not the run that wrote checkpoint 4") as error:
    check(THEN, changed, step=4, allowed=("model_dir",))
  assert told in str(error.value)
  assert key in str(error.value).partition("--allow_drift=")[2].split(",")
  assert f"since checkpoint 4: {told}" in caplog.text
  keys = [each.key for each in differences(THEN, changed)]
  check(THEN, changed, step=4, allowed=keys)
  check(THEN, changed, step=4, allowed=["all"])
  check(THEN, changed, step=4, allowed=[k.split(".")[0] if k[0] in "dv" else k for k in keys])


def test_an_allowed_key_allows_no_other():
  changed = now(("seed = 0", "seed = 1"), ("RATE = 0.1", "RATE = 0.2"))
  with pytest.raises(UserError, match=r"checkpoint 4 \(RATE was 0.1, is 0.2\)"):
    check(THEN, changed, step=4, allowed=("Training.seed",))


def test_many_differences_stay_one_sentence():
  many = {f"part_{n}": n for n in range(20)}
  with pytest.raises(UserError, match=r"and 19 more\): undo that, or go on with it by .*=all$"):
    check(THEN, {**THEN, "dataset": {**many}}, step=4, allowed=())
