"""ACT: the attention that later sinks hold is moved to other tokens, at inference and without training."""

from sinkpretrain.calibration.act import Act, calibrate
from sinkpretrain.calibration.settings import Heads, Settings

__all__ = ["Act", "Heads", "Settings", "calibrate"]
