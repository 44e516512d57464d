"""The bodies: sizes, simulator options, couplings, joint ranges, mirroring, groups and the neutral pose."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from sim_models.embodiment import Embodiment
from sim_models.kinematics import bare_model, lowest_sole, reference_velocity, site_motion
from sim_models.registry import BODIES, load_body

VARIANTS = [("myo_fullbody", False), ("myo_fullbody", True), ("myo_bimanual", False), ("myo_bimanual", True),
            ("toy_arm", False)]
IDS = [f"{name}{'_fingers' if fingers else ''}" for name, fingers in VARIANTS]
every_body = pytest.mark.parametrize("body", VARIANTS, ids=IDS, indirect=True)


@pytest.fixture
def body(request: pytest.FixtureRequest) -> Embodiment:
    return load_body(*request.param)


def random_poses(body: Embodiment, count: int, seed: int = 0) -> np.ndarray:
    """Poses (count, Q) inside the feasible ranges, couplings satisfied, root anywhere."""
    rng = np.random.default_rng(seed)
    qpos = np.repeat(body.neutral_qpos[None], count, axis=0)
    for joint in body.independent_hinges:
        low, high = body.joint_ranges[joint]
        if np.isfinite([low, high]).all():
            qpos[:, body.model.jnt_qposadr[joint]] = rng.uniform(low, high, count)
    if body.free_root:
        qpos[:, :3] = rng.normal(size=(count, 3))
        quat = rng.normal(size=(count, 4))
        qpos[:, 3:7] = quat / np.linalg.norm(quat, axis=1, keepdims=True)
    return body.couplings.enforce(qpos)


SIZES = {  # nq, nv, muscles, sites, couplings, independent dof, kg
    "myo_fullbody": (89, 88, 354, 17, 51, 37, 84.27),
    "myo_fullbody_fingers": (129, 128, 416, 17, 51, 77, 84.27),
    "myo_bimanual": (36, 36, 64, 7, 22, 14, 16.53),
    "myo_bimanual_fingers": (76, 76, 126, 7, 22, 54, 16.53),
    "toy_arm": (2, 2, 6, 3, 0, 2, 8.0),
}


@pytest.mark.parametrize(("body", "name"), list(zip(VARIANTS, IDS, strict=True)), ids=IDS, indirect=["body"])
def test_sizes(body: Embodiment, name: str) -> None:
    m = body.model
    sizes = (m.nq, m.nv, m.nu, len(body.site_names), len(body.couplings.dependent_qpos),
             len(body.couplings.independent_dof))
    assert sizes == SIZES[name][:-1]
    assert m.body_mass.sum() == pytest.approx(SIZES[name][-1], abs=0.01)
    assert m.na == m.nu and len(body.joint_names) == m.njnt


@every_body
def test_options_are_those_of_training(body: Embodiment) -> None:
    option = body.model.opt
    assert option.timestep == 0.002 and body.control_dt == pytest.approx(0.01)
    assert option.integrator == mujoco.mjtIntegrator.mjINT_EULER
    assert option.solver == mujoco.mjtSolver.mjSOL_NEWTON
    assert (option.iterations, option.ls_iterations) == (4, 8)
    for flag in (mujoco.mjtDisableBit.mjDSBL_EULERDAMP, mujoco.mjtDisableBit.mjDSBL_AUTORESET):
        assert option.disableflags & flag


@every_body
def test_every_muscle_takes_excitations_from_0_to_1(body: Embodiment) -> None:
    assert body.model.actuator_ctrllimited.all()
    assert (body.model.actuator_ctrlrange == [0.0, 1.0]).all()


@every_body
def test_groups_hold_every_muscle_once(body: Embodiment) -> None:
    ids = np.concatenate(list(body.muscle_groups.values()))
    assert sorted(ids) == list(range(body.model.nu))
    sizes = {name: len(group) for name, group in body.muscle_groups.items()}
    for name, size in sizes.items():
        partner = name.replace("left", "right") if "left" in name else name.replace("right", "left")
        assert sizes[partner] == size


@every_body
def test_no_velocity_sensor_is_left(body: Embodiment) -> None:
    unread = (mujoco.mjtSensor.mjSENS_FRAMELINVEL, mujoco.mjtSensor.mjSENS_FRAMEANGVEL)
    assert not np.isin(body.model.sensor_type, unread).any()


# -- couplings --------------------------------------------------------------------------------------------------------
@every_body
def test_couplings_hold_exactly_once_enforced(body: Embodiment) -> None:
    qpos = np.random.default_rng(1).uniform(-1, 1, (5, body.model.nq))
    enforced = body.couplings.enforce(qpos)
    assert np.abs(body.couplings.residual(enforced)).max(initial=0.0) == 0.0
    if len(body.couplings.dependent_qpos):
        assert np.abs(body.couplings.residual(qpos)).max() > 1e-3
        assert not np.array_equal(qpos, enforced)


@pytest.mark.parametrize("body", VARIANTS[:4:2], ids=IDS[:4:2], indirect=True)
def test_couplings_are_what_the_simulator_constrains(body: Embodiment) -> None:
    data = mujoco.MjData(body.model)
    data.qpos[:] = random_poses(body, 1)[0]
    mujoco.mj_forward(body.model, data)
    equality = data.efc_type == mujoco.mjtConstraint.mjCNSTR_EQUALITY
    assert equality.sum() == len(body.couplings.dependent_qpos)
    assert np.abs(data.efc_pos[equality]).max() < 1e-12


@every_body
def test_coupling_jacobian_matches_finite_differences(body: Embodiment) -> None:
    couplings, model, step = body.couplings, body.model, 1e-6
    qpos = random_poses(body, 1, seed=2)[0]
    jacobian = couplings.jacobian(qpos)
    assert jacobian.shape == (model.nv, len(couplings.independent_dof))
    numeric = np.zeros(jacobian.shape[::-1])
    for column, dof in enumerate(couplings.independent_dof):
        sides = []
        for sign in (-1, 1):
            velocity, moved = np.zeros(model.nv), qpos.copy()
            velocity[dof] = sign
            mujoco.mj_integratePos(model, moved, velocity, step)
            sides.append(couplings.enforce(moved))
        mujoco.mj_differentiatePos(model, numeric[column], 2 * step, *sides)
    np.testing.assert_allclose(jacobian, numeric.T, atol=1e-7)


@every_body
def test_enforced_velocity_is_what_the_jacobian_makes(body: Embodiment) -> None:
    couplings = body.couplings
    qpos = random_poses(body, 4, seed=3)
    qvel = np.random.default_rng(3).normal(size=(4, body.model.nv))
    expected = np.einsum("nvd,nd->nv", couplings.jacobian(qpos), qvel[:, couplings.independent_dof])
    np.testing.assert_allclose(couplings.enforce_velocity(qpos, qvel), expected, atol=1e-12)


def test_a_chain_of_couplings_is_refused() -> None:
    from sim_models.couplings import Couplings

    joints = "".join(f"<body><joint name='{n}' axis='0 1 0'/><geom size='.1' pos='.1 0 0'/></body>" for n in "abc")
    text = (f"<mujoco><worldbody>{joints}</worldbody><equality><joint joint1='a' joint2='b'/>"
            "<joint joint1='b' joint2='c'/></equality></mujoco>")
    with pytest.raises(ValueError, match="chains of couplings"):
        Couplings.from_model(mujoco.MjModel.from_xml_string(text))


# -- ranges -----------------------------------------------------------------------------------------------------------
def test_ranges_are_cut_where_a_coupled_joint_would_leave_its_own() -> None:
    body = load_body("myo_fullbody")
    ranges = {name: body.joint_ranges[j] for j, name in enumerate(body.joint_names)}
    np.testing.assert_allclose(ranges["flex_extension"], [-1.01, 0.458], atol=0.005)
    for side in "rl":
        assert ranges[f"elv_angle_{side}"][1] == pytest.approx(2.243, abs=0.002)
        assert ranges[f"shoulder_elv_{side}"][1] == pytest.approx(3.103, abs=0.002)


@every_body
def test_feasible_poses_keep_every_joint_within_its_range(body: Embodiment) -> None:
    qpos = random_poses(body, 50, seed=4)
    limited = body.hinge_ids[body.model.jnt_limited[body.hinge_ids].astype(bool)]
    values, (low, high) = qpos[:, body.model.jnt_qposadr[limited]], body.model.jnt_range[limited].T
    assert (values >= low - 1.1e-3).all() and (values <= high + 1.1e-3).all()


# -- left and right ---------------------------------------------------------------------------------------------------
@every_body
def test_mirroring_twice_changes_nothing(body: Embodiment) -> None:
    qpos = random_poses(body, 4, seed=5)
    qvel = np.random.default_rng(5).normal(size=(4, body.model.nv))
    assert np.array_equal(body.mirror_qpos(body.mirror_qpos(qpos)), qpos)
    assert np.array_equal(body.mirror_qvel(body.mirror_qvel(qvel)), qvel)
    for partners in (body.mirror_sites, body.mirror_muscles, body.mirror_joints[0]):
        assert np.array_equal(partners[partners], np.arange(len(partners)))


@every_body
def test_mirrored_pose_puts_the_sites_where_a_mirror_shows_them(body: Embodiment) -> None:
    qpos = random_poses(body, 8, seed=6)
    position, mirrored = (
        site_motion(body, q, np.zeros((8, body.model.nv))).position for q in (qpos, body.mirror_qpos(qpos))
    )
    if not body.free_root:  # a fixed root need not stand on the mirror plane
        position, mirrored = position - position[:, :1], mirrored - mirrored[:, :1]
    expected = np.empty_like(position)
    expected[:, body.mirror_sites] = position * np.where(np.arange(3) == body.lateral_axis, -1.0, 1.0)
    np.testing.assert_allclose(mirrored, expected, atol=2.5e-3)  # the published bodies are that symmetric
    assert np.abs(position - mirrored).max() > 0.05 or body.name == "toy_arm"


@every_body
def test_mirrored_poses_satisfy_the_couplings(body: Embodiment) -> None:
    mirrored = body.mirror_qpos(random_poses(body, 8, seed=7))
    assert np.abs(body.couplings.residual(mirrored)).max(initial=0.0) < 1e-6


@every_body
def test_mirrored_velocity_is_the_velocity_of_the_mirrored_motion(body: Embodiment) -> None:
    start = random_poses(body, 1, seed=8)[0]
    velocity = body.couplings.enforce_velocity(start, np.random.default_rng(8).normal(size=body.model.nv))
    later = start.copy()
    mujoco.mj_integratePos(body.model, later, velocity, 1e-6)
    moved = reference_velocity(body, body.mirror_qpos(np.stack([start, later])), 1e-6)[0]
    np.testing.assert_allclose(body.mirror_qvel(velocity), moved, atol=1e-6)


# -- neutral pose, identity -------------------------------------------------------------------------------------------
@every_body
def test_neutral_pose_is_feasible_and_stands_on_the_floor(body: Embodiment) -> None:
    qpos = body.neutral_qpos
    assert np.abs(body.couplings.residual(qpos)).max(initial=0.0) == 0.0
    joints = body.independent_hinges
    low, high = body.joint_ranges[joints].T
    values = qpos[body.model.jnt_qposadr[joints]]
    assert (values >= low).all() and (values <= high).all()
    if body.free_root:
        assert lowest_sole(body, qpos) == pytest.approx(0.0, abs=1e-9)
        data = mujoco.MjData(body.model)
        data.qpos[:] = qpos
        mujoco.mj_kinematics(body.model, data)
        height = dict(zip(body.site_names, data.xpos[body.site_body_ids, 2], strict=True))
        assert height["head_mimic"] > height["pelvis_mimic"] > height["left_knee_mimic"] > 0.3


def test_site_velocities_are_derivatives_of_site_positions() -> None:
    body = load_body("myo_fullbody")
    start, step = random_poses(body, 1, seed=9)[0], 1e-6
    velocity = body.couplings.enforce_velocity(start, np.random.default_rng(9).normal(size=body.model.nv))
    before, after = start.copy(), start.copy()
    mujoco.mj_integratePos(body.model, before, velocity, -step)
    mujoco.mj_integratePos(body.model, after, velocity, step)
    sites = site_motion(body, np.stack([before, start, after]), np.stack([velocity] * 3))
    numeric = (sites.position[2] - sites.position[0]) / (2 * step)
    np.testing.assert_allclose(sites.velocity[1, :, 3:], numeric, atol=1e-5)


@every_body
def test_the_bare_model_moves_as_the_whole_one(body: Embodiment) -> None:
    rng, found = np.random.default_rng(2), []
    velocity, acceleration = rng.normal(size=(2, body.model.nv))
    for model in (body.model, bare_model(body)):
        data, force = mujoco.MjData(model), np.zeros(model.nv)
        data.qpos[:], data.qvel[:], data.qacc[:] = random_poses(body, 1, seed=3)[0], velocity, acceleration
        for stage in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_comVel):
            stage(model, data)
        mujoco.mj_rne(model, data, 1, force)
        found.append(np.concatenate([data.xpos.ravel(), data.xquat.ravel(), data.cvel.ravel(), force]))
    np.testing.assert_allclose(*found, rtol=1e-12, atol=1e-12)
    assert bare_model(body).nsite == 0 < body.model.nsite


def test_hash_tells_bodies_and_fingers_apart() -> None:
    hashes = {load_body(*variant).model_hash for variant in VARIANTS}
    assert len(hashes) == len(VARIANTS)
    assert BODIES["toy_arm"]().model_hash == load_body("toy_arm").model_hash


def test_unknown_body_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown body 'myo_fulbody'.*did you mean 'myo_fullbody'") as error:
        load_body("myo_fulbody")
    assert "\n" not in str(error.value)
