"""Build hook; everything else about the package stands in setup.cfg."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class CompactMotions(build_py):
    """Compress the built-in motions by LZMA in place of deflate, without loss: 3 MB less, and numpy reads both."""

    def run(self) -> None:
        """See setuptools; an editable installation keeps the files of the checkout."""
        super().run()
        if not self.editable_mode:
            for path in Path(self.build_lib).glob("mm_torch/motion/data/*/*.npz"):
                recompress(path)


def recompress(path: Path) -> None:
    """Write the same npz again, each array compressed by LZMA; its new file replaces the old one in one step."""
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as new:
        for entry in old.infolist():
            new.writestr(zipfile.ZipInfo(entry.filename, entry.date_time), old.read(entry), zipfile.ZIP_LZMA)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(packed.getvalue())
    os.replace(temporary, path)


setup(cmdclass={"build_py": CompactMotions})
