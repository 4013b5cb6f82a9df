"""What our trainers change in those of TRL, whatever they teach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import Trainer as Base
else:
    Base = object


class QuietTrainer(Base):
    """To be named before a trainer of TRL: no reports home, no model cards, and resumption in several CPU processes."""

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The card is ours, and written once."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As transformers does it, where it may: of several CPU processes each has the device cpu:N, and torch.load
        knows only cpu."""
        if self.args.device.type == "cpu":
            self.args.__dict__["_setup_devices"] = torch.device("cpu")
        super()._load_optimizer_and_scheduler(checkpoint)
