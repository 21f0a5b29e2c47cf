import json

from benchmarks import label_search


def test_both_sides_find_the_same_captions(capsys) -> None:
  sizes = ["--captions=3000", "--width=8", "--clips=5", "--chunk=1024", "--rounds=1"]
  assert label_search.main([*sizes, "--json"]) == 0
  figures = json.loads(capsys.readouterr().out)
  assert figures["same_captions"] == 1
  assert figures["captions"] == 3000
  for worker in label_search.WORKERS:
    assert figures[worker]["clips_per_s"] > 0
    assert figures[worker]["peak_bytes"] > 1 << 20
