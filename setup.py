"""Build hooks; everything else about the package stands in setup.cfg."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

DERIVED = {"site_xpos.npy", "site_xquat.npy"}  # of the built-in motions; follow from qpos and the body


class CompactMotions(build_py):
    """Write the built-in motions again without what is derived, compressed by LZMA: 5 MB less, and numpy reads both."""

    def run(self) -> None:
        """See setuptools; an editable installation keeps the files of the checkout."""
        super().run()
        if not self.editable_mode:
            for path in Path(self.build_lib).glob("mm_torch/motion/data/*/*.npz"):
                compact(path)


def compact(path: Path) -> None:
    """Write the same npz again without ``DERIVED``, each array compressed by LZMA; replaced in one step."""
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as new:
        for entry in (e for e in old.infolist() if e.filename not in DERIVED):
            new.writestr(zipfile.ZipInfo(entry.filename, entry.date_time), old.read(entry), zipfile.ZIP_LZMA)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(packed.getvalue())
    os.replace(temporary, path)


# The recipes lie beside the packages and are installed inside one, so that no top-level name but the packages' is taken.
setup(
    cmdclass={"build_py": CompactMotions},
    packages=[
        *find_namespace_packages(include=["mm_torch*", "sim_models*"], exclude=["mm_torch.motion.data*"]),
        "mm_torch.recipes", "mm_torch.recipes.splits",
    ],
    package_dir={"mm_torch.recipes": "recipes"},
)
