"""Put `espnet_hkd_autoload.pth` into the wheel; all else stands in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PTH = "espnet_hkd_autoload.pth"


class BuildWithPth(build_py):
    """setuptools has no place for a file at the root of site-packages."""

    def run(self):
        super().run()
        root = Path(self._site_packages())
        root.mkdir(parents=True, exist_ok=True)
        self.copy_file(PTH, str(root / PTH), preserve_mode=False)

    def _site_packages(self):
        # An editable wheel leaves the modules where they are and has no build_lib;
        # its root is where the install command would put files.
        if self.editable_mode:
            return self.get_finalized_command("install").install_lib
        return self.build_lib

    def get_source_files(self):
        return [*super().get_source_files(), PTH]

    def get_outputs(self, include_bytecode=True):
        outputs = super().get_outputs(include_bytecode)
        return [*outputs, str(Path(self._site_packages()) / PTH)]


setup(cmdclass={"build_py": BuildWithPth})
