"""Data sets whose rows are joined with a folder of audio, on made-up rows with the real traps."""

import json

import pytest

from data_pipelines import command
from data_pipelines.importers.audioset import AudioSetImporter, read_ontology, subtree
from data_pipelines.importers.audioset_labels import MUSIC_LABELS
from data_pipelines.importers.fma import FmaImporter
from data_pipelines.importers.jamendo import SongDescriberImporter
from data_pipelines.importers.magnatagatune import MagnaTagATuneImporter
from data_pipelines.importers.musiccaps import read_musiccaps
from data_pipelines.importers.run import TABLED, detect_layout, import_dataset
from data_pipelines.importers.tables import read_table
from data_pipelines.manifest import read_manifest
from data_pipelines.report import Problem
from noise2music.errors import UserError
from tests.data_pipelines.test_importers import run, texts, tone

MUSICCAPS = (
  "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,"
  "is_balanced_subset,is_audioset_eval\n"
  '-abcdefghij,30,40,"/m/04rlf,/m/05r5c","[\'piano\', "singer\'s choice"]","A piano.\n'
  'It is slow, and sad.",4,False,True\n'
  "--bcdefghij,0,10,/m/04rlf,\"['drums']\",Drums.,0,False,False\n"
  "zzzzzzzzzzz,0,10,/m/04rlf,\"['lost']\",No audio.,0,False,False\n"
)


def write(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return path


def reasons(report):
  return [line["reason"] for line in report]


def test_musiccaps_dashes_newlines_and_lists(tmp_path):
  root = tmp_path / "music"
  write(root / "musiccaps-public.csv", MUSICCAPS.replace('"singer\'s', '""singer\'s', 1).replace(
    'choice"', 'choice""'))  # fmt: skip
  tone(root / "audio" / "-abcdefghij.wav")
  tone(root / "audio" / "[--bcdefghij]-[0-10].wav", hz=300)
  tone(root / "audio" / "other.wav", hz=500)
  assert isinstance(detect_layout(root), TABLED["musiccaps"])
  clips, report, _ = run(root, tmp_path / "out")
  first, second = clips.values()
  assert first.id == "audio/-abcdefghij.wav"
  assert texts(first) == [
    ("long", "A piano. It is slow, and sad."),
    ("short", "piano"),
    ("short", "singer's choice"),
  ]
  assert (first.split, second.split, first.license) == ("test", "train", None)
  assert first.extra["labels"] == ["/m/04rlf", "/m/05r5c"]
  assert first.extra["text_license"] == "CC-BY-SA-4.0"
  assert texts(second)[0] == ("long", "Drums.")
  assert reasons(report) == [
    "there is no audio of zzzzzzzzzzz",
    "no row of the metadata that is used names this file",
  ]


def test_rows_that_cannot_be_used_are_lost_alone(tmp_path):
  head, good = MUSICCAPS.splitlines()[0], "aaaaaaaaaa{},0,10,,\"['x']\",Text.,0,True,False"
  rows = [
    good.format(1).encode(),
    b"#NAME?,0,10,,\"['x']\",Text.,0,True,False",
    b"aaaaaaaaaa2,0,10,,\"['x']\",Caf\xe9.,0,True,False",
    b"aaaaaaaaaa3,0,10,,x,Text.,0,True,False",
    b"aaaaaaaaaa4,10,10,,\"['x']\",Text.,0,True,False",
    b"aaaaaaaaaa5,0,nan,,\"['x']\",Text.,0,True,False",
    b"aaaaaaaaaa6,0,10,,\"['x']\",Text.,0,maybe,False",
    b"aaaaaaaaaa7,0,10,,\"['x']\"y,Text.,0,True,False",
    b"aaaaaaaaaa8,0,10",
    good.format(1).encode(),
    good.format(9).encode(),
  ]
  table = write(tmp_path / "musiccaps.csv", head.encode() + b"\r\n" + b"\r\n".join(rows))
  read = list(read_musiccaps(table))
  assert [row.ytid[-1] for row in read if not isinstance(row, Problem)] == ["1", "9"]
  problems = [row for row in read if isinstance(row, Problem)]
  assert [int(problem.path.rpartition(":")[2]) for problem in problems] == list(range(3, 12))
  for problem, word in zip(
    problems,
    ("spreadsheet", "UTF-8", "Python's notation", "before it begins", "seconds", "neither True"),
    strict=False,
  ):
    assert word in problem.reason


def test_a_table_with_a_quote_left_open_keeps_what_stands_before(tmp_path):
  table = write(tmp_path / "a.csv", 'a,b\n1,2\n3,"4\n5,6\n')
  rows = list(read_table(table, columns=("A", "b")))
  assert rows[0][1] == {"A": "1", "b": "2"}
  assert rows[1].path == f"{table}:3"  # where the quote is
  assert "lost up to line 4; look for a quote that is not closed" in rows[1].reason
  assert len(rows) == 2


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    (b"", "there is no column ytid"),
    (b"ytid,ytid\n", "appears twice"),
    ("ytid,caption\n".encode("utf-16"), "save it as CSV UTF-8"),
    (b"yt\xff\n", "the header cannot be read"),
  ],
)
def test_a_table_that_is_none_is_one_sentence(tmp_path, content, reason):
  tone(tmp_path / "a.wav")
  write(tmp_path / "musiccaps.csv", content)
  with pytest.raises(UserError, match=reason) as caught:
    import_dataset(tmp_path, out_dir=tmp_path / "out")
  assert "\n" not in str(caught.value)


SEGMENTS = """# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=3, num_segs=3, num_unique_labels=4, num_positive_labels=5
# YTID, start_seconds, end_seconds, positive_labels
--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/m/05r5c,/m/0342h"
--ZhevVpy1s, 50.000, 60.000, "/m/012xff"
-0BIyqJj9ZU, 0.000, 10.000, /m/04rlf
"""


def test_audioset_segments(tmp_path):
  root = tmp_path / "music"
  write(root / "eval_segments.csv", SEGMENTS)
  tone(root / "Y--PJHxphWEs_30.000_40.000.wav")
  tone(root / "-0BIyqJj9ZU.wav", hz=300)
  assert isinstance(detect_layout(root / "eval_segments.csv"), AudioSetImporter)
  clips, report, _ = run(root / "eval_segments.csv", tmp_path / "out")
  (clip,) = clips.values()
  assert texts(clip) == [("short", "Piano"), ("short", "Guitar")]
  assert clip.extra["labels"] == ["/m/09x0r", "/m/05r5c", "/m/0342h"]
  assert (clip.split, clip.extra["start_s"]) == ("test", 30.0)
  assert [line["path"].rpartition(":")[2] for line in report[:2]] == ["5", "6"]
  assert all("none of its labels" in reason for reason in reasons(report)[:2])
  wider = AudioSetImporter(labels={**MUSIC_LABELS, "/m/04rlf": "Music"})
  clips, _, _ = run(root, tmp_path / "wider", importer=wider)
  assert [texts(clip) for clip in clips.values()][1] == [("short", "Music")]


def test_the_labels_of_the_paper():
  assert len(MUSIC_LABELS) == 130
  assert MUSIC_LABELS["/m/042v_gx"] == "Acoustic guitar"
  assert MUSIC_LABELS["/m/01bns_"] == "Zither"
  assert not {"/m/04rlf", "/m/04szw"} & MUSIC_LABELS.keys()  # Music, Musical instrument


def test_an_ontology_and_its_subtrees(tmp_path):
  def node(id, *children, restrictions=()):
    about = {"id": id, "name": id.upper(), "child_ids": children, "restrictions": restrictions}
    return {**about, "description": "", "citation_uri": "", "positive_examples": []}

  nodes = [node("a", "b", "c"), node("b", "d"), node("c", "d", restrictions=["abstract"])]
  path = write(tmp_path / "ontology.json", json.dumps([*nodes, node("d", "a"), node("e")]))
  ontology = read_ontology(path)
  assert subtree(ontology, "a") == {"a": "A", "b": "B", "d": "D", "c": "C"}
  assert ontology["c"].restrictions == ("abstract",)
  with pytest.raises(UserError, match="no class /m/04rlf"):
    subtree(ontology)
  for content in ("{", "[1]", "{}1", '[{"id": 1}]'):
    with pytest.raises(UserError, match=r"is not AudioSet's ontology\.json"):
      read_ontology(write(path, content))


@pytest.mark.parametrize("quote", ['"', ""])
def test_magnatagatune_is_tabs_and_untagged_clips_are_left_out(tmp_path, quote):
  def table(*rows):
    return "".join("\t".join(f"{quote}{c}{quote}" for c in row.split("|")) + "\n" for row in rows)

  root = tmp_path / "music"
  write(root / "annotations_final.csv", table(
    "clip_id|no voice|guitar|clasical|mp3_path",
    "2|1|0|1|f/bach-cantatas-01-30-59.mp3",
    "6|0|0|0|c/untagged-0-29.mp3",
    "35644|0|1|0|6/empty-117-146.mp3",
    "9|0|x|0|c/odd-0-29.mp3",
    "10|0||1|c/odd-0-29.mp3",
    "11|0|1|01|c/odd-0-29.mp3",
  ))  # fmt: skip
  write(root / "clip_info_final.csv", table(
    "clip_id|track_number|title|artist|album|url|segmentStart|segmentEnd|original_url|mp3_path",
    "2|1|Aria|A Choir|Cantatas|u|30|59|o|f/bach-cantatas-01-30-59.mp3",
  ))  # fmt: skip
  tone(root / "mp3" / "f" / "bach-cantatas-01-30-59.wav")
  tone(root / "mp3" / "c" / "untagged-0-29.wav", hz=300)
  write(root / "mp3" / "6" / "empty-117-146.mp3", b"")
  clips, report, _ = run(root, tmp_path / "out")
  (clip,) = clips.values()
  assert texts(clip) == [
    ("short", "no voice"),
    ("short", "clasical"),
    ("title", "Aria"),
    ("entity", "A Choir"),
  ]
  assert (clip.split, clip.license) == ("test", "CC-BY-NC-SA")
  assert clip.extra == {"clip_id": "2", "album": "Cantatas"}
  found = reasons(report)
  assert found[:4] == [
    "the clip has no tag",
    "the tag 'guitar' is neither 0 nor 1",
    "the tag 'guitar' is neither 0 nor 1",
    "the tag 'clasical' is neither 0 nor 1",
  ]
  assert report[-1]["path"].endswith("empty-117-146.mp3")  # no bytes, lost alone
  kept, _, _ = run(root, tmp_path / "all", importer=MagnaTagATuneImporter(untagged=True))
  assert {clip.split for clip in kept.values()} == {"test", "validation"}


TRACKS = """,album,artist,set,set,track,track,track,track,track
,title,name,split,subset,genre_top,genres,license,tags,title
track_id,,,,,,,,,
2,AWOL,A Band,training,small,Hip-Hop,"[21, 99]",Attribution,"['street', ""it's""]",Food
3,AWOL,A Band,validation,large,,[],,[],Electric Ave
5,AWOL,A Band,test,medium,Rock,21,,[],Bad list
"""


def test_fma_has_three_header_rows_and_licences_of_its_own(tmp_path):
  root = tmp_path / "music"
  write(root / "tracks.csv", TRACKS)
  write(root / "genres.csv", "genre_id,#tracks,parent,title,top_level\n21,8,0,Hip-Hop,21\n")
  tone(root / "fma_small" / "000" / "000002.wav")
  tone(root / "fma_large" / "000" / "000003.wav", hz=300)
  clips, report, _ = run(root, tmp_path / "out")
  first, second = clips.values()
  assert texts(first) == [
    ("title", "Food"), ("entity", "A Band"), ("entity", "Hip-Hop"),
    ("short", "street"), ("short", "it's"),
  ]  # fmt: skip
  assert (first.license, first.split) == ("Attribution", "train")
  assert (second.license, second.split) == (None, "validation")
  assert reasons(report) == ["track.genres is no list"]
  small, _, _ = run(root, tmp_path / "small", importer=FmaImporter(subset="small"))
  assert [clip.extra["track_id"] for clip in small.values()] == [2]
  with pytest.raises(UserError, match="choose among small, medium, large"):
    FmaImporter(subset="full")
  write(root / "tracks.csv", "track_id,title\n")
  with pytest.raises(UserError, match=r"give the tracks\.csv of FMA"):
    import_dataset(root, out_dir=tmp_path / "none", importer=FmaImporter())


def test_jamendo_tags_are_all_the_cells_that_remain(tmp_path):
  root = tmp_path / "music"
  head = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\n"
  row = "track_0000214\tartist_000014\talbum_000031\t14/214.mp3\t124.6"
  tags = "\tgenre---punkrock\tinstrument---guitar\tmood/theme---fast\n"
  odd = "track_0000215\ta\tb\t15/215.mp3\t1\tcolour---blue\ntrack_0000216\ta\tb\t16/216.mp3\n"
  write(root / "autotagging-validation.tsv", head + row + tags + odd)
  tone(root / "14" / "214.low.wav")
  clips, report, _ = run(root, tmp_path / "out")
  (clip,) = clips.values()
  assert texts(clip) == [("entity", "punkrock"), ("entity", "guitar"), ("short", "fast")]
  assert (clip.split, clip.extra["track_id"]) == ("validation", "track_0000214")
  assert reasons(report) == [
    "'colour---blue' is no tag of a known category",
    "4 columns where at least 6 are expected",
  ]


def test_the_split_of_any_table_counts_and_test_wins(tmp_path):
  root = tmp_path / "music"
  head = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\n"
  rows = [f"track_{n}\ta\tb\t0{n}/{n}.mp3\t9\tgenre---rock\n" for n in (1, 2)]
  write(root / "autotagging.tsv", head + "".join(rows))  # of no split
  write(root / "autotagging_genre-train.tsv", head + rows[1])
  write(root / "autotagging_moodtheme-test.tsv", head + "".join(rows))
  write(root / "autotagging_top-train.tsv", head + rows[1])
  tone(root / "01" / "1.wav")
  tone(root / "02" / "2.wav", hz=300)
  clips, report, _ = run(root, tmp_path / "out")
  assert [clip.split for clip in clips.values()] == ["test", "test"]
  assert [(line["status"], line["reason"]) for line in report] == [
    ("noted", "split test, but train in a row before; test is taken"),
    ("noted", "split train, but test in a row before; test is taken"),
  ]
  assert report[0]["path"].endswith("autotagging_moodtheme-test.tsv:3")


def test_song_describer_has_several_captions_a_track_and_blank_flags(tmp_path):
  root, table = tmp_path / "music", tmp_path / "song_describer.csv"
  head = "caption_id,track_id,caption,is_valid_subset,familiarity,artist_id,album_id,path,duration"
  rows = [
    '1,1004034,"Calm, slow.",True,0,3,1,34/1004034.mp3,202.5',
    "2,1004034,A rock song.,,0,3,1,34/1004034.mp3,202.5",
    "3,1004034, ,False,0,3,1,34/1004034.mp3,202.5",
  ]
  write(table, "\n".join([head, *rows]))
  tone(root / "34" / "1004034.2min.wav")
  arguments = ["import", str(root), "--metadata", str(table), "--layout", "songdescriber"]
  assert command.main([*arguments, "--out", str(tmp_path / "out")]) == 0
  (clip,) = read_manifest(tmp_path / "out" / "manifest.jsonl")
  assert texts(clip) == [("long", "Calm, slow."), ("long", "A rock song.")]
  assert [caption.extra.get("valid") for caption in clip.captions] == [True, None]
  assert clip.split == "test"
  valid = SongDescriberImporter(metadata=table, valid_only=True)
  clips, report, _ = run(root, tmp_path / "valid", importer=valid)
  assert len(next(iter(clips.values())).captions) == 1
  assert reasons(report) == ["the caption is not of the checked subset", "the caption is empty"]


def test_audio_is_never_looked_for_outside_the_folder(tmp_path):
  root = tmp_path / "music"
  tone(tmp_path / "secret.wav")
  tone(root / "a.wav", hz=300)
  write(root / "annotations_final.csv", "clip_id\tguitar\tmp3_path\n1\t1\t../secret.mp3\n")
  with pytest.raises(UserError, match=r"there is no audio of \.\./secret"):
    import_dataset(root, out_dir=tmp_path / "out")


def test_tables_of_ones_own_are_no_data_set(tmp_path):
  tone(tmp_path / "a.wav")
  write(tmp_path / "tracks.csv", "track,title\na,b\n")
  write(tmp_path / "spare.tar", b"")
  clips, _, _ = run(tmp_path, tmp_path / "out")
  assert list(clips) == ["a.wav"]


def test_metadata_is_for_layouts_with_a_table(tmp_path, capsys):
  tone(tmp_path / "a.wav")
  arguments = ["import", str(tmp_path), "--out", str(tmp_path / "o"), "--metadata", "x.csv"]
  assert command.main(arguments) == 2
  assert "--metadata is for layouts with a table" in capsys.readouterr().err
  assert command.main([*arguments, "--layout", "fma"]) == 2
  assert "cannot read x.csv" in capsys.readouterr().err
