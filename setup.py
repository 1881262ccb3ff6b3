"""Put the `.pth` file and the recipes into the wheel; all else is in pyproject.toml."""

import ast
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PTH = "espnet_hkd_autoload.pth"
COPY = Path("espnet_hkd/recipes/copy.py")


def constant(name: str) -> tuple[str, ...]:
    """A constant of COPY, which cannot be imported where only setuptools is."""
    for node in ast.parse(COPY.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise LookupError(f"{COPY} has no {name}")


def recipe_files() -> list[Path]:
    """The files of all recipes, without what running them has made."""
    left_out = set(constant("LEFT_OUT"))
    files = []
    for recipe in sorted(Path("egs2").glob("*_hkd/asr1")):
        for part in (recipe / name for name in constant("PARTS")):
            if part.is_dir():
                inside = sorted(path for path in part.rglob("*") if path.is_file())
                files += [
                    p for p in inside if not left_out & {*p.relative_to(part).parts}
                ]
            elif part.is_file():
                files.append(part)
    return files


class Build(build_py):
    """setuptools has no place for these files: they lie outside the package.

    An editable wheel has the `.pth` file only; there the recipes are read from the
    checkout.
    """

    def run(self):
        super().run()
        for source, target in self._files().items():
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(source), str(target))

    def _files(self) -> dict[Path, Path]:
        if self.editable_mode:
            # It has no build_lib; its root is where the install command puts files.
            root = Path(self.get_finalized_command("install").install_lib)
            return {Path(PTH): root / PTH}
        root = Path(self.build_lib)
        inside = root / COPY.parent
        return {Path(PTH): root / PTH, **{p: inside / p for p in recipe_files()}}

    def get_source_files(self):
        return [*super().get_source_files(), PTH, *map(str, recipe_files())]

    def get_outputs(self, include_bytecode=True):
        outputs = super().get_outputs(include_bytecode)
        return [*outputs, *map(str, self._files().values())]


setup(cmdclass={"build_py": Build})
