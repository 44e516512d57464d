"""Split files: what they may hold, which files they select, and which motions two of them share."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from mm_torch.motion import splits
from mm_torch.motion.splits import SplitError, check_disjoint, leakage, motions_of, read_split, select

REPO = Path(__file__).parents[3]
SHIPPED = REPO / "recipes" / "splits"
PUBLISHED = REPO / ".." / "shared" / "data" / "splits"
SIZES = {"kit_kinesis_train": 972, "kit_kinesis_test": 108, "amass_bimanual_train": 1770, "amass_bimanual_test": 312,
         "amass_transition": 110}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def files(root: Path, *names: str) -> list[Path]:
    return [root / f"{name}.npz" for name in names]


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_shipped_splits_name_their_source_and_have_the_published_size(name: str, size: int):
    path = SHIPPED / f"{name}.txt"
    assert len(read_split(path)) == size
    header = path.read_text().split("\n", 4)[:4]
    assert all(line.startswith("# ") for line in header) and "# Source: group " in header[1]
    assert f": {size}" in header[2] or f" {size} of " in header[2]


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published lists are not beside the checkout")
@pytest.mark.parametrize("name", SIZES)
def test_shipped_splits_are_the_published_lists(name: str):
    assert read_split(SHIPPED / f"{name}.txt") == tuple((PUBLISHED / f"{name}.txt").read_text().splitlines())


def test_training_and_test_splits_share_nothing_and_transitions_share_what_their_header_says():
    ids = {name: read_split(SHIPPED / f"{name}.txt") for name in SIZES}
    shared = {frozenset((a, b)): len(leakage(ids[a], ids[b])) for a, b in combinations(SIZES, 2)}
    assert {pair: n for pair, n in shared.items() if n} == {
        frozenset(("amass_transition", "amass_bimanual_train")): 21, frozenset(("amass_transition", "amass_bimanual_test")): 1
    }


def test_comments_blank_lines_and_spaces_inside_an_id(tmp_path: Path):
    path = write(tmp_path / "s.txt", "# what\n\nACCAD/F_c3d/C13 -  turn left (135)_poses  \n  # more\nKIT/3/a.b_poses\r\n")
    assert read_split(path) == ("ACCAD/F_c3d/C13 -  turn left (135)_poses", "KIT/3/a.b_poses")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no motion"),
        ("# nothing\n\n", "names no motion"),
        ("KIT/3/a_poses\nKIT/4/b_poses\nKIT/3/a_poses\n", r"s\.txt:3: 'KIT/3/a_poses' stands already in line 1"),
        ("KIT/3/a_poses.npz\n", r"s\.txt:1: 'KIT/3/a_poses\.npz' is no id"),
        ("/data/KIT/3/a\n", "is no id"),
        ("../KIT/3/a\n", "is no id"),
        ("KIT\\3\\a\n", "is no id"),
    ],
)
def test_unusable_splits_are_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(SplitError, match=message):
        read_split(write(tmp_path / "s.txt", text))


def test_missing_and_binary_files_are_refused(tmp_path: Path):
    with pytest.raises(SplitError, match=r"none\.txt: No such file.*recipes/splits/"):
        read_split(tmp_path / "none.txt")
    (tmp_path / "b.txt").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(SplitError, match="no text file"):
        read_split(tmp_path / "b.txt")


def test_files_are_found_wherever_the_data_set_lies_and_in_the_order_of_the_split(tmp_path: Path):
    have = files(tmp_path / "deep" / "AMASS", "KIT/3/walk_poses", "KIT/13/walk_poses", "KIT/3/walk.01_poses", "SKIT/4/b")
    found, missing = select(have, ("KIT/3/walk.01_poses", "KIT/4/b", "KIT/3/walk_poses"))
    assert found == [have[2], have[0]] and missing == ["KIT/4/b"]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("BMLrub/rub001/0012_lifting_poses", "BioMotionLab_NTroje/rub001/0012_lifting_poses"),
        ("BioMotionLab_NTroje/rub001/0012_lifting_poses", "BMLrub/rub001/0012_lifting_poses"),
        ("Transitions/mazen_c3d/GUS_kick_poses", "Transitions_mocap/mazen_c3d/GUS_kick_poses"),
        ("EKUT/125/SLP101_poses", "EKUT/EKUT/125/SLP101_poses"),
        ("EKUT/EKUT/125/SLP101_poses", "EKUT/125/SLP101_poses"),
    ],
)
def test_both_names_of_a_data_set_fit(tmp_path: Path, file: str, name: str):
    assert select(files(tmp_path, file), (name,)) == (files(tmp_path, file), [])
    assert leakage((file,), (name,)) == [file]


def test_two_copies_of_a_data_set_are_refused(tmp_path: Path):
    have = files(tmp_path, "old/KIT/3/a_poses", "new/KIT/3/a_poses")
    with pytest.raises(SplitError, match=r"both fit 'KIT/3/a_poses'; name one copy"):
        select(have, ("KIT/3/a_poses",))


def test_another_release_of_a_motion_is_not_selected_but_leaks(tmp_path: Path):
    assert select(files(tmp_path, "KIT/3/a_stageii"), ("KIT/3/a_poses",)) == ([], ["KIT/3/a_poses"])
    assert leakage(("KIT/3/a_stageii", "KIT/3/b_poses"), ("KIT/3/a_poses",)) == ["KIT/3/a_stageii"]
    assert leakage(("ACCAD/M_c3d/A5_-_pick_up_box_stageii",), ("ACCAD/M_c3d/A5 - pick up box_poses",))


def test_leakage_reads_names_from_their_end():
    assert leakage(("3/a_poses", "4/a_poses", "a_poses"), ("KIT/3/a_poses",)) == ["3/a_poses", "a_poses"]
    assert leakage(("KIT/3/a_poses",), ("EKUT/3/a_poses", "KIT/13/a_poses", "KIT/3/aa_poses")) == []


def test_check_names_what_is_shared():
    train = tuple(f"KIT/3/{k}_poses" for k in range(5))
    check_disjoint(train, ("KIT/4/0_poses",))
    with pytest.raises(SplitError, match=r"share 5 motions: KIT/3/0_poses, KIT/3/1_poses, KIT/3/2_poses and 2 more"):
        check_disjoint(train, train)


def test_command_compares_a_split_with_the_clips_of_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture):
    split = write(tmp_path / "test.txt", "KIT/3/a_poses\n")
    for path in files(tmp_path / "clips", "KIT/3/b.1_poses", "KIT/4/a_poses"):
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / "clips" / ".half.npz").touch()
    assert motions_of(tmp_path / "clips") == ("KIT/3/b.1_poses", "KIT/4/a_poses")
    command = [str(tmp_path / "clips"), str(split)]
    assert splits.main(command) == 0 and "no motion of" in capsys.readouterr().out
    (tmp_path / "clips" / "KIT" / "3" / "a_poses.npz").touch()
    assert splits.main(command) == 1
    said = capsys.readouterr()
    assert said.out == "KIT/3/a_poses\n" and "1 of 3 motions" in said.err


def test_wrong_commands_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "empty").mkdir()
    assert splits.main([]) == splits.main(["a", "b", "c"]) == splits.main([str(tmp_path / "none.txt"), "x"]) == 2
    assert splits.main([str(tmp_path / "empty"), str(SHIPPED / "amass_transition.txt")]) == 2
    assert "no clip" in capsys.readouterr().err
    assert splits.main(["--help"]) == 0
