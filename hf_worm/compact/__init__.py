"""Makes models smaller by what a ticket prunes, and says in their configurations how."""

from hf_worm.compact.channels import HasChannels
from hf_worm.compact.cut import cut_, left_pruned, require_larger_units, try_cut
from hf_worm.compact.record import RECORD, recorded
from hf_worm.compact.shrink import shrink_

__all__ = ["RECORD", "HasChannels", "cut_", "left_pruned", "recorded", "require_larger_units", "shrink_", "try_cut"]
