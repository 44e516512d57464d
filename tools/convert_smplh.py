"""A body model of the SMPL family to the file that smplh_model= takes: ``python tools/convert_smplh.py MODEL out=FILE``.

MODEL is the extended SMPL+H model of AMASS (``neutral/model.npz``, 16 shape coefficients), ``SMPLH_MALE.pkl`` or
``SMPLH_FEMALE.pkl`` of MANO v1.2 (10 coefficients), or an SMPL or SMPL-X model, as npz or pkl. Pickles are read without
running what they name, so neither chumpy nor scipy is needed. FILE holds joints and their shape basis, no surface, about
20 kB; it derives from the licensed model and must not be passed on. Other settings:

  gender=neutral|male|female    whose body it is; otherwise from the path of MODEL

Exit status: 0 written, 2 not.

Example: python tools/convert_smplh.py smplh/neutral/model.npz out=smplh.npz
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.retargeting.body_model import DOWNLOAD, FULL, BodyModel, load_arrays, reduce_model, save_body_model
from tools.retargeting.model_pickle import read_model_pickle
from tools.retargeting.skeleton import CaptureError

USE = "use convert_smplh.py MODEL out=FILE.npz [gender=neutral|male|female]"
GENDERS = ("neutral", "female", "male")


def named_gender(path: Path) -> str:
    """Gender that a path names in its last folder or file (``neutral/model.npz``, ``SMPLH_MALE.pkl``), else ``unknown``."""
    words = re.split(r"[^a-z]+", f"{path.parent.name} {path.stem}".lower())
    return next((gender for gender in GENDERS if gender in words), "unknown")


def convert(source: Path, out: Path, gender: str | None = None) -> BodyModel:
    """Reduce a model file to its joints and write them.

    Args:
        source: the licensed model, npz or pkl.
        out: npz to write; an older one is replaced.
        gender: whose body it is; None: as the path says.

    Raises:
        CaptureError: the source is missing, refused, or no body model, or ``out`` would overwrite it.
    """
    if not source.is_file():
        raise CaptureError(f"{source}: no such file; {DOWNLOAD}")
    if out.suffix != ".npz" or (out.exists() and out.samefile(source)):
        raise CaptureError(f"out={out}: give another file that ends with .npz")
    data = source.read_bytes()
    zipped = data.startswith(b"PK")  # an npz is a zip archive
    arrays = load_arrays(source, FULL) if zipped else read_model_pickle(data, str(source), FULL)
    if missing := [name for name in FULL if name not in arrays]:
        raise CaptureError(f"{source}: {missing[0]} is missing, so it is no full body model; {DOWNLOAD}")
    model = reduce_model(arrays, str(source), gender or named_gender(source))
    save_body_model(out, model, hashlib.sha256(data).hexdigest())
    return model


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        print((__doc__ or "").strip())
        return 0
    sources = [a for a in arguments if not a.startswith(("out=", "gender="))]
    given = dict(a.split("=", 1) for a in arguments if a not in sources)
    if len(sources) != 1 or not given.get("out") or given.get("gender", GENDERS[0]) not in GENDERS:
        print(f"convert_smplh: {USE}", file=sys.stderr)
        return 2
    out = Path(given["out"])
    try:
        model = convert(Path(sources[0]), out, given.get("gender"))
    except CaptureError as error:
        print(f"convert_smplh: {error}", file=sys.stderr)
        return 2
    print(f"{out}: {model.family}, {model.gender}, {len(model.parents)} joints, {model.shapes.shape[-1]} shape coefficients, "
          f"{out.stat().st_size / 1000:.0f} kB; use it with smplh_model={out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
