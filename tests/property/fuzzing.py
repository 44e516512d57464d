"""Readers of files and words, a sound input of each, and ways to damage it; for ``test_fuzz.py``."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mm_torch.config.load import RecipeError, load_recipe
from mm_torch.evaluation.rollout_file import SHAPES, Rollout, RolloutError, read_rollout, write_rollout
from mm_torch.motion.clip import Clip, MotionError, bind_activations, bind_to_body, load_clip
from sim_models.registry import load_body
from tests.unit.retargeting.captures import walking_poses, write_amass, write_bvh, write_mapping
from tools.retargeting.asf import read_asf
from tools.retargeting.mot import PELVIS
from tools.retargeting.readers import Options, read_capture
from tools.retargeting.skeleton import CaptureError

NUMBERS = ("nan", "-nan", "inf", "-inf", "1e308", "-1e308", "1e-320", "0", "-1", "2147483648", "9" * 400, "1e999999", "0x10")
WORDS = (
    *NUMBERS, "{", "}", "[", "]", "[" * 3000, "{" * 3000, "}" * 9, "\0", "\u0663", "\ud7ff\uffff", "'", '"', "#", ":", "=",
    "-", "root", "ROOT", "JOINT", "End", "CHANNELS", "OFFSET", "MOTION", "HIERARCHY", "Frames:", "Time:", "begin", "end",
    ":bonedata", "dof", "endheader", "nRows=99999999999", "inDegrees=no", "time", "x" * 5000, "&a", "*a", "&a [*a, *a]",
    "<<:", "??", "???", "null", "${net}", "${oc.env:HOME}", "!!python/object/apply:os.mkdir [mark]", "!!bool x",
    "!!timestamp x", "2001-01-01", "1_0", "true",
)  # fmt: skip


# -- valid inputs -------------------------------------------------------------------------------------------------------
def write_clip(path: Path) -> None:
    body = load_body("toy_arm")
    qpos = 0.1 * np.sin(np.arange(12)[:, None] * 0.1 + np.arange(body.model.nq))
    act = np.full((12, len(body.muscle_names)), 0.2)
    Clip.from_qpos(body, qpos, 100.0, provenance={"source": "made here"}, act=act).save(path)


def use_clip(path: Path) -> None:
    clip, body = load_clip(path), load_body("toy_arm")
    assert np.isfinite(bind_to_body(clip, body)).all()
    bind_activations(clip, body)


def write_upstream(path: Path) -> None:
    body = load_body("toy_arm")
    np.savez(path, qpos=np.zeros((12, body.model.nq), np.float32), qvel=np.zeros((12, body.model.nv)), frequency=100.0,
             joint_names=np.array(body.joint_names), split_points=np.array([0, 12]), site_names=np.array(["hand"]),
             site_xpos=np.zeros((12, 1, 3)))


def write_walk(path: Path) -> None:
    sizes, rng = {"F": 5, "Q": 9, "V": 8, "J": 2, "M": 3, "S": 4}, np.random.default_rng(0)
    arrays = {n: rng.normal(size=[sizes.get(x, x) for x in shape]) for n, shape in SHAPES.items()}
    write_rollout(path, Rollout(
        kind="rollout", body="toy", clip="walk", source="last.ckpt", control_rate=100.0, mass_kg=84.27, fingers=True,
        joint_names=("knee", "hip"), muscle_names=("a", "b", "c"), site_names=("p", "q", "r", "s"), **arrays))


def write_poses(path: Path) -> None:
    write_amass(path, *walking_poses(8, 60.0), 60.0)


def write_trajectory(path: Path) -> None:
    qpos = np.zeros((8, 9))
    qpos[:, 2:4] = 0.9, 1.0
    np.savez(path, qpos=qpos, joint_names=np.array(["root", "knee_angle_r", "hip_flexion_r"]), jnt_type=np.array([0, 3, 3]),
             frequency=np.float64(100.0), split_points=np.array([0, 8]))


def write_table(path: Path) -> None:
    names = ["time", *PELVIS, "hip_flexion_r", "knee_angle_r", "arm_flex_r", "arm_add_r", "arm_rot_r", "lumbar_extension"]
    rows = [[f"{0.01 * k:.8f}", *(f"{0.1 * i + k:.8f}" for i in range(3)), "0.1", "0.9", "0.2",
             *(f"{k + i}.5" for i in range(6))] for k in range(6)]
    header = ["Coordinates", "version=1", "nRows=6", f"nColumns={len(names)}", "inDegrees=yes", "endheader"]
    path.write_text("\n".join([*header, "\t".join(names), *("\t".join(row) for row in rows)]) + "\n")


DOWN, UP, FORWARD = (0, -1, 0), (0, 1, 0), (0, 0, 1)
LIMBS = {  # bone: parent (side left out), direction, length in units
    "hipjoint": ("root", DOWN, 1), "femur": ("hipjoint", DOWN, 7), "tibia": ("femur", DOWN, 7),
    "foot": ("tibia", FORWARD, 2), "toes": ("foot", FORWARD, 1), "clavicle": ("thorax", UP, 3),
    "humerus": ("clavicle", None, 5), "radius": ("humerus", None, 4), "wrist": ("radius", None, 1),
    "hand": ("wrist", None, 1),
}  # fmt: skip


def skeleton() -> str:
    bones = {"thorax": ("root", UP, 6)}
    for side, out in (("l", (1, 0, 0)), ("r", (-1, 0, 0))):
        for bone, (parent, direction, length) in LIMBS.items():
            bones[side + bone] = (parent if parent in ("root", "thorax") else side + parent, direction or out, length)
    data = [f"begin\n id 1\n name {name}\n direction {' '.join(map(str, d))}\n length {n}\n axis 0 0 20 XYZ\n dof rx ry\nend"
            for name, (_, d, n) in bones.items()]
    tree = "\n".join(f"{parent} {name}" for name, (parent, *_) in bones.items())
    return (":version 1.10\n:units\n mass 1.0\n length 0.45\n angle deg\n:root\n order TX TY TZ RX RY RZ\n:bonedata\n"
            + "\n".join(data) + f"\n:hierarchy\nbegin\n{tree}\nend\n")


def motion() -> str:
    sides = [f"{side}{bone} {{0}} 5" for side in "lr" for bone in ("femur", "tibia", "humerus")]
    frames = [f"{k + 1}\nroot 0 16 {0.1 * k} 0 {k} 0\n" + "\n".join(sides).format(k) for k in range(6)]
    return ":FULLY-SPECIFIED\n:DEGREES\n" + "\n".join(frames) + "\n"


def use_skeleton(path: Path) -> None:
    """The skeleton alone, then a motion with it."""
    read_asf(path)
    path.with_name("fine_01.amc").write_text(motion())
    read_capture(path.with_name("fine_01.amc"), Options(asf=path))


def use_motion(path: Path) -> None:
    path.with_name("fine.asf").write_text(skeleton())
    read_capture(path, Options(asf=path.with_name("fine.asf")))


def use_bvh(path: Path) -> None:
    for rest in ("zero", "none"):
        rig = path.with_name(f"rig_{rest}.yaml")
        if not rig.exists():
            write_mapping(rig, unit="m", up="y", rest=rest)
        read_capture(path, Options(mapping=rig))


def use_rig(path: Path) -> None:
    figure = path.with_name("fine.bvh")
    if not figure.exists():
        write_bvh(figure, frames=6)
    read_capture(figure, Options(mapping=path))


RECIPE = """base: toy_arm
num_envs: 16
task:
  reward: &terms
    qpos: {weight: 1.0, scale: 2.0}
ppo: {rollout_steps: 32, minibatches: 4}
net: {hidden: [32, 32]}
profiles:
  cpu: {threads: 1}
"""
WORDS_OF_A_RUN = "recipe=toy_arm num_envs=16 ppo.rollout_steps=32 ppo.minibatches=4 net.hidden=[32,32] task.action.offset=0.2"


def use_words(path: Path) -> None:
    load_recipe(path.read_text(encoding="utf-8", errors="replace").split(), cuda_available=False)


@dataclass(frozen=True)
class Case:
    """A reader: how a valid file is written, how one is read, and the one error that may leave."""

    suffix: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    error: type[Exception]


def written(text: Callable[[], str]) -> Callable[[Path], object]:
    return lambda path: path.write_text(text())


def capture(path: Path) -> None:
    read_capture(path, Options())


CASES = {
    "clip": Case(".npz", write_clip, use_clip, MotionError),
    "clip of MuscleMimic": Case(".npz", write_upstream, use_clip, MotionError),
    "rollout": Case(".npz", write_walk, read_rollout, RolloutError),
    "AMASS": Case(".npz", write_poses, capture, CaptureError),
    "Trajectory": Case(".npz", write_trajectory, capture, CaptureError),
    "OpenSim": Case(".mot", write_table, capture, CaptureError),
    "ASF": Case(".asf", written(skeleton), use_skeleton, CaptureError),
    "AMC": Case(".amc", written(motion), use_motion, CaptureError),
    "BVH": Case(".bvh", partial(write_bvh, frames=6), use_bvh, CaptureError),
    "BVH mapping": Case(".yaml", partial(write_mapping, unit="m", up="y"), use_rig, CaptureError),
    "recipe": Case(".yaml", written(lambda: RECIPE),
                   lambda path: load_recipe([f"recipe={path}"], cuda_available=False), RecipeError),
    "command line": Case(".txt", written(lambda: WORDS_OF_A_RUN), use_words, RecipeError),
}


# -- damage -------------------------------------------------------------------------------------------------------------
def place(rng: np.random.Generator, length: int) -> int:
    return int(rng.integers(max(length, 1)))


def damage_bytes(rng: np.random.Generator, content: bytes) -> bytes:
    """Cut off, bits turned, a stretch blanked, repeated or taken out."""
    start, data = place(rng, len(content)), bytearray(content)
    stretch = slice(start, start + place(rng, 64) + 1)
    match rng.integers(6):
        case 0:
            return content[:start]
        case 1:
            for _ in range(1 + place(rng, 8)):
                data[place(rng, len(data))] ^= 1 << place(rng, 8)
        case 2:
            data[stretch] = bytes([rng.choice([0, 255, 32, 57])]) * len(data[stretch])
        case 3:
            data[start:start] = data[stretch]
        case 4:
            del data[stretch]
        case 5:
            data += data[stretch] * 3
    return bytes(data)


def damage_text(rng: np.random.Generator, content: bytes) -> bytes:
    """Lines and words lost, doubled, exchanged or replaced."""
    if rng.random() < 0.25:
        return damage_bytes(rng, content)
    unit = " " if b"\n" not in content or rng.random() < 0.7 else "\n"
    lines = content.decode().split("\n")
    row = place(rng, len(lines))
    parts = lines[row].split() if unit == " " else lines
    for _ in range(1 + place(rng, 3)):
        if not parts:
            break
        k, other = place(rng, len(parts)), place(rng, len(parts))
        match rng.integers(5):
            case 0:
                del parts[k]
            case 1:
                parts.insert(other, parts[k])
            case 2:
                parts[k], parts[other] = parts[other], parts[k]
            case 3:
                parts[k] = str(rng.choice(WORDS))
            case 4:
                head, sign, _ = parts[k].partition("=" if "=" in parts[k] else ":")
                parts[k] = head + sign + str(rng.choice(WORDS))
    if unit == " ":
        indent = lines[row][: len(lines[row]) - len(lines[row].lstrip())]
        lines[row] = indent + " ".join(parts)
    return "\n".join(lines if unit == " " else parts).encode(errors="replace")


def odd(rng: np.random.Generator, value: np.ndarray) -> np.ndarray:
    """An array that no longer is what it was."""
    number = value.dtype.kind in "biuf"
    changed = value.astype(float) if number else value.copy()
    if number and value.size:
        changed.reshape(-1)[place(rng, value.size)] = rng.choice([np.nan, np.inf, -np.inf, 1e300, -1e300, 1e-320, 0.0, -1.0])
    one = value.reshape(-1)[:1]
    kinds: list[Callable[[], np.ndarray]] = [
        lambda: changed, lambda: changed, lambda: value[None], lambda: value.reshape(-1), lambda: value[..., None],
        lambda: value.reshape(-1)[:0], lambda: one, lambda: value[: len(value) // 2] if value.ndim else value[None],
        lambda: value.T, lambda: value.astype(object), lambda: value.astype(str), lambda: value.astype("S"),
        lambda: np.zeros(value.shape, complex), lambda: np.zeros(value.shape, "M8[s]"), lambda: -changed if number else value,
        lambda: np.zeros(value.shape, [("a", "f8")]), lambda: np.full(value.shape, 1e9), lambda: np.zeros(value.shape, "i1"),
        lambda: np.array(["\ud800"]), lambda: np.frombuffer(b"\xff\xff\xff\x7f", "<U1"), lambda: np.array("[" * 5000),
        lambda: np.zeros((0, 0)), lambda: np.concatenate([value, value]) if value.ndim else value, lambda: np.array("{}"),
        lambda: one.repeat(3),
    ]  # fmt: skip
    with np.errstate(all="ignore"):
        return kinds[place(rng, len(kinds))]()


def npy(value: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(value))
    return file.getvalue()


def header(text: str, version: int = 1, length: int | None = None) -> bytes:
    raw = text.encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", length or len(raw)) + raw


OUTSIDE = ["../../mark", "/mark", "a/../../mark", "metadata", "\x01", "C:\\mark"]
SHAPE = "{{'descr': '{}', 'fortran_order': {}, 'shape': {}, }}\n"
SHAPES_TOLD = ("(1000000000000,)", "(99999999999, 99999999999)", "(-1,)", "(0, 99999999999)", "(1,2,3,4,5,6,7,8)", "3", "()",
               "(3L, 3L)", "(" * 500)
TYPES_TOLD = ("<f3", "|O", "<U999999999", "<U0", "|V8", "<M8", "<c16", "bad", "<f99999")
HEADERS = (
    *(header(SHAPE.format("<f8", False, shape)) for shape in SHAPES_TOLD),
    *(header(SHAPE.format(dtype, True, "(3, 3)")) for dtype in TYPES_TOLD),
    header("[" * 5000), header("{[]: 1}"), header(""), header("{}", 2), header("{}", 9), header("{}", 3, 2**31), b"",
    b"\x93NUMPY",
)  # fmt: skip


def damage_npz(rng: np.random.Generator, content: bytes) -> bytes:
    """Damaged bytes, or a sound archive with entries lost, odd, doubled or headed by lies."""
    if rng.random() < 0.3:
        return damage_bytes(rng, content)
    with np.load(io.BytesIO(content)) as file:
        entries = {name: npy(file[name]) for name in file.files}
        name = str(rng.choice(file.files))
        value = file[name]
    extra: list[tuple[str, bytes]] = []
    match rng.choice(6, p=[0.1, 0.6, 0.15, 0.05, 0.05, 0.05]):
        case 0:
            del entries[name]
        case 1:
            entries[name] = npy(odd(rng, value))
        case 2:
            entries[name] = HEADERS[place(rng, len(HEADERS))] + bytes(place(rng, 80))
        case 3:
            extra.append((name, entries[name]))
        case 4:
            extra.append((str(rng.choice(OUTSIDE)), entries[name]))
        case 5:
            entries[name] = damage_bytes(rng, entries[name])
    packed = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w", rng.choice([0, 8, 12, 14])) as archive:
        warnings.simplefilter("ignore")  # names that stand there twice
        for key, data in [*entries.items(), *extra]:
            archive.writestr(f"{key}.npy", data)
    return packed.getvalue()
