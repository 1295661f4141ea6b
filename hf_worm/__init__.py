"""Pruning while fine-tuning: early-bird tickets and WORM gradient truncation for the Hugging Face Trainer."""

from hf_worm.compact.load import load_compact
from hf_worm.config import WormConfig
from hf_worm.core.window import Observation
from hf_worm.search import TicketSearch
from hf_worm.ticket import Ticket
from hf_worm.trainer import WormCallback, WormTrainer, WormTrainerMixin
from hf_worm.units import RepresentativeLayer, representative_layers

__version__ = "0.2.0"

__all__ = [
    "Observation",
    "RepresentativeLayer",
    "Ticket",
    "TicketSearch",
    "WormCallback",
    "WormConfig",
    "WormTrainer",
    "WormTrainerMixin",
    "load_compact",
    "representative_layers",
]
