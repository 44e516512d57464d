"""OpenSim joint angles: sign by sign on our body, a running trial against its markers, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mujoco
import numpy as np
import pytest

from sim_models.embodiment import Embodiment
from sim_models.registry import load_body
from tools.retargeting import mot, rotations
from tools.retargeting.readers import Options, read_capture
from tools.retargeting.skeleton import CaptureError, JointMotion

RUN = Path(__file__).parents[3] / ".." / "shared" / "data" / "mocap" / "opensim_run"
needs_run = pytest.mark.skipif(not RUN.is_dir(), reason="captures are not beside the checkout")
FORWARD, LEFT, UP = np.array([0.0, -1.0, 0.0]), np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
STANDING = dict.fromkeys((*mot.PELVIS, "hip_flexion_r", "hip_flexion_l", "knee_angle_r", "knee_angle_l"), 0.0)

Places = Callable[[JointMotion], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def body() -> Embodiment:
    return load_body("myo_fullbody")


@pytest.fixture(scope="module")
def places(body: Embodiment) -> Places:
    """Tracks (F, 3) m of our bodies' origins for a motion; joints without a column are neutral."""
    data = mujoco.MjData(body.model)

    def run(motion: JointMotion) -> dict[str, np.ndarray]:
        qpos = np.tile(body.neutral_qpos, (len(motion.qpos), 1))
        if motion.root is not None:
            qpos[:, :7] = motion.root
        for name, column in zip(motion.joint_names, motion.qpos.T, strict=True):
            qpos[:, body.model.joint(name).qposadr[0]] = column
        tracks = np.empty((len(qpos), body.model.nbody, 3))
        for frame, values in enumerate(body.couplings.enforce(qpos)):
            data.qpos[:] = values
            mujoco.mj_kinematics(body.model, data)
            tracks[frame] = data.xpos
        return {body.model.body(b).name: tracks[:, b] for b in range(body.model.nbody)}

    return run


def write_mot(path: Path, columns: dict[str, object], degrees: str | None = "yes", rows: int = 6, fps: float = 100.0,
              time: object = None, told: int | None = None) -> Path:
    """Write a table of constant or given columns."""
    table = {"time": np.arange(rows) / fps if time is None else np.asarray(time)}
    table |= {k: np.broadcast_to(np.asarray(v, dtype=float), (rows,)) for k, v in columns.items()}
    header = ["Coordinates", "version=1", f"nRows={rows if told is None else told}", f"nColumns={len(table)}"]
    header += [] if degrees is None else [f"inDegrees={degrees}"]
    lines = [*header, "endheader", "\t".join(table)]
    lines += ["\t".join(f"{v:.8f}" for v in row) for row in np.stack(list(table.values()), axis=1)]
    path.write_text("\n".join(lines) + "\n")
    return path


@needs_run
def test_running_trial_runs_forward_upright_with_knees_that_bend_backward(places: Places):
    motion = read_capture(RUN / "ik_output_run.mot", Options())
    assert isinstance(motion, JointMotion)
    assert motion.fps == 150.0 and motion.provenance["left_out"] == ["knee_angle_l_beta", "knee_angle_r_beta"]
    at = places(motion)
    path = at["pelvis"][-1] - at["pelvis"][0]
    assert np.linalg.norm(path) / motion.duration == pytest.approx(2.7, abs=0.1)
    facing = -rotations.from_quaternion(motion.root[:, 3:])[:, :, 1]
    assert (facing @ path > 0.9 * np.linalg.norm(path)).all()
    trunk = at["head"] - at["pelvis"]
    assert (trunk[:, 2] > 0.9 * np.linalg.norm(trunk, axis=1)).all()
    assert np.minimum(at["toes_r"], at["toes_l"])[:, 2].min() == pytest.approx(0.0, abs=0.05), "the floor of the trial"
    for side in "rl":
        thigh, shin = at[f"tibia_{side}"] - at[f"femur_{side}"], at[f"talus_{side}"] - at[f"tibia_{side}"]
        left = rotations.from_quaternion(motion.root[:, 3:])[:, :, 0]
        bend = np.einsum("fi,fi->f", np.cross(thigh, shin), left)
        assert bend[np.linalg.norm(np.cross(thigh, shin), axis=1) > 0.05].min() > 0.0


@needs_run
def test_running_trial_agrees_with_its_markers(places: Places):
    at, marker = places(mot.load_mot(RUN / "ik_output_run.mot")), _markers(RUN / "motion_capture_run.trc")

    def angle(ours: np.ndarray, theirs: np.ndarray) -> float:
        cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
        return float(np.degrees(np.nanmean(np.arccos(cosine))))

    for side in "RL":
        of = {name: at[f"{name}_{side.lower()}"] for name in ("humerus", "ulna", "lunate", "secondmc", "fifthmc", "tibia",
                                                             "talus")}
        elbow = 0.5 * (marker[f"{side}LEL"] + marker[f"{side}MEL"])
        wrist = 0.5 * (marker[f"{side}FAradius"] + marker[f"{side}FAulna"])
        knee = 0.5 * (marker[f"{side}LFCv"] + marker[f"{side}MFCv"])
        ankle = 0.5 * (marker[f"{side}LMALv"] + marker[f"{side}MMALv"])
        assert angle(of["talus"] - of["tibia"], ankle - knee) < 15.0
        assert angle(of["ulna"] - of["humerus"], elbow - marker[f"{side}ACR"]) < 18.0
        assert angle(of["lunate"] - of["ulna"], wrist - elbow) < 22.0
        assert angle(of["secondmc"] - of["fifthmc"], marker[f"{side}FAradius"] - marker[f"{side}FAulna"]) < 25.0
    assert angle(at["humerus_l"] - at["humerus_r"], marker["LACR"] - marker["RACR"]) < 8.0
    assert angle(at["femur_l"] - at["femur_r"], marker["LASI"] - marker["RASI"]) < 6.0


def _markers(path: Path) -> dict[str, np.ndarray]:
    lines = path.read_text().splitlines()
    names = [name for name in lines[3].split("\t")[2:] if name]
    rows = [line.split("\t")[2 : 2 + 3 * len(names)] for line in lines[5:] if line.strip()]
    values = np.array([[float(v) if v else np.nan for v in row] for row in rows[:122]]).reshape(-1, len(names), 3)
    return dict(zip(names, (values @ mot.WORLD.T).transpose(1, 0, 2), strict=True))


def test_standing_faces_minus_y_where_the_table_says(tmp_path: Path):
    columns = STANDING | {"pelvis_tx": 1.0, "pelvis_ty": 0.9, "pelvis_tz": 0.2}
    motion = mot.load_mot(write_mot(tmp_path / "a.mot", columns))
    np.testing.assert_allclose(motion.root, np.tile([-0.2, -1.0, 0.9, 1, 0, 0, 0], (6, 1)), atol=1e-12)
    np.testing.assert_array_equal(motion.qpos, 0.0)
    feet = mot.load_mot(write_mot(tmp_path / "b.mot", columns | {"pelvis_ty": 35.4}), units="inch")
    assert feet.root[0, 2] == pytest.approx(0.9, abs=1e-3)
    with pytest.raises(CaptureError, match=r"35\.4 m high.*units="):
        mot.load_mot(tmp_path / "b.mot")


def test_pelvis_turns_in_the_order_of_its_joint(tmp_path: Path):
    """Tilted by a quarter, its own long axis points back, and it then turns about that one."""
    columns = STANDING | {"pelvis_tilt": 90.0, "pelvis_rotation": 30.0}
    turn = rotations.from_quaternion(mot.load_mot(write_mot(tmp_path / "a.mot", columns)).root[0, 3:])
    np.testing.assert_allclose(turn @ UP, -FORWARD, atol=1e-12)
    np.testing.assert_allclose(turn @ FORWARD, np.cos(np.pi / 6) * UP + 0.5 * LEFT, atol=1e-9)
    turn = rotations.from_quaternion(
        mot.load_mot(write_mot(tmp_path / "b.mot", STANDING | {"pelvis_tilt": 90.0, "pelvis_list": 30.0})).root[0, 3:]
    )
    np.testing.assert_allclose(turn @ FORWARD, UP, atol=1e-12)  # listing leaves the own forward axis alone


@pytest.mark.parametrize(
    ("column", "degrees", "of", "since", "direction"),
    [
        ("pelvis_tilt", -20.0, "head", "pelvis", FORWARD), ("pelvis_list", 15.0, "head", "pelvis", -LEFT),
        ("pelvis_rotation", 30.0, "toes_r", "pelvis", FORWARD), ("pelvis_rotation", 30.0, "femur_r", "pelvis", FORWARD),
        ("lumbar_extension", -30.0, "head", "pelvis", FORWARD), ("lumbar_bending", 20.0, "head", "pelvis", -LEFT),
        ("lumbar_rotation", 30.0, "humerus_r", "thorax", FORWARD), ("hip_flexion_r", 40.0, "tibia_r", "femur_r", FORWARD),
        ("hip_flexion_l", 40.0, "tibia_l", "femur_l", FORWARD), ("hip_adduction_r", 20.0, "tibia_r", "femur_r", LEFT),
        ("hip_adduction_l", 20.0, "tibia_l", "femur_l", -LEFT), ("hip_rotation_r", 30.0, "toes_r", "calcn_r", LEFT),
        ("hip_rotation_l", 30.0, "toes_l", "calcn_l", -LEFT), ("knee_angle_r", 60.0, "talus_r", "tibia_r", -FORWARD),
        ("knee_angle_l", 60.0, "talus_l", "tibia_l", -FORWARD), ("ankle_angle_r", 20.0, "toes_r", "talus_r", UP),
        ("ankle_angle_l", 20.0, "toes_l", "talus_l", UP), ("elbow_flex_r", 90.0, "lunate_r", "ulna_r", FORWARD),
        ("elbow_flex_l", 90.0, "lunate_l", "ulna_l", FORWARD),
    ],
)  # fmt: skip
def test_signs(tmp_path: Path, places: Places, column: str, degrees: float, of: str, since: str, direction: np.ndarray):
    rest = places(mot.load_mot(write_mot(tmp_path / "rest.mot", STANDING | {column: 0.0})))
    moved = places(mot.load_mot(write_mot(tmp_path / "moved.mot", STANDING | {column: degrees})))
    change = (moved[of] - moved[since] - rest[of] + rest[since])[0]
    assert change @ direction > 0.5 * np.linalg.norm(change) > 0.005


def test_trunk_bends_by_the_angle_of_the_table(tmp_path: Path, places: Places, body: Embodiment):
    for column, axis in (("lumbar_extension", 0), ("lumbar_bending", 1), ("lumbar_rotation", 2)):
        motion = mot.load_mot(write_mot(tmp_path / "a.mot", STANDING | {column: 20.0}))
        data = mujoco.MjData(body.model)
        turns = []
        for angles in (np.zeros(motion.qpos.shape[1]), motion.qpos[0]):
            data.qpos[:] = body.neutral_qpos
            for name, value in zip(motion.joint_names, angles, strict=True):
                data.qpos[body.model.joint(name).qposadr[0]] = value
            data.qpos[:] = body.couplings.enforce(data.qpos)
            mujoco.mj_kinematics(body.model, data)
            turns.append(data.body("thorax").xmat.reshape(3, 3).copy())
        turn = np.degrees(rotations.log(turns[1] @ turns[0].T))
        assert np.linalg.norm(turn) == pytest.approx(20.0, abs=0.05)
        assert int(np.argmax(np.abs(turn))) == axis


def test_wrist_columns_move_the_wrist(tmp_path: Path):
    motion = mot.load_mot(write_mot(tmp_path / "a.mot", {"wrist_flex_r": 10.0, "wrist_dev_l": 5.0, "pro_sup_r": 0.0}))
    column = dict(zip(motion.joint_names, np.degrees(motion.qpos[0]), strict=True))
    assert column == pytest.approx({"flexion_r": 10.0, "deviation_l": -5.0, "pro_sup_r": np.degrees(mot.ZERO["pro_sup"])})
    assert motion.root is None


def test_pronation_turns_the_thumbs_inward(tmp_path: Path, places: Places):
    for side, inward in (("r", LEFT), ("l", -LEFT)):
        supine, prone = (places(mot.load_mot(write_mot(tmp_path / "a.mot", STANDING | {f"pro_sup_{side}": angle})))
                         for angle in (40.0, 110.0))
        thumb = [(at[f"secondmc_{side}"] - at[f"fifthmc_{side}"])[0] for at in (supine, prone)]
        assert (thumb[1] - thumb[0]) @ inward > 0.02


def test_shoulder_angles_give_the_same_rotation():
    flex, add, rot = np.random.default_rng(0).uniform(-1.4, 1.4, (3, 200))
    flex[:100] *= 1e-12  # and with hanging arms, whose plane of elevation is undefined
    add[:50] = 0.0
    plane, elevation, turn = mot.shoulder(flex, add, rot)
    about = rotations.about_axis
    np.testing.assert_allclose(
        about(1, plane) @ about(0, -elevation) @ about(1, turn - plane), about(2, flex) @ about(0, add) @ about(1, rot),
        atol=1e-9,
    )
    assert elevation.min() >= 0.0


@pytest.mark.parametrize("side", ["r", "l"])
@pytest.mark.parametrize(
    ("angles", "forward", "outward"),
    [
        ((90, 0, 0), 1.0, 0.0),
        ((-50, 0, 0), -0.77, 0.0),
        ((0, -80, 0), 0.0, 0.98),
        ((60, 30, 0), 0.75, -0.5),
        ((0, -80, 60), 0.0, 0.98),
    ],
)
def test_arm_points_where_the_table_says(tmp_path: Path, places: Places, side: str, angles: tuple, forward: float,
                                         outward: float):
    columns = {f"{name}_{side}": angle for name, angle in zip(mot.ARM, angles, strict=True)}
    at = places(mot.load_mot(write_mot(tmp_path / "a.mot", STANDING | columns)))
    arm = (at[f"ulna_{side}"] - at[f"humerus_{side}"])[0]
    arm /= np.linalg.norm(arm)
    wanted = forward * FORWARD + outward * (LEFT if side == "l" else -LEFT)
    assert np.abs(arm[:2] - wanted[:2]).max() < 0.13


def test_turning_the_arm_turns_the_forearm(tmp_path: Path, places: Places):
    for side, inward in (("r", LEFT), ("l", -LEFT)):
        columns = {f"arm_flex_{side}": 0.0, f"arm_add_{side}": 0.0, f"arm_rot_{side}": 40.0, f"elbow_flex_{side}": 90.0}
        at = places(mot.load_mot(write_mot(tmp_path / "a.mot", STANDING | columns)))
        forearm = (at[f"lunate_{side}"] - at[f"ulna_{side}"])[0]
        assert forearm @ inward > 0.4 * np.linalg.norm(forearm) and forearm @ FORWARD > 0.5 * np.linalg.norm(forearm)


def test_shoulder_plane_has_no_jumps_while_the_arm_swings_past_the_body():
    time = np.linspace(0.0, 4.0, 800)
    for add in (-0.15, 0.15):  # beside the body, and behind it, where the plane passes half a turn
        plane, elevation, turn = mot.shoulder(0.6 * np.sin(3.0 * time), np.full_like(time, add), 0.1 * np.cos(time))
        for angle in (plane, elevation, turn):
            assert np.abs(np.diff(angle)).max() < 0.1
        assert np.abs(plane.mean()) <= np.pi


def test_radians_equal_degrees(tmp_path: Path):
    angles = STANDING | {"arm_flex_l": 0.7, "arm_add_l": -0.3, "arm_rot_l": 0.2, "hip_flexion_r": 0.5, "pelvis_tilt": -0.2}
    in_degrees = {k: np.degrees(v) if not k.startswith("pelvis_t") or k == "pelvis_tilt" else v for k, v in angles.items()}
    a = mot.load_mot(write_mot(tmp_path / "a.mot", angles, degrees="no"))
    b = mot.load_mot(write_mot(tmp_path / "b.mot", in_degrees))
    np.testing.assert_allclose(a.qpos, b.qpos, atol=1e-7)
    np.testing.assert_allclose(a.root, b.root, atol=1e-7)


def test_angles_that_wrap_stay_continuous(tmp_path: Path):
    turning = np.mod(np.linspace(150.0, 230.0, 12) + 180.0, 360.0) - 180.0  # a turn past 180 degrees
    motion = mot.load_mot(write_mot(tmp_path / "a.mot", STANDING | {"pelvis_rotation": turning, "hip_rotation_r": turning},
                                    rows=12))
    steps = rotations.log(np.swapaxes(rotations.from_quaternion(motion.root[:-1, 3:]), -1, -2)
                          @ rotations.from_quaternion(motion.root[1:, 3:]))
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1), np.radians(80.0 / 11), atol=1e-6)
    assert np.abs(np.diff(motion.qpos, axis=0)).max() < 0.2


def test_knees_of_older_models_are_turned_round(tmp_path: Path):
    bend = np.linspace(0.0, -70.0, 6)
    motion = mot.load_mot(write_mot(tmp_path / "a.mot", STANDING | {"knee_angle_r": bend, "knee_angle_l": 2.0}))
    column = dict(zip(motion.joint_names, motion.qpos.T, strict=True))
    np.testing.assert_allclose(np.degrees(column["knee_angle_r"]), -bend, atol=1e-6)
    np.testing.assert_allclose(np.degrees(column["knee_angle_l"]), -2.0, atol=1e-6)
    assert motion.provenance["knee"] == "negative, turned round"
    straight = mot.load_mot(write_mot(tmp_path / "b.mot", STANDING | {"knee_angle_r": -5.0}))
    assert straight.provenance["knee"] == "positive"


def test_mirrored_motion_is_the_mirror_image(tmp_path: Path, places: Places):
    rng = np.random.default_rng(3)
    columns = {f"{n}_{s}": rng.uniform(5.0, 25.0) for n in (*mot.LIMBS, *mot.ARM) for s in "rl"}
    columns |= {n: rng.uniform(-10.0, 10.0) for n in (*mot.LUMBAR, *mot.PELVIS[:3])} | dict(zip(mot.PELVIS[3:], (1, 0.9, 0.3),
                                                                                             strict=True))
    motion = mot.load_mot(write_mot(tmp_path / "a.mot", columns))
    ours, mirror = places(motion), places(motion.mirrored())
    for name in ("head", "pelvis", "talus_r", "toes_r", "toes_l", "lunate_r", "lunate_l"):
        other = name[:-1] + {"r": "l", "l": "r"}[name[-1]] if name[-2] == "_" else name
        np.testing.assert_allclose(mirror[other], ours[name] * [-1.0, 1.0, 1.0], atol=2e-3, err_msg=name)


def test_lead_in_is_cut_as_told_only(tmp_path: Path):
    path = write_mot(tmp_path / "a.mot", STANDING | {"hip_flexion_r": np.arange(10.0)}, rows=10)
    assert len(read_capture(path, Options()).qpos) == 10
    cut = read_capture(path, Options(lead_in=3))
    np.testing.assert_allclose(np.degrees(cut.qpos[:, cut.joint_names.index("hip_flexion_r")]), np.arange(3.0, 10.0))
    assert cut.provenance["lead_in"] == 3
    with pytest.raises(CaptureError, match="lead_in=8: 2 frames"):
        read_capture(path, Options(lead_in=8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(degrees=None), "what angles are in.*inDegrees=yes"),
        (dict(told=9), "6 rows where nRows=9.*copy it again"),
        (dict(columns={"ground_force_vx": 1.0}), "no joint angle among its columns .time, ground_force_vx"),
        (dict(columns={}), "no joint angle among its columns .time."),
        (dict(columns={"hip_flexion_r": 1.0, "pelvis_tx": 0.0}), "pelvis_tilt is missing beside pelvis_tx"),
        (dict(columns={"arm_flex_r": 1.0}), "arm_add_r is missing beside arm_flex_r"),
        (dict(columns=STANDING | {"hip_flexion_r": 40.0}, degrees="no"), "hip_flexion_r reaches 40 rad.*inDegrees=yes"),
        (dict(time=[0.0, 0.01, 0.02, 0.02, 0.03, 0.04]), "time does not go on evenly.*fps_in="),
        (dict(time=np.zeros(6)), "time does not go on evenly.*fps_in="),
        (dict(columns=STANDING | {"hip_flexion_r": [0, 0, np.nan, 0, 0, 0]}), "not finite at frame 2"),
        (dict(rows=1), "fewer than two rows"),
        (dict(rows=3), "3 frames; a motion needs at least 4"),
    ],
)
def test_unusable_tables_are_refused(tmp_path: Path, change: dict, message: str):
    path = write_mot(tmp_path / "a.mot", **(dict(columns=STANDING) | change))
    with pytest.raises(CaptureError, match=f"a.mot.*{message}"):
        read_capture(path, Options())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("endheader", "", "no line 'endheader'"),
        ("0.00000000\n", "\n", "row 0 has 10 values for 11 columns"),
        ("0.00000000\n", "zero\n", "could not convert.*copy the file again"),
        ("knee_angle_l", "knee_angle_r", "two columns are named"),
    ],
)
def test_damaged_tables_are_refused(tmp_path: Path, old: str, new: str, message: str):
    path = write_mot(tmp_path / "a.mot", STANDING)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(CaptureError, match=message):
        mot.load_mot(path)


def test_blank_lines_are_passed_over(tmp_path: Path):
    path = write_mot(tmp_path / "a.mot", STANDING)
    path.write_text(path.read_text().replace("endheader\n", "endheader\n\n") + "\n")
    assert len(mot.load_mot(path).qpos) == 6


@needs_run
def test_forces_are_no_motion():
    with pytest.raises(CaptureError, match=r"grf_run\.mot: no joint angle among its columns"):
        mot.load_mot(RUN / "grf_run.mot")


def test_rate_can_be_told(tmp_path: Path):
    assert mot.load_mot(write_mot(tmp_path / "a.mot", STANDING, time=np.zeros(6)), fps_in=60.0).fps == 60.0
    assert mot.load_mot(write_mot(tmp_path / "b.mot", STANDING, fps=59.94)).fps == pytest.approx(59.94, rel=1e-5)
