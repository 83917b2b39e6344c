"""Run by mkdocs-gen-files during a build: writes the generated pages into the site, never into the source tree."""

from __future__ import annotations

import sys
from pathlib import Path

import mkdocs_gen_files

sys.path.insert(0, str(Path(__file__).parent))

import gen_mappings
import gen_references
import gen_transformers

for name, text in {
    "api/mappings.md": gen_mappings.page(),
    "api/transformers.md": gen_transformers.page(),
    "references.md": gen_references.page(gen_references.references()),
}.items():
    with mkdocs_gen_files.open(name, "w") as file:
        file.write(text)
