"""Gait report: ``python tools/gait_report.py FILE... [out=DIR] [norm=walking|running] [key=value ...]``.

Compares walking or running with published measurements of people. FILE is a rollout (``python -m mm_torch.evaluate
rollouts=true``), a clip, an OpenSim table of joint angles (.mot, .sto), or ``norm:walking`` or ``norm:running``, the
published curves themselves played on the body. Writes ``out/report.html``, which needs nothing else, ``report.json``, and
a CSV of every table and of the curves and a PNG of every figure beside it: time and distance figures, angles of hip,
knee, ankle and pelvis over the cycle, ground reaction, moments and powers, excitations against EMG. What a file does not
hold is left out, and the report says so.

Exit status: 0 written, 2 a file or an option cannot be used.

Settings:
  out=DIR
      directory of the report, made where it is missing (default gait_report)
  norm=walking|running
      norms to compare with; otherwise those of the gait that the files show
  joints=NAME,...
      quantities to show (hip_flexion, knee_angle, force_vertical, ...); otherwise all
  muscles=NAME,...
      muscles to show (soleus, tibialis anterior, ...); otherwise all that have a known EMG window
  reference=PATH
      measured cycles that take the place of the built-in bands: a file, pattern or directory of Gait120 (.mot;
      ConvertedData.mat), Fukuchi's ...ang.txt or ...processed.txt, or OpenSim tables of one cycle

Examples:
  python tools/gait_report.py rollouts/walk.npz out=report
  python tools/gait_report.py clips/07_01.npz clips/02_01.npz norm=walking out=cmu
  python tools/gait_report.py norm:walking out=selftest
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from mm_torch.config.load import RecipeError
from mm_torch.config.options import read_options
from mm_torch.motion.clip import MotionError
from sim_models.registry import BodyError
from tools.analysis.norm_tables import GaitError
from tools.analysis.page import write_report
from tools.analysis.references import read_references
from tools.analysis.study import study
from tools.analysis.trial import read_trials
from tools.retargeting.skeleton import CaptureError

OPTIONS = {"out": "gait_report", "norm": "", "joints": "", "muscles": "", "reference": ""}


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        print((__doc__ or "").strip())
        return 0
    try:
        options = read_options([a for a in arguments if "=" in a], OPTIONS)
        start = time.perf_counter()
        references = read_references(Path(options["reference"])) if options["reference"] else None
        trials = read_trials([Path(a) for a in arguments if "=" not in a])
        result = study(trials, options["norm"], options["joints"], options["muscles"], references)
        files = write_report(result, Path(options["out"]))
    except (RecipeError, MotionError, CaptureError, BodyError, GaitError) as error:
        print(f"gait_report: {error}", file=sys.stderr)
        return 2
    for sentence in result.left_out:
        print(f"note: {sentence}")
    strides = sum(len(r.strides) for r in result.results)
    told = f"mean r of hip, knee, ankle {result.mean_r:.3f}" if np.isfinite(result.mean_r) else "speed mismatch, no mean r"
    print(f"{len(trials)} file(s), {strides} strides of {result.gait}, {told}; {time.perf_counter() - start:.1f} s: "
          f"{', '.join(str(f) for f in files)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
