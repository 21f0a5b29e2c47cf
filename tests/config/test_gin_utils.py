"""Gin as users meet it: what they may write, and the one sentence for what they may not."""

import subprocess
import sys
import textwrap
from pathlib import Path

import gin_toy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noise2music.config import gin_utils, search
from noise2music.errors import UserError

HEADER = "from __gin__ import dynamic_registration\nimport gin_toy\n"
BASE = HEADER + textwrap.dedent("""
  MODEL_DIR = %gin.REQUIRED
  SIZE = 5

  gin_toy.Root:
    model_dir = %MODEL_DIR
    inner = @gin_toy.Inner()
  gin_toy.Inner.size = %SIZE
""")
DIR = 'MODEL_DIR = "runs/x"'


@pytest.fixture
def files(tmp_path):
  """write(name, text) -> path of a gin file."""

  def write(name, text):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)

  return write


def build(path, *bindings, **kwargs):
  gin_utils.parse([path], bindings, **kwargs)
  root = gin_utils.build(gin_toy.Root)
  gin_utils.check_all_used()
  return root


def test_objects_are_what_one_would_have_made_by_hand(files):
  root = build(files("base.gin", BASE), DIR)
  assert root == gin_toy.Root(model_dir="runs/x", inner=gin_toy.Inner(size=5))
  assert type(root) is gin_toy.Root
  assert type(root.inner) is gin_toy.Inner


def test_later_files_win_and_the_command_line_wins_over_all(files):
  base, second = files("base.gin", BASE), files("second.gin", "SIZE = 6\n")
  gin_utils.parse([base, second], [DIR])
  assert gin_utils.build(gin_toy.Root).inner.size == 6
  gin_utils.parse([base, second], [DIR, "SIZE = 7"])
  assert gin_utils.build(gin_toy.Root).inner.size == 7


@pytest.mark.parametrize("name", ["gin_toy.Root.rate", "Root.rate"])
def test_any_parameter_can_be_bound_on_the_command_line(files, name):
  assert build(files("base.gin", BASE), DIR, f"{name} = 0.25").rate == 0.25


def test_the_command_line_may_name_what_no_file_mentions_yet(files):
  root = build(
    files("base.gin", BASE),
    DIR,
    "gin_toy.Root.network = @gin_toy.Block()",
    "gin_toy.Block.width = 2",
  )
  assert root.network == gin_toy.Block(width=2)


def test_lists_arrive_as_tuples_so_that_objects_can_be_hashed(files):
  root = build(files("base.gin", BASE), DIR, "Inner.tags = ['a', ['b']]")
  assert root.inner.tags == ("a", ("b",))
  assert hash(root.inner) == hash(gin_toy.Inner(size=5, tags=("a", ("b",))))


def test_scopes_make_two_objects_of_one_class(files):
  text = BASE + "gin_toy.Root.other = @second/gin_toy.Inner()\nsecond/gin_toy.Inner.size = 9\n"
  root = build(files("base.gin", text), DIR)
  assert (root.inner.size, root.other.size) == (5, 9)


LINEN = BASE + textwrap.dedent("""
  gin_toy.Root.network = @gin_toy.Network()
  gin_toy.Network:
    block = @gin_toy.Block()
    width = 6
  gin_toy.Block:
    width = 6
    strides = [2, 2]
""")


def test_a_linen_module_from_gin_is_the_module_itself(files):
  network = build(files("linen.gin", LINEN), DIR).network
  by_hand = gin_toy.Network(block=gin_toy.Block(width=6, strides=(2, 2)), width=6)
  assert type(network) is gin_toy.Network
  assert (network.name, network.block.name) == (None, None)
  assert network == by_hand
  assert hash(network) == hash(by_hand)
  assert network.clone(width=8).width == 8
  x = jnp.ones((1, 5))
  params, expected = network.init(jax.random.key(0), x), by_hand.init(jax.random.key(0), x)
  assert set(params["params"]) == {"first", "block", "again"}
  jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_two_references_are_two_objects(files):
  text = HEADER + "gin_toy.Root:\n  model_dir = 'x'\n  inner = %BOTH\n  other = %BOTH\n"
  root = build(files("two.gin", text + "BOTH = @gin_toy.Inner()\n"))
  assert root.inner == root.other
  assert root.inner is not root.other


def test_the_resolved_text_builds_the_same_again_and_says_the_same(files):
  text = LINEN + "gin_toy.Root.callback = @gin_toy.scale\ngin_toy.scale.factor = 3\n"
  root = build(files("linen.gin", text), DIR, "SIZE = 8")
  assert root.callback(2) == 6
  resolved = gin_utils.operative_config_text()
  assert "gin_toy.Root.rate = 0.5" in resolved  # a default that nothing bound
  gin_utils.parse_text(resolved)
  again = gin_utils.build(gin_toy.Root)
  gin_utils.check_all_used()
  assert (again.network, again.inner) == (root.network, root.inner)
  assert again.callback(2) == 6
  assert gin_utils.operative_config_text() == resolved


def test_one_argument_can_be_built_alone(files):
  gin_utils.parse([files("base.gin", LINEN)], [DIR, "Inner.size = 0"])
  assert gin_utils.build_argument(gin_toy.Root, "network").width == 6  # Inner would refuse
  with pytest.raises(UserError, match=r"binds no Root.nothing"):
    gin_utils.build_argument(gin_toy.Root, "nothing")


def test_a_handed_on_functions_bindings_are_not_dead(files):
  text = (
    BASE + "gin_toy.Root.callback = @gin_toy.scale\ngin_toy.scale.factor = %FACTOR\nFACTOR = 4\n"
  )
  assert build(files("callback.gin", text), DIR).callback(1) == 4


@pytest.mark.parametrize(
  ("binding", "message"),
  [
    ("SIZES = 3", r"nothing uses SIZES = 3 \(did you mean 'SIZE'\?\)"),
    ("gin_toy.Block.width = 3", r"nothing uses gin_toy.Block.width = 3: correct"),
    ("other/Inner.size = 3", r"nothing uses other/gin_toy.Inner.size = 3"),
    ("Root.rat = 3", r"Root has no parameter 'rat' \(did you mean 'rate'\?\) in --gin"),
    ("gin_toy.Rot.rate = 3", r"gin_toy has no 'Rot' \(did you mean 'Root'\?\)"),
    ("Rot.rate = 3", r"nothing is called 'Rot' \(did you mean 'Root'\?\)"),
    ("Root.inner = @gin_toy.Iner()", r"gin_toy has no 'Iner' \(did you mean 'Inner'\?\)"),
    ("SIZE = %SIZ", r"SIZ must be set: add --gin.SIZ=\.\.\."),
    ("MODEL_DIR = runs/x", r"strings need inner quotes.*--gin.MODEL_DIR=\\\"runs/x\\\""),
    ("MODEL_DIR = /music/run-1", r"strings need inner quotes"),
    ("MODEL_DIR = x", r"strings need inner quotes"),
    ("SIZE = (1,", r"a bracket or a quote is opened"),
    ("SIZE = 1 2", r"cannot read 'SIZE = 1 2' as gin"),
    ("Inner.size = 0", r"^size is 0: give at least 1$"),
    ("Root.inner = %gin.REQUIRED", r"gin_toy.Root.inner must be set"),
  ],
)
def test_mistakes_are_one_sentence(files, binding, message):
  with pytest.raises(UserError, match=message) as error:
    build(files("base.gin", BASE), DIR, binding)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("gin_toy.Root.rat = 3", r"base.gin:1[0-9]\b"),
    ("gin_toy.Rot.rate = 3", r"'Root'.* in .*base.gin:1"),
    ("nowhere.Root.rate = 3", r"unknown name 'nowhere'.*import its module"),
    ("import gin_toyy", r"cannot import.*gin_toyy.* in .*base.gin"),
    ("gin_toy.Root.model_dir = runs/x", r'base.gin:1[0-9]: strings need quotes: write "runs/x"'),
    ("include 'bas.gin'", r"no gin file 'bas.gin'"),
    ("include 'base.gin'", r"includes itself"),
  ],
)
def test_mistakes_in_a_file_name_the_place(files, tmp_path, line, message):
  path = files("base.gin", BASE + line + "\n")
  with pytest.raises(UserError, match=message) as error:
    build(path, DIR, search_paths=[str(tmp_path)])
  assert "\n" not in str(error.value)


def test_all_macros_that_must_be_set_are_named_at_once(files):
  path = files("base.gin", BASE.replace("SIZE = 5", "SIZE = %gin.REQUIRED"))
  with pytest.raises(UserError, match=r"MODEL_DIR and SIZE must be set: add --gin.MODEL_DIR="):
    build(path)


def test_a_missing_argument_is_named(files):
  path = files("base.gin", HEADER + "gin_toy.Root.model_dir = 'x'\n")
  with pytest.raises(UserError, match=r"Root needs 'inner': bind Root.inner in a gin file"):
    build(path)


def test_a_file_that_does_not_bind_the_root_is_named(files):
  class Elsewhere:
    pass

  gin_utils.parse([files("base.gin", BASE)], [DIR])
  with pytest.raises(UserError, match=r"no gin file binds .*Elsewhere"):
    gin_utils.build(Elsewhere)


def test_files_are_found_in_search_paths_and_near_names_are_offered(files, tmp_path):
  files("lib/sizes/base.gin", BASE)
  run = files("run.gin", 'include "sizes/base.gin"\n')
  folder = str(tmp_path / "lib")
  assert build(run, DIR, search_paths=[folder]).inner.size == 5
  assert build("sizes/base.gin", DIR, search_paths=[folder]).inner.size == 5
  with pytest.raises(UserError, match=r"did you mean 'sizes/base.gin'\?"):
    build("sizes/bas.gin", DIR, search_paths=[folder])
  with pytest.raises(UserError, match=r"did you mean 'sizes/base.gin'\?"):
    build("base.gin", DIR, search_paths=[folder])


def test_shipped_files_are_found_by_both_names_from_anywhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  folders = search.prefixes()
  names = search.available([str(search.shipped_folder())])
  assert names
  assert search.resolve(names[0], folders=folders) == search.resolve(
    f"configs/{names[0]}", folders=folders
  )


def test_shipped_files_are_found_in_an_installed_package(tmp_path):
  """As from a wheel: the packages lie in one folder, the user stands in another."""
  site = tmp_path / "site"
  (site / "configs" / "runs").mkdir(parents=True)
  (site / "configs" / "__init__.py").touch()
  (site / "configs" / "base.gin").write_text(BASE)
  (site / "configs" / "runs" / "one.gin").write_text('include "base.gin"\n')
  root = Path(__file__).parents[2]
  (site / "noise2music").symlink_to(root / "noise2music")
  (site / "gin_toy.py").symlink_to(Path(__file__).with_name("gin_toy.py"))
  code = (
    f"import sys; sys.path[:0] = [{str(site)!r}]\n"
    "from noise2music.config import gin_utils; import gin_toy\n"
    "gin_utils.parse(['runs/one.gin'], ['MODEL_DIR = \"x\"'])\n"
    "print(gin_utils.build(gin_toy.Root).inner.size)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
  )
  assert done.stdout == "5\n", done.stderr


def test_a_foreign_config_may_import_only_what_is_allowed():
  allowed = {"noise2music", "gin_toy"}
  gin_utils.parse_text(BASE.replace("%gin.REQUIRED", "'x'"), allowed_modules=allowed)
  assert gin_utils.build(gin_toy.Root).inner.size == 5
  for bad in ("import os", "from os import system", "import subprocess as gin_toy"):
    with pytest.raises(UserError, match="which is not one of"):
      gin_utils.parse_text(HEADER + bad + "\n", allowed_modules=allowed)


def test_what_was_parsed_before_is_forgotten(files):
  build(files("base.gin", BASE), DIR, "Root.rate = 0.1")
  assert build(files("base.gin", BASE), DIR).rate == 0.5


@pytest.mark.parametrize(
  ("line", "named"),
  [
    # gin follows dots through a module to whatever that has imported.
    ("gin_toy.Root.inner = @gin_utils.copy.deepcopy()", r"copy\.deepcopy'"),
    ("gin_toy.Root.inner = @gin_utils.copy.deepcopy", r"copy\.deepcopy'"),
    ("gin_utils.logging.FileHandler.filename = 'x'", r"FileHandler'"),
    # Our own functions write files and parse configs; what a stage is made of only holds values.
    ("gin_toy.Root.inner = @gin_utils.parse_text()", r"parse_text'"),
    ("M = @gin_utils.copy.copy()\ngin_toy.Root.inner = %M", r"copy\.copy'"),
    ("gin_toy.Root.inner = [{'a': (@gin_utils.copy.copy(),)}]", r"copy\.copy'"),
    ("include 'base/train.gin'", "includes 'base/train.gin'"),
  ],
)
def test_a_strangers_config_builds_the_parts_of_a_stage_and_nothing_else(line, named):
  text = BASE.replace("%gin.REQUIRED", "'x'") + "from noise2music.config import gin_utils\n" + line
  with pytest.raises(UserError, match=named):
    gin_utils.parse_text(text + "\n", allowed_modules=("gin_toy", "noise2music"))


def test_passwords_in_urls_stay_out_of_resolved_configs(files):
  gin_utils.parse([files("base.gin", BASE)], ['MODEL_DIR = "https://me:secret@host/x?y@z"'])
  assert gin_utils.build(gin_toy.Root).model_dir == "https://me:secret@host/x?y@z"
  text = gin_utils.operative_config_text()
  assert "secret" not in text
  assert "https://***@host/x?y@z" in text
