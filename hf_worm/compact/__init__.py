"""Makes models smaller by what a ticket prunes, and says in their configurations how."""

from hf_worm.compact.cut import cut_, left_pruned, require_larger_units, require_units_to_cut, try_cut
from hf_worm.compact.record import RECORD, shrink_as_recorded_
from hf_worm.units.channels import HasChannels

__all__ = [
    "RECORD",
    "HasChannels",
    "cut_",
    "left_pruned",
    "require_larger_units",
    "require_units_to_cut",
    "shrink_as_recorded_",
    "try_cut",
]
