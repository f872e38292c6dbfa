"""A corpus on disk: built once in bounded memory, then opened read-only by many processes."""

from visual_arft.envs.search.index.build import build
from visual_arft.envs.search.index.folder import Manifest, is_index, read_manifest
from visual_arft.envs.search.index.searcher import IndexSearcher

__all__ = ["IndexSearcher", "Manifest", "build", "is_index", "read_manifest"]
