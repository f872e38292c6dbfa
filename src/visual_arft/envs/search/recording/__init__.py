"""Between the agent and the world: a record of every answer, and patience with every failure."""

from visual_arft.envs.search.recording.desk import Counts, Desk
from visual_arft.envs.search.recording.limits import Limits
from visual_arft.envs.search.recording.mode import Mode
from visual_arft.envs.search.recording.searcher import RecordedSearcher
from visual_arft.recording import Recording

__all__ = ["Counts", "Desk", "Limits", "Mode", "RecordedSearcher", "Recording"]
